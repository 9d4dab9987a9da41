"""Networks small enough for a test."""

from torch import nn

from dire_plug.training.loop import initialised

CLASSES = 3


def make_network(seed: int, outputs: int = CLASSES) -> nn.Module:
    return initialised(
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Flatten(),
            nn.Linear(64, outputs),
        ),
        seed,
    )
