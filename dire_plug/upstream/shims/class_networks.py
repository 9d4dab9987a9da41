"""Let LPLD's module register its networks again in each pass, and build ours, aware of classes, instead of one.

Needed by LPLD `models/resnet_class.py` 734-846: torchvision keeps the names that it registers, and the module is
imported anew in each pass. Its BatchNorm layers take pairs of features and labels, keep a mean and a variance for each
class, and are what the loop's hooks read; ours get upstream's own layers, under the keys that they had.
"""

import sys
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torchvision.models import _api

from dire_plug.models import build

LAYER = "ClassAwareBatchNorm2d"


def install(*, device: str, replace: str = "", architecture: str = "", stem: str = "small") -> None:
    """Let modules register a network again; the one named `replace` becomes a class-aware `architecture`."""
    original = _api.register_model

    def register_model(name: str | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def register(build_theirs: Callable[..., Any]) -> Callable[..., Any]:
            key = name or build_theirs.__name__
            _api.BUILTIN_MODELS.pop(key, None)
            original(name)(build_theirs)
            if key != replace:
                return build_theirs

            def build_ours(*, num_classes: int = 1000, **ignored: Any) -> nn.Module:
                layer = getattr(sys.modules[build_theirs.__module__], LAYER)
                return class_aware(build(architecture, outputs=num_classes, stem=stem), layer, num_classes)

            return build_ours

        return register

    _api.register_model = register_model


def class_aware(network: nn.Module, layer: type[nn.BatchNorm2d], classes: int) -> nn.Module:
    """Change a network in place: its BatchNorm layers become `layer`s, and it takes labels beside images.

    Args:
        network: with the weights that it keeps.
        layer: upstream's class, made with (features, classes), whose `forward` takes a pair (features, labels).
        classes: the number of classes.
    """

    class Paired(layer):  # type: ignore[misc, valid-type]
        labels: Tensor | None = None

        def __call__(self, features: Tensor) -> Any:
            # here and not in `forward`: the loop's hooks read the pair
            return super().__call__((features, self.labels))

    def replaced(norm: nn.BatchNorm2d) -> nn.Module:
        made: nn.Module = Paired(norm.num_features, classes, eps=norm.eps, momentum=norm.momentum)
        made.load_state_dict(norm.state_dict(), strict=False)
        return made

    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, replaced(child))
    norms = [module for module in network.modules() if isinstance(module, Paired)]

    class ClassAware(type(network)):  # type: ignore[misc]
        def forward(self, images: Tensor, labels: Tensor | None = None) -> Any:
            for norm in norms:
                norm.labels = labels
            return super().forward(images)

    network.__class__ = ClassAware
    return network
