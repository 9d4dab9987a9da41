"""`dire-plug new regularizer`: a package with a term that works at once, and its test."""

from pathlib import Path

from dire_plug.scaffold.names import choose_names
from dire_plug.scaffold.writing import fill_templates, write_package


def new_regularizer(name: str, *, into: Path) -> Path:
    """Write the package of a regularizer; return its folder, which is below `into`.

    Raises:
        DirePlugError: the name can't be one or is taken, or the folder is there already.
    """
    names = choose_names("regularizers", name, into=into)
    write_package(names.folder, fill_templates("regularizer", names.values()))
    return names.folder
