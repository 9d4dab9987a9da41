"""Diversity of condensed images: coverage, Vendi score and intra-class similarity of their embeddings."""

from dire_plug.metrics.coverage import class_radii, coverage, expected_coverage, nearest_radii, per_class_coverage
from dire_plug.metrics.diversity import Diversity, RealReference, diversity, real_reference
from dire_plug.metrics.similarity import intra_class_similarity
from dire_plug.metrics.vendi import mean_class_vendi, vendi

__all__ = [
    "Diversity",
    "RealReference",
    "class_radii",
    "coverage",
    "diversity",
    "expected_coverage",
    "intra_class_similarity",
    "mean_class_vendi",
    "nearest_radii",
    "per_class_coverage",
    "real_reference",
    "vendi",
]
