"""Compiled local search over prefill queues and replicas of one epoch problem. Knows `Problem`; knows no solver.

Simulated annealing (Kirkpatrick et al., Science 1983) with insert, swap and reassign moves. A move changes at most two
prefill queues and two decode replicas; only what it touches is scheduled again, and a journal takes it back if it is
not accepted. Decodes start when their KV arrives; only where KV could bind is a replica scheduled call by call, in
order of prefill start, as `timetable` would. Deterministic by seed: own random numbers, no calls of a math library.
"""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hexsolve.jit import kernel, leaf, long_kernel
from hexsolve.tables import Floats, Ints
from hexsolve_models import Decision, Problem, cost
from hexsolve_models.timetable import held_segments

NEVER = 2**60
_START_HEAT, _END_HEAT = 3e-3, 1e-6  # accepted loss relative to the cost, at the start and at the end
_CALLS_PER_LOOK = 8192  # moves x calls between two looks at the clock: 0.2-0.5 ms


class Board(NamedTuple):
    """The problem as the kernel reads it. S cost stages: the objective, then the caps."""

    prefill_ticks: Ints  # [N, P], -1 where not allowed
    decode_ticks: Ints  # [N, D], -1 where not allowed
    crowding: Ints  # [N, D]
    uncrowded: Ints  # [D]
    lag: Ints  # [2, P, D] base and rate
    calls: Ints  # [N, 6] columns MOVED, BLOCKS, RELEASE, LOCKED, WORKFLOW, TAIL
    free_tick: Ints  # [P]
    capacity: Ints  # [D]
    held: Ints  # [2, D, room] ticks and blocks
    held_len: Ints  # [D]
    held_peak: Ints  # [D]
    members: Ints  # [N] calls by workflow
    members_from: Ints  # [W + 1]
    child: Ints  # [E] calls that wait for call c: child_from[c]..child_from[c + 1]
    child_from: Ints  # [N + 1]
    parent: Ints  # [2, E] call and lag, by `parent_from`
    parent_from: Ints  # [N + 1]
    slope: Floats  # [S, W, K]
    intercept: Floats
    step: Floats  # [S, 2, W] due tick and its weight
    weight: Floats  # [S, N]
    is_max: Ints  # [S]
    cap: Floats  # [S], inf for the objective
    sources: Ints  # [N, P] allowed prefill replicas, then -1
    targets: Ints  # [N, D] allowed decode replicas, then -1
    number: Ints  # [N, 2] how many
    nearest: Ints  # [N, P] decode replica with the earliest finish behind each prefill replica
    chance: Floats  # [1024] exponential quantiles


MOVED, BLOCKS, RELEASE, LOCKED, WORKFLOW, TAIL = range(6)


class Schedule(NamedTuple):
    """What the search changes, and the journal that takes a move back."""

    queue: Ints  # [P, N]
    queue_len: Ints  # [P]
    place: Ints  # [N] index in its queue
    prefill: Ints  # [N]
    decode: Ints  # [N]
    beside: Ints  # [D, N] calls on a decode replica
    beside_len: Ints  # [D]
    beside_at: Ints  # [N]
    kv: Ints  # [D] blocks of the calls on it
    time: Ints  # [N, 5] columns RELEASED, START, ARRIVAL, DECODE, FINISH
    last: Ints  # [W] F_w
    price: Floats  # [S, W]
    total: Floats  # [S] cost
    own: Floats  # [S] the weighted finishes in it
    touched: Ints  # [N] number of the move that last wrote a call to the journal
    touched_flow: Ints  # [W]
    journal: Ints  # [N, 6] call, then its old times
    journal_flow: Ints  # [W] workflow
    journal_last: Ints  # [W]
    journal_price: Floats  # [S, W]
    dirty_queue: Ints  # [P, 2] first and last changed index; (NEVER, -1) if clean
    dirty_decode: Ints  # [D]
    number: Ints  # [8] columns below
    random: Ints  # [2]
    profile: Ints  # [2, room + 2 N] scratch of a tight replica
    order: Ints  # [N] scratch


