"""Read the two sizes that the shims for hard-coded crops take."""

from collections.abc import Mapping

from dire_plug.errors import DirePlugError


def read_sizes(shim: str, sizes: Mapping[str, int]) -> tuple[int, int]:
    """Return the hard-coded size and the dataset's.

    Raises:
        DirePlugError: the options are not `from` and `to`.
    """
    if sizes.keys() != {"from", "to"}:
        raise DirePlugError(
            f"shim '{shim}' takes the options 'from' (the hard-coded size) and 'to' (the dataset's); "
            f"it was given {dict(sizes)}"
        )
    return sizes["from"], sizes["to"]
