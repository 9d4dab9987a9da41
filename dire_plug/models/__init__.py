"""Networks by name, and their embeddings."""

from dire_plug.models.architectures import architectures, build, check_architecture
from dire_plug.models.embedding import embed, last_linear

__all__ = ["architectures", "build", "check_architecture", "embed", "last_linear"]