RELEASED, START, ARRIVAL, DECODE, FINISH = range(5)
MOVE, JOURNAL, JOURNAL_FLOW, WORK, ACCEPTED = range(5)


@leaf
def _below(s: Schedule, n: int) -> int:
    """A random integer in 0..n-1 (L'Ecuyer's combined generator, CACM 1988: products stay below 2^53)."""
    s.random[0] = (40014 * s.random[0]) % 2147483563
    s.random[1] = (40692 * s.random[1]) % 2147483399
    mixed = (s.random[0] - s.random[1]) % 2147483562
    return int((mixed * n) // 2147483562)


@leaf
def _lag(b: Board, c: int, p: int, d: int) -> int:
    return int(b.lag[0, p, d] + (b.lag[1, p, d] * b.calls[c, MOVED] + 1023 >> 10))


@leaf
def _note(s: Schedule, c: int) -> None:
    """Write the times of a call to the journal before its first change in this move."""
    if s.touched[c] != s.number[MOVE]:
        s.touched[c] = s.number[MOVE]
        row = s.number[JOURNAL]
        s.journal[row, 0] = c
        for i in range(5):
            s.journal[row, i + 1] = s.time[c, i]
        s.number[JOURNAL] = row + 1


@leaf
def _decode_ticks(b: Board, s: Schedule, c: int, d: int) -> int:
    excess = s.beside_len[d] - b.uncrowded[d]
    if excess > 0:
        return int(b.decode_ticks[c, d] + excess * b.crowding[c, d])
    return int(b.decode_ticks[c, d])


@leaf
def _set_decode(b: Board, s: Schedule, c: int, start: int, finish: int) -> None:
    """A call decodes over [start, finish); its children may have to wait longer or less."""
    if s.time[c, DECODE] == start and s.time[c, FINISH] == finish:
        return
    _note(s, c)
    s.time[c, DECODE], s.time[c, FINISH] = start, finish
    w = b.calls[c, WORKFLOW]
    if s.touched_flow[w] != s.number[MOVE]:
        s.touched_flow[w] = s.number[MOVE]
        row = s.number[JOURNAL_FLOW]
        s.journal_flow[row] = w
        s.number[JOURNAL_FLOW] = row + 1
    for e in range(b.child_from[c], b.child_from[c + 1]):
        _release(b, s, b.child[e])


@leaf
def _release(b: Board, s: Schedule, c: int) -> None:
    """Find the release of a call again from all it waits for."""
    released = b.calls[c, RELEASE]
    for e in range(b.parent_from[c], b.parent_from[c + 1]):
        by_parent = s.time[b.parent[0, e], FINISH] + b.parent[1, e]
        if by_parent > released:
            released = by_parent
    if released != s.time[c, RELEASED]:
        _note(s, c)
        s.time[c, RELEASED] = released
        if s.place[c] >= 0:
            _mark(s, s.prefill[c], s.place[c])


@leaf
def _mark(s: Schedule, p: int, at: int) -> None:
    """The queue of `p` has changed at index `at`."""
    if at < s.dirty_queue[p, 0]:
        s.dirty_queue[p, 0] = at
    if at > s.dirty_queue[p, 1]:
        s.dirty_queue[p, 1] = at


@leaf
def _is_tight(b: Board, s: Schedule, d: int) -> bool:
    return bool(s.kv[d] + b.held_peak[d] > b.capacity[d])


@leaf
def _schedule_queue(b: Board, s: Schedule, p: int) -> None:
    """Prefill again from the first dirty place on; decodes on replicas with room follow at once."""
    first, last = s.dirty_queue[p, 0], s.dirty_queue[p, 1]
    s.dirty_queue[p, 0], s.dirty_queue[p, 1] = NEVER, -1
    now = b.free_tick[p]
    if first > 0:
        before = s.queue[p, first - 1]
        now = s.time[before, START] + b.prefill_ticks[before, p]
    for i in range(first, s.queue_len[p]):
        c = s.queue[p, i]
        start = now
        if s.time[c, RELEASED] > start:
            start = s.time[c, RELEASED]
        now = start + b.prefill_ticks[c, p]
        d = s.decode[c]
        arrival = now + _lag(b, c, p, d)
        s.number[WORK] += 1
        if start == s.time[c, START] and arrival == s.time[c, ARRIVAL]:
            if i > last:
                return  # from here on nothing changes
            if s.touched[c] != s.number[MOVE]:
                continue
        else:
            _note(s, c)
            s.time[c, START], s.time[c, ARRIVAL] = start, arrival
        if _is_tight(b, s, d):
            s.dirty_decode[d] = 1
        else:
            _set_decode(b, s, c, arrival, arrival + _decode_ticks(b, s, c, d))


@leaf
def _comes_before(b: Board, s: Schedule, c: int, other: int) -> bool:
    """Order in which a tight decode replica takes calls: locked ones as they came, free ones by prefill start."""
    mine, its = s.time[c, START], s.time[other, START]
    return bool(mine < its or (mine == its and c < other))


@leaf
def _schedule_decode(b: Board, s: Schedule, d: int) -> None:
    """Decode every call of a replica again: at arrival where there is room for all, else each at its earliest fit."""
    s.dirty_decode[d] = 0
    n = s.beside_len[d]
    s.number[WORK] += n
    if not _is_tight(b, s, d):
        for i in range(n):
            c = s.beside[d, i]
            _set_decode(b, s, c, s.time[c, ARRIVAL], s.time[c, ARRIVAL] + _decode_ticks(b, s, c, d))
        return
    for i in range(n):
        c = s.beside[d, i]
        x = i
        while x > 0 and _comes_before(b, s, c, s.order[x - 1]):
            s.order[x] = s.order[x - 1]
            x -= 1
        s.order[x] = c
    length = b.held_len[d]
    for x in range(length):
        s.profile[0, x], s.profile[1, x] = b.held[0, d, x], b.held[1, d, x]
    for i in range(n):
        c = s.order[i]
        start, ticks = s.time[c, ARRIVAL], _decode_ticks(b, s, c, d)
        for x in range(length):
            if s.profile[0, x] >= start + ticks:
                break
            is_last = x + 1 == length
            if (is_last or s.profile[0, x + 1] > start) and s.profile[1, x] + b.calls[c, BLOCKS] > b.capacity[d]:
                start = s.profile[0, x + 1]  # the last step is empty, so a full one has a successor
        _set_decode(b, s, c, start, start + ticks)
        for end in range(2):
            cut = start + ticks * end
            x = length
            while s.profile[0, x - 1] > cut:
                x -= 1
            if s.profile[0, x - 1] < cut:
                for y in range(length, x, -1):
                    s.profile[0, y], s.profile[1, y] = s.profile[0, y - 1], s.profile[1, y - 1]
                s.profile[0, x], s.profile[1, x] = cut, s.profile[1, x - 1]
                length += 1
        for x in range(length):
            if start <= s.profile[0, x] < start + ticks:
                s.profile[1, x] += b.calls[c, BLOCKS]


@leaf
def _settle(b: Board, s: Schedule, passes: int) -> bool:
    """Schedule everything dirty again; False if that takes more than `passes` over all calls.

    Then calls wait for one another in a circle or, given few passes, in a long chain.
    """
    limit = s.number[WORK] + 64 + passes * b.calls.shape[0]
    again = True
    while again:
        again = False
        for p in range(b.free_tick.shape[0]):
            if s.dirty_queue[p, 0] < NEVER:
                _schedule_queue(b, s, p)
                again = True
        for d in range(b.capacity.shape[0]):
            if s.dirty_decode[d] == 1:
                _schedule_decode(b, s, d)
                again = True
        if b.parent.shape[1] > 0 and s.number[WORK] > limit:
            return False
    return True


@leaf
def _price(b: Board, k: int, w: int, last: int) -> float:
    finish = float(last)
    best = b.slope[k, w, 0] * finish + b.intercept[k, w, 0]
    for i in range(1, b.slope.shape[2]):
        line = b.slope[k, w, i] * finish + b.intercept[k, w, i]
        if line > best:
            best = line
    if finish > b.step[k, 0, w]:
        best += b.step[k, 1, w]
    return float(best)


@leaf
def _rate(b: Board, s: Schedule) -> None:
    """Bring workflow finishes, prices and totals up to date with the journal."""
    for x in range(s.number[JOURNAL_FLOW]):
        w = s.journal_flow[x]
        last = 0
        for y in range(b.members_from[w], b.members_from[w + 1]):
            c = b.members[y]
            if s.time[c, FINISH] + b.calls[c, TAIL] > last:
                last = s.time[c, FINISH] + b.calls[c, TAIL]
        s.journal_last[x] = s.last[w]
        s.last[w] = last
        for k in range(b.cap.shape[0]):
            s.journal_price[k, x] = s.price[k, w]
            s.price[k, w] = _price(b, k, w, last)
    for k in range(b.cap.shape[0]):
        own = s.own[k]
        for x in range(s.number[JOURNAL]):
            c = s.journal[x, 0]
            s.own[k] += b.weight[k, c] * float(s.time[c, FINISH] - s.journal[x, FINISH + 1])
        if b.is_max[k] == 1:
            largest = s.price[k, 0]
            for w in range(1, s.last.shape[0]):
                if s.price[k, w] > largest:
                    largest = s.price[k, w]
            s.total[k] = largest + s.own[k]
        else:
            for x in range(s.number[JOURNAL_FLOW]):
                s.total[k] += s.price[k, s.journal_flow[x]] - s.journal_price[k, x]
            s.total[k] += s.own[k] - own


@leaf
def _take(b: Board, s: Schedule, c: int) -> None:
    """Take a free call out of its prefill queue."""
    p, at = s.prefill[c], s.place[c]
    n = s.queue_len[p] - 1
    for i in range(at, n):
        other = s.queue[p, i + 1]
        s.queue[p, i] = other
        s.place[other] = i
    s.queue_len[p] = n
    s.place[c] = -1
    _mark(s, p, at)


@leaf
def _put(b: Board, s: Schedule, c: int, p: int, at: int) -> None:
    """Put a free call into a prefill queue before the one at index `at`."""
    for i in range(s.queue_len[p], at, -1):
        other = s.queue[p, i - 1]
        s.queue[p, i] = other
        s.place[other] = i
    s.queue[p, at] = c
    s.queue_len[p] += 1
    s.place[c], s.prefill[c] = at, p
    _mark(s, p, at)


@leaf
def _bind(b: Board, s: Schedule, c: int, d: int) -> None:
    """Move a call to another decode replica; whoever is slowed down or freed there is scheduled again."""
    old = s.decode[c]
    if old == d:
        return
    was_tight, will_be_tight = _is_tight(b, s, old), False
    n = s.beside_len[old] - 1
    other = s.beside[old, n]
    s.beside[old, s.beside_at[c]] = other
    s.beside_at[other] = s.beside_at[c]
    s.beside_len[old] = n
    s.kv[old] -= b.calls[c, BLOCKS]
    s.beside[d, s.beside_len[d]] = c
    s.beside_at[c] = s.beside_len[d]
    s.beside_len[d] += 1
    s.kv[d] += b.calls[c, BLOCKS]
    s.decode[c] = d
    will_be_tight = _is_tight(b, s, d)
    if was_tight or n >= b.uncrowded[old]:
        s.dirty_decode[old] = 1
    if will_be_tight or s.beside_len[d] > b.uncrowded[d]:
        s.dirty_decode[d] = 1
    if s.place[c] >= 0:
        _mark(s, s.prefill[c], s.place[c])
    _note(s, c)  # its arrival changes even if its prefill does not


@leaf
def _undo_times(b: Board, s: Schedule) -> None:
    for x in range(s.number[JOURNAL]):
        c = s.journal[x, 0]
        for i in range(5):
            s.time[c, i] = s.journal[x, i + 1]
    for p in range(b.free_tick.shape[0]):
        s.dirty_queue[p, 0], s.dirty_queue[p, 1] = NEVER, -1
    for d in range(b.capacity.shape[0]):
        s.dirty_decode[d] = 0


@leaf
def _undo_prices(b: Board, s: Schedule, totals: Floats) -> None:
    for x in range(s.number[JOURNAL_FLOW]):
        w = s.journal_flow[x]
        s.last[w] = s.journal_last[x]
        for k in range(b.cap.shape[0]):
            s.price[k, w] = s.journal_price[k, x]
    for k in range(b.cap.shape[0]):
        s.total[k], s.own[k] = totals[k, 0], totals[k, 1]


@leaf
def _restore(b: Board, s: Schedule, before: Ints, count: int) -> None:
    """Put calls back where they were: rows of `before` are call, prefill replica, place, decode replica."""
    for x in range(count):
        if s.place[before[x, 0]] >= 0:
            _take(b, s, before[x, 0])
    # By increasing place: in a queue that both share, the later place exists only when the earlier one is taken.
    swapped = count == 2 and before[1, 2] < before[0, 2]
    for x in range(count):
        y = 1 - x if swapped else x
        c = before[y, 0]
        _bind(b, s, c, before[y, 3])
        if before[y, 2] >= 0:
            _put(b, s, c, before[y, 1], before[y, 2])


@leaf
def _remember(s: Schedule, before: Ints, x: int, c: int) -> None:
    before[x, 0], before[x, 1], before[x, 2], before[x, 3] = c, s.prefill[c], s.place[c], s.decode[c]


@leaf
def _pick(b: Board, s: Schedule) -> int:
    """A call: any, or one of the dearest of a few workflows."""
    n, flows = b.calls.shape[0], s.last.shape[0]
    if _below(s, 4) == 0:
        return _below(s, n)
    w = _below(s, flows)
    for _ in range(2):
        other = _below(s, flows)
        if s.price[0, other] > s.price[0, w]:
            w = other
    return int(b.members[b.members_from[w] + _below(s, b.members_from[w + 1] - b.members_from[w])])


@leaf
def _new_decode(b: Board, s: Schedule, c: int, p: int) -> int:
    kind = _below(s, 4)
    if kind < 2:
        return int(s.decode[c])
    if kind == 2:
        return int(b.nearest[c, p])
    return int(b.targets[c, _below(s, b.number[c, 1])])


@leaf
def _move(b: Board, s: Schedule, before: Ints) -> int:
    """Change the schedule at random; returns how many calls stand in `before`, 0 if nothing was changed."""
    c = _pick(b, s)
    _remember(s, before, 0, c)
    if s.place[c] < 0:  # locked: only its turn on a tight replica is open
        d = s.decode[c]
        if not _is_tight(b, s, d):
            return 0
        other = s.beside[d, _below(s, s.beside_len[d])]
        _note(s, c)
        s.time[c, START] = s.time[other, START] + _below(s, 3) - 1
        s.dirty_decode[d] = 1
        return 1
    kind, p = _below(s, 16), s.prefill[c]
    if kind < 3 and b.number[c, 1] > 1:
        _bind(b, s, c, b.targets[c, _below(s, b.number[c, 1])])
        return 1
    if kind < 7:
        q = b.sources[c, _below(s, b.number[c, 0])]
        if s.queue_len[q] == 0:
            return 0
        other = s.queue[q, _below(s, s.queue_len[q])]
        if other == c or b.prefill_ticks[other, p] < 0:
            return 0
        _remember(s, before, 1, other)
        mine, its = s.place[c], s.place[other]
        _take(b, s, c)
        _take(b, s, other)
        if q == p and its > mine:  # by increasing place, as in `_restore`
            _put(b, s, other, p, mine)
            _put(b, s, c, q, its)
        else:
            _put(b, s, c, q, its)
            _put(b, s, other, p, mine)
        if q != p:
            _bind(b, s, c, _new_decode(b, s, c, q))
            _bind(b, s, other, _new_decode(b, s, other, p))
        return 2
    q = p
    if kind < 12:
        q = b.sources[c, _below(s, b.number[c, 0])]
    at = _below(s, s.queue_len[q] + (0 if q == p else 1))
    if q == p and at == s.place[c]:
        return 0
    _take(b, s, c)
    _put(b, s, c, q, at)
    if q != p:
        _bind(b, s, c, _new_decode(b, s, c, q))
    return 1


@leaf
def _begin(s: Schedule) -> None:
    s.number[MOVE] += 1
    s.number[JOURNAL] = s.number[JOURNAL_FLOW] = 0


@leaf
def _keep(s: Schedule, best: Ints) -> None:
    for c in range(s.prefill.shape[0]):
        best[0, c], best[1, c] = s.prefill[c], s.decode[c]
        best[2, c], best[3, c] = s.time[c, START], s.time[c, DECODE]


@kernel
def _open(b: Board, s: Schedule) -> bool:
    """Schedule everything for the first time."""
    _begin(s)
    for p in range(b.free_tick.shape[0]):
        if s.queue_len[p] > 0:
            _mark(s, p, 0)
            _mark(s, p, s.queue_len[p] - 1)
    for d in range(b.capacity.shape[0]):
        s.dirty_decode[d] = 1
    fits = _settle(b, s, 16 * (1 + b.calls.shape[0]))  # each resolves one link of a chain, at two schedulings a call
    _rate(b, s)
    return fits


@leaf
def _meets_caps(b: Board, s: Schedule) -> bool:
    meets = True
    for k in range(1, b.cap.shape[0]):
        meets = meets and bool(s.total[k] <= b.cap[k])
    return meets


@long_kernel
def _anneal(
    b: Board, s: Schedule, best: Ints, best_cost: Floats, moves: int, heat: float, before: Ints, totals: Floats
) -> int:
    """`moves` random moves; a dearer schedule is kept with probability exp(-loss / (heat * best cost)).

    Returns the number of new best schedules; the best one is in `best` and `best_cost`.
    """
    stages, found = b.cap.shape[0], 0
    passes = 16 * (1 + b.capacity.shape[0])
    for _ in range(moves):
        _begin(s)
        for k in range(stages):
            totals[k, 0], totals[k, 1] = s.total[k], s.own[k]
        count = _move(b, s, before)
        if count == 0:
            continue
        is_rated = is_kept = _settle(b, s, passes)
        if is_rated:
            _rate(b, s)
            loss = s.total[0] - totals[0, 0]
            is_kept = loss <= 0.0 or loss < heat * best_cost[0] * b.chance[_below(s, 1024)]
            for k in range(1, stages):
                is_kept = is_kept and s.total[k] <= max(b.cap[k], totals[k, 0])
        if is_kept:
            s.number[ACCEPTED] += 1
            if s.total[0] < best_cost[0] and _meets_caps(b, s):
                best_cost[0] = s.total[0]
                found += 1
                _keep(s, best)
        else:
            if is_rated:
                _undo_prices(b, s, totals)
            _restore(b, s, before, count)
            _undo_times(b, s)
    return found


def board_of(problem: Problem, hint: Decision) -> Board:
    """Flatten `problem`; `hint` tells which decode replicas are crowded anyway."""
    n, objectives = problem.num_calls, [problem.objective, *(objective for objective, _ in problem.caps)]
    width = max(objective.slope.shape[1] for objective in objectives)

    def pieces(name: str) -> Floats:
        return np.stack([np.pad(getattr(o, name), ((0, 0), (0, width - o.slope.shape[1])), "edge") for o in objectives])

    held, held_len = _held(problem)
    members = np.argsort(problem.workflow, kind="stable")
    child_order = np.argsort(problem.edge_before, kind="stable")
    parent_order = np.argsort(problem.edge_after, kind="stable")
    moved, locked = problem.transfer_blocks, problem.locked_decode
    excess = np.bincount(hint.decode, minlength=problem.num_decode) + 1 - problem.uncrowded_calls
    decode = problem.decode_ticks + problem.crowding_ticks * np.maximum(0, excess)
    lag = np.stack([problem.transfer_base_ticks, problem.transfer_rate_ticks])
    board = Board(
        prefill_ticks=np.where(problem.prefill_allowed, problem.prefill_ticks, -1),
        decode_ticks=np.where(problem.decode_allowed, problem.decode_ticks, -1),
        crowding=problem.crowding_ticks.copy(),
        uncrowded=problem.uncrowded_calls.copy(),
        lag=lag,
        calls=np.stack(
            [moved, problem.kv_blocks, problem.release_tick, locked, problem.workflow, problem.objective.tail_ticks],
            axis=1,
        ),
        free_tick=problem.prefill_free_tick.copy(),
        capacity=problem.kv_capacity.copy(),
        held=held,
        held_len=held_len,
        held_peak=held[1].max(axis=1),
        members=members,
        members_from=_starts(problem.workflow, problem.num_workflows),
        child=problem.edge_after[child_order],
        child_from=_starts(problem.edge_before, n),
        parent=np.stack([problem.edge_before, problem.edge_lag])[:, parent_order],
        parent_from=_starts(problem.edge_after, n),
        slope=pieces("slope").astype(np.float64),
        intercept=pieces("intercept").astype(np.float64),
        step=np.stack([np.stack([o.due_tick, o.late_weight]) for o in objectives]).astype(np.float64),
        weight=np.stack([o.call_weight for o in objectives]).astype(np.float64),
        is_max=np.array([o.aggregate == "max" for o in objectives], dtype=np.int64),
        cap=np.array([np.inf, *(limit for _, limit in problem.caps)], dtype=np.float64),
        sources=_indices(problem.prefill_allowed),
        targets=_indices(problem.decode_allowed),
        number=np.stack([problem.prefill_allowed.sum(axis=1), problem.decode_allowed.sum(axis=1)], axis=1),
        nearest=_nearest(lag, moved, np.where(problem.decode_allowed, decode, NEVER)),
        chance=_CHANCE,
    )
    # One layout only: column-major matrices would be another type, compiled anew in the middle of serving.
    arrays: dict[str, Any] = {name: np.ascontiguousarray(array) for name, array in board._asdict().items()}
    return Board(**arrays)


_CHANCE = -np.log((np.arange(1024) + 0.5) / 1024)


@kernel
def _nearest(lag: Ints, moved: Ints, ticks: Ints) -> Ints:
    nearest = np.zeros((ticks.shape[0], lag.shape[1]), dtype=np.int64)
    for c in range(ticks.shape[0]):
        for p in range(lag.shape[1]):
            best = NEVER
            for d in range(ticks.shape[1]):
                finish = lag[0, p, d] + (lag[1, p, d] * moved[c] + 1023 >> 10) + ticks[c, d]
                if finish < best:
                    best = finish
                    nearest[c, p] = d
    return nearest


def _starts(owner: Ints, count: int) -> Ints:
    return np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=count))]).astype(np.int64)


