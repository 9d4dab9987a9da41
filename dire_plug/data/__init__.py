"""Load real images: datasets by name, and where they are found."""

from dire_plug.data.dataset import Dataset, Split, normalisation_of, on_device
from dire_plug.data.loading import FOLDER, DatasetSource, class_count, default_root, find_all, load, names
from dire_plug.data.stand_in import stand_in
from dire_plug.data.validation import default_count, hold_out, validation_problems

__all__ = [
    "FOLDER",
    "Dataset",
    "DatasetSource",
    "Split",
    "class_count",
    "default_count",
    "default_root",
    "find_all",
    "hold_out",
    "load",
    "names",
    "normalisation_of",
    "on_device",
    "stand_in",
    "validation_problems",
]
