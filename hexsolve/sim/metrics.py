"""Stretch and the figures made of it. Knows arrays of times; knows nothing of simulations."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hexsolve.errors import InputError


def stretches(arrival_ms: ArrayLike, finish_ms: ArrayLike, standalone_ms: ArrayLike) -> NDArray[np.float64]:
    """f8[W]: (finish - arrival) / H_w, H_w the makespan of the workflow alone on the same cluster.

    Raises
    ------
    InputError
        If the shapes differ or an H_w is not > 0.
    """
    arrival, finish, alone = (np.asarray(x, dtype=np.float64) for x in (arrival_ms, finish_ms, standalone_ms))
    if not arrival.shape == finish.shape == alone.shape:
        raise InputError(f"stretches: expected equal shapes, got {arrival.shape}, {finish.shape} and {alone.shape}")
    if not (alone > 0).all():
        raise InputError(f"standalone_ms[{int(np.argmin(alone > 0))}]: expected > 0, got {alone.min()}")
    result: NDArray[np.float64] = (finish - arrival) / alone
    return result


def required_scale(stretch: ArrayLike, share: float) -> float:
    """Req(share): the smallest SLO scale α met by at least `share` of the workflows (0.95 → Req95).

    Exactly the ceil(share·n)-th smallest stretch (HexAGenT §7), so it is always the stretch of some workflow.

    Raises
    ------
    InputError
        If there is no workflow or `share` is not in (0, 1].
    """
    ordered = np.sort(np.asarray(stretch, dtype=np.float64))
    if not (ordered.size and 0.0 < share <= 1.0):
        raise InputError(f"required scale: expected workflows and a share in (0, 1], got {ordered.size} and {share!r}")
    return float(ordered[max(0, math.ceil(share * ordered.size - 1e-9) - 1)])


def attainment(stretch: ArrayLike, scales: ArrayLike) -> NDArray[np.float64]:
    """f8[len(scales)]: share of the workflows with stretch <= α, for each SLO scale α."""
    ordered = np.sort(np.asarray(stretch, dtype=np.float64))
    met = np.searchsorted(ordered, np.asarray(scales, dtype=np.float64), side="right")
    shares: NDArray[np.float64] = met / max(1, ordered.size)
    return shares


def mean_stretch(stretch: ArrayLike) -> float:
    """Average stretch."""
    return float(np.mean(np.asarray(stretch, dtype=np.float64)))