def _indices(allowed: npt.NDArray[np.bool_]) -> Ints:
    """[N, R] the allowed replicas of each call, then the others, both by index."""
    return np.argsort(~allowed, axis=1, kind="stable").astype(np.int64)


def _held(problem: Problem) -> tuple[Ints, Ints]:
    segments = [held_segments(problem, d) for d in range(problem.num_decode)]
    length = np.array([len(ticks) for ticks, _ in segments], dtype=np.int64)
    held = np.zeros((2, problem.num_decode, int(length.max())), dtype=np.int64)
    for d, (ticks, use) in enumerate(segments):
        held[0, d, : length[d]], held[1, d, : length[d]] = ticks, use
    return held, length


def _schedule_of(problem: Problem, board: Board, hint: Decision, seed: int) -> Schedule:
    n, flows, stages = problem.num_calls, problem.num_workflows, len(board.cap)
    num_prefill, num_decode = problem.num_prefill, problem.num_decode
    queue, queue_len = np.zeros((num_prefill, n), dtype=np.int64), np.zeros(num_prefill, dtype=np.int64)
    beside, beside_len = np.zeros((num_decode, n), dtype=np.int64), np.zeros(num_decode, dtype=np.int64)
    place, beside_at = np.full(n, -1, dtype=np.int64), np.zeros(n, dtype=np.int64)
    for c in hint.priority_order(problem).tolist():
        p, d = int(hint.prefill[c]), int(hint.decode[c])
        if p >= 0:
            queue[p, queue_len[p]], place[c] = c, queue_len[p]
            queue_len[p] += 1
        beside[d, beside_len[d]], beside_at[c] = c, beside_len[d]
        beside_len[d] += 1
    time = np.zeros((n, 5), dtype=np.int64)
    time[:, RELEASED] = problem.release_tick
    time[:, ARRIVAL] = problem.release_tick
    time[:, START] = np.where(problem.is_free, -1, hint.decode_start)
    kv = np.zeros(num_decode, dtype=np.int64)
    np.add.at(kv, hint.decode, problem.kv_blocks)
    return Schedule(
        queue, queue_len, place, hint.prefill.copy(), hint.decode.copy(), beside, beside_len, beside_at, kv, time,
        np.zeros(flows, dtype=np.int64), np.zeros((stages, flows)), np.zeros(stages), np.zeros(stages),
        np.zeros(n, dtype=np.int64), np.zeros(flows, dtype=np.int64), np.zeros((n, 6), dtype=np.int64),
        np.zeros(flows, dtype=np.int64), np.zeros(flows, dtype=np.int64), np.zeros((stages, flows)),
        np.tile(np.array([NEVER, -1], dtype=np.int64), (num_prefill, 1)), np.zeros(num_decode, dtype=np.int64),
        np.zeros(8, dtype=np.int64), np.array([1 + seed % 2147483562, 1 + (seed * 7919 + 12345) % 2147483398]),
        np.zeros((2, board.held.shape[2] + 2 * n + 2), dtype=np.int64), np.zeros(n, dtype=np.int64),
    )  # fmt: skip


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes
    ----------
    decision : the cheapest within the caps; the hint packed to the left if nothing was found, or the hint itself where
        packing breaks a cap.
    moves, improvements : moves tried in all, and new cheapest decisions among them.
    history : (ms since the start, cost) after each look at the clock that saw a new cheapest decision.
    """

    decision: Decision
    moves: int
    improvements: int
    history: tuple[tuple[float, float], ...] = ()


def search(
    problem: Problem,
    hint: Decision,
    *,
    moves: int,
    seed: int = 0,
    share_used: Callable[[], float] | None = None,
) -> Found:
    """Improve a feasible decision.

    Parameters
    ----------
    moves
        Moves to try at most, >= 1.
    seed
        >= 0. Same problem, hint, moves and seed: same result, unless `share_used` ends it.
    share_used
        Share of the time budget used, 0..1, asked after every few hundred moves; the search stops at 1. None: the
        search cools down over `moves` instead.
    """
    started = perf_counter()
    board = board_of(problem, hint)
    schedule = _schedule_of(problem, board, hint, seed)
    best, best_cost = np.zeros((4, problem.num_calls), dtype=np.int64), np.zeros(1)
    before, totals = np.zeros((2, 4), dtype=np.int64), np.zeros((len(board.cap), 2))
    if not _open(board, schedule):
        return Found(hint, 0, 0)
    best_cost[0] = schedule.total[0]
    _keep(schedule, best)
    if (schedule.total[1:] > board.cap[1:]).any():  # KV in another order than the hint's; the search may mend it
        best[:] = hint.prefill, hint.decode, hint.prefill_start, hint.decode_start
        best_cost[0] = cost(problem, hint)
    done = found = 0
    history = [(1e3 * (perf_counter() - started), float(best_cost[0]))]
    moves_per_look = max(16, _CALLS_PER_LOOK // problem.num_calls)
    while done < moves:
        used = done / moves if share_used is None else share_used()
        if used >= 1.0:
            break
        heat = _START_HEAT * (_END_HEAT / _START_HEAT) ** used
        now = min(moves_per_look, moves - done)
        better = _anneal(board, schedule, best, best_cost, now, heat, before, totals)
        if better:
            history.append((1e3 * (perf_counter() - started), float(best_cost[0])))
        found, done = found + better, done + now
    prefill_start = np.where(problem.is_free, best[2], -1)
    return Found(Decision(best[0], best[1], prefill_start, best[3]), done, found, tuple(history))
