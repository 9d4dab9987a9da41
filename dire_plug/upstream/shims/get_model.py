"""One of our architectures in the place of a torchvision network that a script asks for by name.

Needed where a recipe's teacher is another network than SRe2L `recover_cifar.py` 178 or `recover_tiny.py` 97 build.
The scripts put their own `conv1` and `maxpool` into what they get, so the network must have both.
"""

from typing import Any

import torchvision
from torch import nn

from dire_plug.models import build


def install(*, device: str, replace: str, architecture: str, stem: str = "small") -> None:
    """Have `torchvision.models.get_model(replace)` and `torchvision.models.<replace>` build `architecture`."""
    original = torchvision.models.get_model

    def build_ours(*, num_classes: int = 1000, **ignored: Any) -> nn.Module:
        return build(architecture, outputs=num_classes, stem=stem)

    def get_model(name: str, **options: Any) -> nn.Module:
        found: nn.Module = build_ours(**options) if name == replace else original(name, **options)
        return found

    torchvision.models.get_model = get_model
    setattr(torchvision.models, replace, build_ours)
