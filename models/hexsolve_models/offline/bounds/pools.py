"""What calls take of each pool, and when at the latest. Knows replicas as rates of capacity; knows no bound.

A call takes `height` of one replica's capacity for `length` ticks, inside a window that ends with its workflow's due
tick. Replicas that no call can tell apart are one *kind*.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import linprog

from hexsolve_models.objective import Ints
from hexsolve_models.offline.bounds.paths import NEVER, Paths
from hexsolve_models.offline.problem import OfflineProblem

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
PoolName = Literal["prefill", "decode", "kv"]
POOLS: tuple[PoolName, ...] = ("prefill", "decode", "kv")

_SAMPLE = 160  # calls that the prices of replicas are computed from


@dataclass(frozen=True, eq=False)
class Pool:
    """N calls, K kinds of replica.

    Attributes
    ----------
    name : "prefill", "decode" or "kv".
    start : [N, K] earliest tick at which the call can be at work on the kind.
    length : [N, K] ticks for which it takes `height`.
    span : [N, K] >= length: ticks it is there at least.
    tail : [N, K] least time from leaving the kind to the workflow's finish.
    height : [N] capacity it takes meanwhile.
    allowed : [N, K].
    capacity : [K] of all replicas of the kind together.
    in_one_piece : the length is one stretch; else it may be anywhere in the window.
    """

    name: PoolName
    start: Ints
    length: Ints
    span: Ints
    tail: Ints
    height: Ints
    allowed: Bools
    capacity: Ints
    in_one_piece: bool


@dataclass(frozen=True, eq=False)
class Demand:
    """A pool under due ticks: window [start, end] of every call on every kind it can still use in time.

    Attributes
    ----------
    end : [N, K] latest end; allowed : [N, K] kinds on which the call can be in time.
    """

    pool: Pool
    end: Ints
    allowed: Bools

    def within(self, first: int, last: int, prices: Floats) -> Floats:
        """[N] least price of what a call takes between the ticks `first` < `last`, over the kinds it can use.

        A stretch of length a in the window [s, e] overlaps [first, last] by at least min(a, last - first,
        s + a - first, last - (e - a)): the least is reached at one of the ends of the window.
        """
        pool = self.pool
        if pool.in_one_piece:
            least = np.minimum(pool.length, last - first)
            least = np.minimum(least, pool.start + pool.length - first)
            taken = np.maximum(np.minimum(least, last - (self.end - pool.length)), 0)
        else:
            taken = np.where((pool.start >= first) & (self.end <= last), pool.length, 0)
        return self._cheapest(taken, prices)

    def whole(self, prices: Floats) -> Floats:
        """[N] least price of all that a call takes."""
        return self._cheapest(self.pool.length, prices)

    def _cheapest(self, taken: Ints, prices: Floats) -> Floats:
        priced = np.where(self.allowed, prices * taken, np.inf).min(axis=1)
        cheapest: Floats = np.where(np.isfinite(priced), priced, 0.0) * self.pool.height
        return cheapest


def demand(pool: Pool, due: Ints) -> Demand:
    """`due` [N]: due tick of each call's workflow."""
    end = due[:, None] - pool.tail
    return Demand(pool, end, pool.allowed & (pool.start + pool.span <= end))


def pools_of(problem: OfflineProblem, found: Paths, names: tuple[PoolName, ...] = POOLS) -> list[Pool]:
    """The pools that calls take anything of."""
    pools = [_MAKERS[name](problem, found) for name in names]
    return [_by_kind(pool) for pool in pools if (pool.length * pool.height[:, None])[pool.allowed].any()]


def _prefill(problem: OfflineProblem, found: Paths) -> Pool:
    """Prefill work has its replica to itself; it ends before the transfer begins."""
    return Pool(
        name="prefill",
        start=np.broadcast_to(found.ready[:, None], problem.prefill_work.shape),
        length=problem.prefill_work,
        span=problem.prefill_ticks,
        tail=found.after_prefill + found.rest[:, None],
        height=np.ones(problem.num_calls, dtype=np.int64),
        allowed=problem.prefill_allowed & (found.after_prefill < NEVER),
        capacity=np.ones(problem.num_prefill, dtype=np.int64),
        in_one_piece=True,
    )


