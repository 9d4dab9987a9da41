"""Choose real images that represent their class, by their embeddings: herding, k-center and k-means.

x̄ is the mean of the class's N embeddings, S what is chosen so far. No image is chosen twice, embeddings are taken as
they are (not normalised), and distances are Euclidean. Of one image, all three choose the one nearest to x̄.

- herding: the next image minimises ‖x̄ − mean(S ∪ {x})‖ (Welling, ICML 2009, as a rule for choosing exemplars in iCaRL,
  Rebuffi et al., CVPR 2017, Algorithm 4, which normalises embeddings before).
- k-center: the first image is the one nearest to x̄, the next one maximises its distance to the nearest of S (greedy
  k-center; Gonzalez 1985; Sener and Savarese, ICLR 2018, Algorithm 1).
- k-means: k clusters of the class (Lloyd's algorithm from k-means++), and for each centre the nearest image; where two
  centres would take the same one, the sum of distances decides.

Herding and k-center choose in an order: what they choose for a smaller count is the beginning of it. Ties go to the
earlier row.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from dire_plug.errors import DirePlugError


def choose_by_herding(values: Tensor, count: int) -> Tensor:
    """Return the rows that herding chooses, in its order: [count], int64.

    With c = x − x̄, the next row minimises ‖Σc of the chosen + c‖, so ‖c‖² + 2·c·Σc.

    Args:
        values: embeddings of one class, [N, D]; computed in float64.
        count: how many rows, 1 … N.

    Raises:
        DirePlugError: the shape or a value can't be used, or count is out of range.
    """
    centred = _centre(values, count)
    scores = centred.square().sum(1)
    chosen = torch.empty(count, dtype=torch.int64)
    for place in range(count):
        row = scores.argmin()
        chosen[place] = row
        # ‖Σ + c‖² without the common ‖Σ‖², so one product a step instead of a new mean
        scores += 2 * (centred @ centred[row])
        scores[row] = torch.inf
    return chosen


def choose_by_k_center(values: Tensor, count: int) -> Tensor:
    """Return the rows that the greedy k-center rule chooses, in its order: [count], int64.

    Args, raises: as `choose_by_herding`.
    """
    centred = _centre(values, count)
    row = centred.square().sum(1).argmin()
    nearest = torch.full((len(centred),), torch.inf, dtype=torch.float64)
    chosen = torch.empty(count, dtype=torch.int64)
    for place in range(count):
        chosen[place] = row
        nearest = torch.minimum(nearest, (centred - centred[row]).square().sum(1))
        nearest[chosen[: place + 1]] = -1  # before any duplicate of a chosen row, which has 0
        row = nearest.argmax()
    return chosen


def choose_by_k_means(values: Tensor, count: int, *, seed: int) -> Tensor:
    """Return the rows nearest to the centres of `count` clusters, ascending: [count], int64.

    Args:
        seed: of the first centres.

    Args otherwise, raises: as `choose_by_herding`.
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    rows = _centre(values, count)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different images than clusters: some centres agree
        found = KMeans(count, n_init=1, random_state=seed).fit(rows.numpy())
    # differences themselves: the product of matrices that cdist takes for many rows is rough near 0
    distances = torch.cdist(torch.from_numpy(found.cluster_centers_), rows, compute_mode="donot_use_mm_for_euclid_dist")
    _, chosen = linear_sum_assignment(distances.numpy())
    return torch.from_numpy(chosen).to(torch.int64).sort().values


def _centre(values: Tensor, count: int) -> Tensor:
    """Return the rows less their mean, in float64 on the CPU, so that every device chooses the same ones."""
    if values.ndim != 2 or not values.numel():
        raise DirePlugError(f"embeddings: their shape is {list(values.shape)}; [N, D] with at least one row is needed")
    if not 1 <= count <= len(values):
        raise DirePlugError(f"{count} images can't be chosen out of {len(values)}; ask for 1 to {len(values)}")
    if bad := int((~values.isfinite().all(1)).sum()):
        raise DirePlugError(
            f"embeddings: {bad} of {len(values)} rows hold NaN or infinity; look at the images and the teacher"
        )
    rows = values.detach().to("cpu", torch.float64)
    return rows - rows.mean(0)
