"""Read recipes (`loading`), check them (`model`, `check`) and resolve them for one arm (`resolve`)."""

from dire_plug.recipe.as_printed import AS_PRINTED, preset_names
from dire_plug.recipe.check import (
    DEFAULT_ARMS,
    METHOD_ARMS,
    PROBE,
    REAL_IMAGE_ARMS,
    SUBSET_ARMS,
    Catalogue,
    check_recipe,
    find_problems,
)
from dire_plug.recipe.loading import header, read_yaml, recipe_names, recipe_path
from dire_plug.recipe.model import Recipe
from dire_plug.recipe.resolve import Resolved, arm_names, as_file, counted, ladder_arms, resolve, without_terms

__all__ = [
    "AS_PRINTED",
    "DEFAULT_ARMS",
    "METHOD_ARMS",
    "PROBE",
    "REAL_IMAGE_ARMS",
    "SUBSET_ARMS",
    "Catalogue",
    "Recipe",
    "Resolved",
    "arm_names",
    "as_file",
    "check_recipe",
    "counted",
    "find_problems",
    "header",
    "ladder_arms",
    "preset_names",
    "read_yaml",
    "recipe_names",
    "recipe_path",
    "resolve",
    "without_terms",
]
