"""What plugins see in the loop (`loop`), and what adapters must offer (`method`)."""

from dire_plug.types.loop import CORESET, Batch, Coreset, Plan, RealEmbeddings, Slot, SlotPlan, StartImages, Synthesis
from dire_plug.types.method import Adapter, Invocation, LoopInputs, Materials, Preparation, Script, Upstream, VerifyCase

__all__ = [
    "CORESET",
    "Adapter",
    "Batch",
    "Coreset",
    "Invocation",
    "LoopInputs",
    "Materials",
    "Plan",
    "Preparation",
    "RealEmbeddings",
    "Script",
    "Slot",
    "SlotPlan",
    "StartImages",
    "Synthesis",
    "Upstream",
    "VerifyCase",
]
