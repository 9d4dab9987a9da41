"""Synthesize images: the running synthesis that both engines drive, and its finished passes."""

from dire_plug.synthesis.recording import gather_losses
from dire_plug.synthesis.running import RunningSynthesis, open_synthesis
from dire_plug.synthesis.saved_passes import collect, find_finished, find_seeded, join_batches, pass_file, seeded_files
from dire_plug.synthesis.spec import SynthesisSpec

__all__ = [
    "RunningSynthesis",
    "SynthesisSpec",
    "collect",
    "find_finished",
    "find_seeded",
    "gather_losses",
    "join_batches",
    "open_synthesis",
    "pass_file",
    "seeded_files",
]
