"""Networks by name, and their embeddings."""

from dire_plug.models.architectures import architectures, build
from dire_plug.models.embedding import embed, last_linear

__all__ = ["architectures", "build", "embed", "last_linear"]
