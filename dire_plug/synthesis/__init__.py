"""The object for one running synthesis, and its finished passes."""

from dire_plug.synthesis.passes import collect, finished_passes
from dire_plug.synthesis.recording import gather_losses
from dire_plug.synthesis.running import RunningSynthesis, SynthesisSpec, open_synthesis

__all__ = ["RunningSynthesis", "SynthesisSpec", "collect", "finished_passes", "gather_losses", "open_synthesis"]
