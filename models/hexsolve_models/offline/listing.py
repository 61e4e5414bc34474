"""Decisions from orders: one call after the other, each where it ends first. Knows queues and KV; proves nothing."""

import random
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from fractions import Fraction
from heapq import heapify, heappop, heappush

import numpy as np

from hexsolve_models.objective import Ints
from hexsolve_models.offline.goal import Goal
from hexsolve_models.offline.problem import OfflineDecision, OfflineProblem
from hexsolve_models.offline.windows import paths


class Listing:
    """A decision in the making; calls are added along the edges and never moved again."""

    def __init__(self, problem: OfflineProblem) -> None:
        n = problem.num_calls
        self._problem = problem
        self._queues: list[list[tuple[int, int]]] = [[] for _ in range(problem.num_prefill)]  # busy, by start
        self._held: list[list[tuple[int, int, int]]] = [[] for _ in range(problem.num_decode)]
        self._total = [0] * problem.num_decode
        self.finish = [0] * n
        self.placed: list[tuple[int, int, int, int]] = [(-1, -1, -1, -1)] * n

    def put(self, c: int, p: int, d: int, prefill_start: int, decode_start: int) -> None:
        """Add a call just so."""
        problem = self._problem
        work, ticks = int(problem.prefill_work[c, p]), int(problem.decode_ticks[c, d])
        if work:
            queue = self._queues[p]
            queue.insert(bisect_left(queue, (prefill_start, 0)), (prefill_start, prefill_start + work))
        blocks = int(problem.kv_blocks[c])
        self._held[d].append((decode_start, decode_start + ticks, blocks))
        self._total[d] += blocks
        self.finish[c] = decode_start + ticks
        self.placed[c] = p, d, prefill_start, decode_start

    def add(self, c: int, not_before: int = 0) -> None:
        """Add a call where it finishes first, its prefill in the first gap, no earlier than `not_before`."""
        problem = self._problem
        ready = max(not_before, int(problem.release_tick[problem.workflow[c]] + problem.ready_lag[c]))
        for before, lag in problem.parents[c]:
            ready = max(ready, self.finish[before] + lag)
        lags, best = problem.transfer(c), (2**62, 2**62, 0, 0, 0, 0)
        for p in np.flatnonzero(problem.prefill_allowed[c]).tolist():
            start = self._gap(p, ready, int(problem.prefill_work[c, p]))
            end = max(start + int(problem.prefill_work[c, p]), ready + int(problem.prefill_ticks[c, p]))
            for d in np.flatnonzero(problem.decode_allowed[c]).tolist():
                if end + lags[p, d] + problem.decode_ticks[c, d] <= best[0]:
                    begin = self._room(d, end + int(lags[p, d]), int(problem.decode_ticks[c, d]), c)
                    best = min(best, (begin + int(problem.decode_ticks[c, d]), end, p, d, start, begin))
        self.put(c, *best[2:])

    def decision(self) -> OfflineDecision:
        """All calls, once they are there."""
        columns: Ints = np.array(self.placed, dtype=np.int64).reshape(-1, 4)
        return OfflineDecision(*columns.T)

    def _gap(self, p: int, ready: int, work: int) -> int:
        start = ready
        if work:
            queue = self._queues[p]
            for begin, end in queue[max(0, bisect_left(queue, (ready, 0)) - 1) :]:
                if end <= start:
                    continue
                if begin >= start + work:
                    break
                start = end
        return start

    def _room(self, d: int, arrival: int, ticks: int, c: int) -> int:
        """First tick from `arrival` on at which the call's KV fits for `ticks`."""
        free = int(self._problem.kv_capacity[d] - self._problem.kv_blocks[c])
        if self._total[d] <= free or not ticks:
            return arrival
        starts = sorted({arrival, *(end for _, end, _ in self._held[d] if end > arrival)})
        return next(start for start in starts if self._peak(d, start, start + ticks) <= free)

    def _peak(self, d: int, start: int, end: int) -> int:
        spans = [span for span in self._held[d] if span[0] < end and span[1] > start]
        points = [start, *(begin for begin, _, _ in spans if begin > start)]
        return max(sum(k for begin, stop, k in spans if begin <= point < stop) for point in points)


def listed(problem: OfflineProblem, urgency: Sequence[float]) -> OfflineDecision:
    """Calls along the edges, smallest urgency first (float[N])."""
    listing = Listing(problem)
    for c in _in_order(problem, urgency, range(problem.num_calls)):
        listing.add(c)
    return listing.decision()


def completed(problem: OfflineProblem, partial: dict[int, tuple[int, int, int, int]]) -> OfflineDecision:
    """Whole workflows placed as (prefill, decode, prefill start, decode start), the others behind all of them."""
    listing = Listing(problem)
    for c, place in partial.items():
        listing.put(c, *place)
    end = max((listing.finish[c] for c in partial), default=0)
    for c in _in_order(problem, [0.0] * problem.num_calls, (c for c in range(problem.num_calls) if c not in partial)):
        listing.add(c, end)
    return listing.decision()


def first_decision(problem: OfflineProblem, goal: Goal, *, seed: int = 0) -> OfflineDecision:
    """The best of a few lists: most behind schedule first, for several scales, then the best one shaken.

    The fewer, the more calls there are: about 3,000 calls are listed, but no fewer than 5 lists.

    Raises
    ------
    ValueError
        If a call cannot be placed at all (`problem.blocked_calls()`).
    """
    blocked = problem.blocked_calls()
    if blocked:
        raise ValueError(f"calls {list(blocked[:10])} have no replica that can hold them: no decision to make")
    alone, rng = paths(problem), random.Random(seed)
    release, reference = problem.release_tick[problem.workflow], problem.reference_ticks[problem.workflow]
    tail = (alone.finish - alone.ready + alone.tail).astype(np.float64)
    found: list[tuple[Fraction, int, list[float], OfflineDecision]] = []

    def look(urgency: list[float]) -> None:
        decision = listed(problem, urgency)
        found.append((goal.value(problem, decision), len(found), urgency, decision))

    for scale in (0.0, 1.0, 1.5, 2.0, 4.0):
        look((release + scale * reference - tail).tolist())
    spread = float(tail.max(initial=0.0))
    for _ in range(min(50, 3000 // max(1, problem.num_calls)) - len(found)):
        _, _, best, _ = min(found)
        look([value + rng.gauss(0.0, 0.1) * spread for value in best])
    return min(found)[3]


def _in_order(problem: OfflineProblem, urgency: Sequence[float], calls: Iterable[int]) -> list[int]:
    chosen = set(calls)
    missing = {c: sum(before in chosen for before, _ in problem.parents[c]) for c in chosen}
    ready = [(urgency[c], c) for c, count in missing.items() if not count]
    heapify(ready)
    order = []
    while ready:
        _, c = heappop(ready)
        order.append(c)
        for after, _ in problem.children[c]:
            if after in chosen:
                missing[after] -= 1
                if not missing[after]:
                    heappush(ready, (urgency[after], after))
    return order
