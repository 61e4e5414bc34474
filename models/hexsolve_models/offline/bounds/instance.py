"""Bounds of a whole instance, computed once and asked often. Knows the parts; knows no clock and no cluster."""

from fractions import Fraction
from math import ceil, floor, inf, nextafter

import numpy as np

from hexsolve_models.offline.bounds.mean import pool_mean
from hexsolve_models.offline.bounds.on_time import OnTime, most_on_time
from hexsolve_models.offline.bounds.paths import least_ratios, paths
from hexsolve_models.offline.bounds.pools import POOLS, PoolName, demand, pools_of
from hexsolve_models.offline.bounds.results import LateBound, RatioBound, Resource, heaviest
from hexsolve_models.offline.problem import OfflineProblem

Number = Fraction | float | int

_LARGEST = 2.0**20  # stretch beyond which nothing is looked for
_SMALLEST = 1e-6  # and below which nothing is told apart


class InstanceBounds:
    """Lower bounds that hold for every decision of a problem.

    Parameters
    ----------
    pools : pools to count with. "decode" counts `decode_work`, which every run of a cluster obeys but the referee
        cannot check, since a decision does not say when the work is done: leave it out to compare with exact optima.

    Raises
    ------
    ValueError
        If a call can be placed nowhere.
    """

    def __init__(self, problem: OfflineProblem, pools: tuple[PoolName, ...] = POOLS) -> None:
        self._problem = problem
        self._paths = paths(problem)
        self._pools = pools_of(problem, self._paths, pools)
        self._least = least_ratios(problem, self._paths.finish)

    def late_count(self, alpha: Number) -> LateBound:
        """Workflows that must have a stretch above `alpha` >= 0."""
        exact = _ratio("alpha", alpha)
        found = self._on_time(exact, None)
        count = self._problem.num_workflows - floor(found.count)
        return LateBound(exact, count, found.count, found.windows, found.share)

    def req(self, q: Number, relative_gap: float = 1e-3) -> RatioBound:
        """Req_q: the ceil(q W)-th smallest stretch, 0 < q <= 1.

        By bisection, to within `relative_gap` of what windows can prove.
        """
        share = _ratio("q", q)
        if not 0 < share <= 1:
            raise ValueError(f"q = {q}: expected 0 < q <= 1")
        need = ceil(share * self._problem.num_workflows)
        if not need:
            return RatioBound(0.0, 0.0, (), "path")
        path = _down(sorted(self._least)[need - 1])
        low, proof = path, None
        high = max(2.0 * low, 1.0)
        while high < _LARGEST:
            found = self._too_many(high, need)
            if found is None:
                break
            low, proof, high = high, found, 2.0 * high
        while high - low > relative_gap * high and high > _SMALLEST:
            middle = (low + high) / 2
            found = self._too_many(middle, need)
            if found is None:
                high = middle
            else:
                low, proof = middle, found
        windows = proof.windows if proof else ()
        return RatioBound(low, path, windows, heaviest(windows))

    def max_stretch(self, relative_gap: float = 1e-3) -> RatioBound:
        """The largest stretch."""
        return self.req(1, relative_gap)

    def mean_stretch(self) -> RatioBound:
        """The mean stretch."""
        path = _down(sum(self._least, Fraction(0)) / max(1, len(self._least)))
        best = path
        resource: Resource = "path"
        for pool in self._pools:
            mean = pool_mean(self._problem, self._paths, pool)
            if mean > best:
                best, resource = mean, pool.name
        return RatioBound(best, path, (), resource)

    def _too_many(self, alpha: float, need: int) -> OnTime | None:
        """The proof that `need` workflows cannot be on time, if one is found."""
        found = self._on_time(Fraction(alpha), need)
        return found if found.count < need else None

    def _on_time(self, alpha: Fraction, enough: int | None) -> OnTime:
        problem = self._problem
        pairs = zip(problem.release_tick.tolist(), problem.reference_ticks.tolist(), strict=True)
        due = np.array([release + floor(alpha * reference) for release, reference in pairs], dtype=np.int64)
        possible = self._paths.finish <= due
        demands = [demand(pool, due[problem.workflow]) for pool in self._pools]
        return most_on_time(demands, problem.workflow, possible, enough)


def _ratio(name: str, value: Number) -> Fraction:
    """Exactly what the number says."""
    if (isinstance(value, float) and not -inf < value < inf) or value < 0:
        raise ValueError(f"{name} = {value}: expected a finite number >= 0")
    return Fraction(value)


def _down(value: Fraction) -> float:
    """The largest double that is no larger."""
    near = float(value)
    return near if Fraction(near) <= value else nextafter(near, -inf)
