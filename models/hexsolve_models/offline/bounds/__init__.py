"""Lower bounds for every decision of a whole instance, without a search. Knows problems; knows no simulator.

Each bound and its proof: models/README.md, "Bounds of a whole instance".
"""

from hexsolve_models.offline.bounds.instance import InstanceBounds, Number
from hexsolve_models.offline.bounds.results import LateBound, RatioBound, Window
from hexsolve_models.offline.problem import OfflineProblem

__all__ = [
    "InstanceBounds",
    "LateBound",
    "RatioBound",
    "Window",
    "late_count_bound",
    "max_stretch_bound",
    "mean_stretch_bound",
    "req_bound",
]


def late_count_bound(problem: OfflineProblem, alpha: Number) -> LateBound:
    """See `InstanceBounds.late_count`."""
    return InstanceBounds(problem).late_count(alpha)


def req_bound(problem: OfflineProblem, q: Number) -> RatioBound:
    """See `InstanceBounds.req`."""
    return InstanceBounds(problem).req(q)


def max_stretch_bound(problem: OfflineProblem) -> RatioBound:
    """See `InstanceBounds.max_stretch`."""
    return InstanceBounds(problem).max_stretch()


def mean_stretch_bound(problem: OfflineProblem) -> RatioBound:
    """See `InstanceBounds.mean_stretch`."""
    return InstanceBounds(problem).mean_stretch()
