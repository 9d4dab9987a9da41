"""Build one of our architectures instead of a torchvision network that a script names.

Needed where a recipe's teacher is another network than the script builds: by `get_model` (SRe2L `recover_cifar.py` 178,
`recover_tiny.py` 97, CDA `recover_cda_tiny.py` 194, DELT `recover.py` 234, `data_selection.py` 72-138), or as
`torchvision.models.resnet18` (DWA `distillation_cifar.py` 138, `distillation_tiny.py` 159, INFER `ufc_cifar.py` 139,
169).
The scripts put their own `conv1` and `maxpool` into what they get, so the network must have both.
"""

from typing import Any

import torchvision
from torch import nn

from dire_plug.errors import DirePlugError
from dire_plug.models import build


def install(*, device: str, replace: str, architecture: str, stem: str = "small") -> None:
    """Let `torchvision.models.get_model(replace)` and `torchvision.models.<replace>` build `architecture`."""
    original = torchvision.models.get_model

    def build_ours(*, num_classes: int = 1000, **options: Any) -> nn.Module:
        if options.get("weights") or options.get("pretrained"):  # `pretrained` is torchvision's older word for it
            raise DirePlugError(
                f"upstream asks for trained weights of '{replace}', but '{architecture}', which replaces it, "
                "has none; give the weights as a file and leave the network as it is"
            )
        return build(architecture, outputs=num_classes, stem=stem)

    def get_model(name: str, **options: Any) -> nn.Module:
        found: nn.Module = build_ours(**options) if name == replace else original(name, **options)
        return found

    torchvision.models.get_model = get_model
    setattr(torchvision.models, replace, build_ours)
