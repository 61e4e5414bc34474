"""What a bound says, and why. Knows numbers and names; computes nothing."""

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

from hexsolve_models.offline.bounds.pools import Floats, PoolName

Resource = PoolName | Literal["path"]


@dataclass(frozen=True)
class Window:
    """A stretch of time in which a pool is asked for much.

    Attributes
    ----------
    resource : the pool.
    start, end : ticks.
    load : what all workflows that can be on time at all would have to use of it there, over what there is.
    weight : share of the window in the proof, 0..1.
    """

    resource: PoolName
    start: int
    end: int
    load: float
    weight: float


@dataclass(frozen=True, eq=False)
class LateBound:
    """At least `count` workflows have a stretch above `alpha`, whatever is decided.

    Attributes
    ----------
    on_time : upper bound on the number of workflows in time before rounding down.
    windows : the windows of the proof, the heaviest first; none if some workflows cannot even make it alone and
        nothing else is late.
    share : [W] how much of each workflow the relaxation has on time; those near 0 are the ones to sacrifice.
    """

    alpha: Fraction
    count: int
    on_time: Fraction
    windows: tuple[Window, ...]
    share: Floats = field(repr=False)

    @property
    def resource(self) -> Resource:
        """The pool with the largest weight, or "path": workflows that are late even alone."""
        return heaviest(self.windows)


@dataclass(frozen=True)
class RatioBound:
    """A figure of the stretches (Req_q, the largest, the mean) is at least `alpha`, whatever is decided.

    Attributes
    ----------
    alpha : the bound, rounded down to a double.
    path : the bound by each workflow alone.
    windows : the windows of the proof, the heaviest first; empty where `path` is the bound.
    resource : what binds: a pool, or "path".
    """

    alpha: float
    path: float
    windows: tuple[Window, ...]
    resource: Resource


def heaviest(windows: tuple[Window, ...]) -> Resource:
    """The pool with the largest total weight; "path" without windows."""
    weights: dict[Resource, float] = {}
    for window in windows:
        weights[window.resource] = weights.get(window.resource, 0.0) + window.weight
    return max(weights, key=lambda name: weights[name]) if weights else "path"
