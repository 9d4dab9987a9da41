"""Python imports this by itself where its folder is on the path: it puts a mutant into the package."""

import os

import pytest
from support.mutants import BRIDGES

BRIDGES[os.environ["DIRE_PLUG_MUTANT"]](pytest.MonkeyPatch())
