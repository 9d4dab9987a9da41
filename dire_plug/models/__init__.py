"""Build networks by name, embed images in them, and translate their keys to those of the methods' code."""

from dire_plug.models.architectures import (
    architectures,
    build,
    check_architecture,
    check_size,
    least_size,
    nonnegative,
    stem_like,
    stems,
)
from dire_plug.models.embedding import embed, last_linear
from dire_plug.models.upstream_keys import upstream_keys

__all__ = [
    "architectures",
    "build",
    "check_architecture",
    "check_size",
    "embed",
    "last_linear",
    "least_size",
    "nonnegative",
    "stem_like",
    "stems",
    "upstream_keys",
]
