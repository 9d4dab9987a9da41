"""Run the published code of dataset-condensation methods with a regularizer in its loss."""

__version__ = "0.1.0"
