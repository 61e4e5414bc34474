"""When each call can be served if its workflow is to finish in time. Knows paths and deadlines; knows no queues.

Heads: what lies before a call at least, if nobody else were there. Tails: what lies behind it. models/README.md §9.4.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor

import numpy as np
import numpy.typing as npt

from hexsolve_models.objective import Ints
from hexsolve_models.offline.problem import OfflineProblem

Allowed = npt.NDArray[np.bool_]
_NEVER = 2**40


@dataclass(frozen=True)
class Paths:
    """Every call with nobody else there.

    Attributes
    ----------
    via : int64[N, P, D] from ready to finish through a pair; 2^40 where not allowed.
    ready : int64[N] earliest ready tick. finish : int64[N] earliest finish.
    tail : int64[N] least ticks from its finish to its workflow's.
    """

    via: Ints
    ready: Ints
    finish: Ints
    tail: Ints

    def workflow_finish(self, problem: OfflineProblem) -> Ints:
        """[W] F_w of every workflow alone."""
        last = np.zeros(problem.num_workflows, dtype=np.int64)
        np.maximum.at(last, problem.workflow, self.finish + self.tail)
        return last


@dataclass(frozen=True)
class Windows:
    """What is left to decide when every workflow has to finish by its deadline.

    Attributes
    ----------
    prefill, decode : bool[N, P], bool[N, D] replicas through which the call can be in time.
    latest : int64[N] latest finish.
    """

    paths: Paths
    prefill: Allowed
    decode: Allowed
    latest: Ints


def paths(problem: OfflineProblem) -> Paths:
    """Longest paths forward and backward over the fastest way through each call."""
    n = problem.num_calls
    via = np.empty((n, problem.num_prefill, problem.num_decode), dtype=np.int64)
    for c in range(n):
        through = problem.prefill_ticks[c][:, None] + problem.transfer(c) + problem.decode_ticks[c]
        pairs = problem.prefill_allowed[c][:, None] & problem.decode_allowed[c]
        via[c] = np.where(pairs, through, _NEVER)
    least = via.min(axis=(1, 2)) if n else np.zeros(0, dtype=np.int64)
    ready = problem.release_tick[problem.workflow] + problem.ready_lag
    tail = np.zeros(n, dtype=np.int64)
    for c in problem.topological:
        for before, lag in problem.parents[c]:
            ready[c] = max(ready[c], ready[before] + least[before] + lag)
    for c in reversed(problem.topological):
        for after, lag in problem.children[c]:
            tail[c] = max(tail[c], lag + least[after] + tail[after])
    return Paths(via, ready, ready + least, tail)


def windows(problem: OfflineProblem, alone: Paths, deadline: Sequence[int]) -> Windows:
    """Windows for deadlines by workflow (int[W])."""
    latest = np.array(deadline, dtype=np.int64)[problem.workflow] - alone.tail
    in_time: Allowed = alone.ready[:, None, None] + alone.via <= latest[:, None, None]
    return Windows(alone, np.any(in_time, axis=2), np.any(in_time, axis=1), latest)


def last_tick(problem: OfflineProblem, ratio: Fraction, w: int) -> int:
    """Largest F_w with R_w <= ratio."""
    return int(problem.release_tick[w]) + floor(ratio * int(problem.reference_ticks[w]))


def deadlines(problem: OfflineProblem, ratio: Fraction) -> list[int]:
    """[W] largest F_w with R_w <= ratio."""
    return [last_tick(problem, ratio, w) for w in range(problem.num_workflows)]


def least_above(problem: OfflineProblem, ratio: Fraction) -> Fraction:
    """The least stretch above `ratio` that any workflow can have, finishes being whole ticks."""
    return min(
        Fraction(last_tick(problem, ratio, w) + 1 - int(problem.release_tick[w]), int(problem.reference_ticks[w]))
        for w in range(problem.num_workflows)
    )