def _decode(problem: OfflineProblem, found: Paths) -> Pool:
    """Decode work is spread over a decode as the batches come."""
    ones = np.ones(problem.num_calls, dtype=np.int64), np.ones(problem.num_decode, dtype=np.int64)
    return _on_decode(problem, found, "decode", problem.decode_work, *ones)


def _kv(problem: OfflineProblem, found: Paths) -> Pool:
    """KV energy: blocks times ticks."""
    return _on_decode(problem, found, "kv", problem.decode_ticks, problem.kv_blocks, problem.kv_capacity)


def _on_decode(
    problem: OfflineProblem, found: Paths, name: PoolName, length: Ints, height: Ints, capacity: Ints
) -> Pool:
    return Pool(
        name=name,
        start=found.ready[:, None] + found.until_decode,
        length=length,
        span=problem.decode_ticks,
        tail=np.broadcast_to(found.rest[:, None], length.shape),
        height=height,
        allowed=problem.decode_allowed & (found.until_decode < NEVER),
        capacity=capacity,
        in_one_piece=name == "kv",  # its KV stands all the time, its work comes and goes
    )


_MAKERS: dict[PoolName, Callable[[OfflineProblem, Paths], Pool]] = {"prefill": _prefill, "decode": _decode, "kv": _kv}


def _by_kind(pool: Pool) -> Pool:
    """Merge replicas with equal columns."""
    columns = np.concatenate([pool.start, pool.length, pool.span, pool.tail, pool.allowed]).T
    _, one_of, kind = np.unique(columns, axis=0, return_index=True, return_inverse=True)
    capacity = np.bincount(kind.ravel(), weights=pool.capacity).astype(np.int64)
    return Pool(
        name=pool.name,
        start=pool.start[:, one_of],
        length=pool.length[:, one_of],
        span=pool.span[:, one_of],
        tail=pool.tail[:, one_of],
        height=pool.height,
        allowed=pool.allowed[:, one_of],
        capacity=capacity,
        in_one_piece=pool.in_one_piece,
    )


def prices(asked: Demand, weight: Floats) -> Floats:
    """[K] prices at which the calls with `weight` [N] >= 0 are the dearest for the pool: its capacity costs 1 a tick.

    Any prices give a valid bound. These are the dual of sharing the work out over the kinds as evenly as possible,
    max sum of weight_c v_c with v_c <= price_k * work_ck and sum of price_k * capacity_k = 1, on a sample of the calls.
    """
    pool = asked.pool
    kinds = pool.capacity.size
    usable = pool.capacity > 0
    even = usable / max(1, int(pool.capacity.sum()))
    calls = np.flatnonzero((weight > 0) & asked.allowed.any(axis=1))
    if usable.sum() < 2 or not calls.size:
        return even
    calls = calls[np.linspace(0, calls.size - 1, min(calls.size, _SAMPLE)).astype(np.int64)]
    work = (pool.length * pool.height[:, None])[calls].astype(np.float64)
    scale = max(1.0, float(work.max()))
    row, kind = np.nonzero(asked.allowed[calls] & usable)
    count = np.arange(row.size)
    matrix = np.zeros((row.size, calls.size + kinds))
    matrix[count, row] = 1.0
    matrix[count, calls.size + kind] = -work[row, kind] / scale
    unit = np.concatenate([np.zeros(calls.size), pool.capacity.astype(np.float64)])
    unit /= unit.max()
    result = linprog(
        -np.concatenate([weight[calls], np.zeros(kinds)]),
        A_ub=matrix,
        b_ub=np.zeros(row.size),
        A_eq=unit[None, :],
        b_eq=[1.0],
        bounds=(0.0, None),
        method="highs",
    )
    if result.x is None:
        return even
    found = np.maximum(result.x[calls.size :], 0.0)
    total = float((found * pool.capacity).sum())
    return np.asarray(found / total, dtype=np.float64) if total > 0 else even
