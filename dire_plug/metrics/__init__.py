"""Measure the diversity of condensed images: coverage, Vendi score and intra-class similarity of their embeddings."""

from dire_plug.metrics.coverage import Prdc, coverage, expected_coverage, per_class_coverage, prdc_metrics
from dire_plug.metrics.distances import class_radii, nearest_radii
from dire_plug.metrics.diversity import Diversity, Neighbourhoods, RealReference, diversity, real_reference
from dire_plug.metrics.similarity import intra_class_similarity, mean_class_vendi, vendi

__all__ = [
    "Diversity",
    "Neighbourhoods",
    "Prdc",
    "RealReference",
    "class_radii",
    "coverage",
    "diversity",
    "expected_coverage",
    "intra_class_similarity",
    "mean_class_vendi",
    "nearest_radii",
    "per_class_coverage",
    "prdc_metrics",
    "real_reference",
    "vendi",
]
