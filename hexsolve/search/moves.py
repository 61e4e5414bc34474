"""Random moves on a schedule: insert, swap, reassign. Knows what a move touches; neither schedules nor prices it.

A move changes at most two prefill queues and two decode replicas. Own random numbers, no calls of a math library: the
same on every machine.
"""

from hexsolve.jit import leaf
from hexsolve.search.board import BLOCKS, START, Board, Schedule
from hexsolve.search.times import is_tight, mark, note
from hexsolve.tables import Ints


@leaf
def below(s: Schedule, n: int) -> int:
    """A random integer in 0..n-1 (L'Ecuyer's combined generator, CACM 1988: products stay below 2^53)."""
    s.random[0] = (40014 * s.random[0]) % 2147483563
    s.random[1] = (40692 * s.random[1]) % 2147483399
    mixed = (s.random[0] - s.random[1]) % 2147483562
    return int((mixed * n) // 2147483562)


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
    mark(s, p, at)


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
    mark(s, p, at)


@leaf
def _bind(b: Board, s: Schedule, c: int, d: int) -> None:
    """Move a call to another decode replica; whoever is slowed down or freed there is scheduled again."""
    old = s.decode[c]
    if old == d:
        return
    was_tight, will_be_tight = is_tight(b, s, old), False
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
    will_be_tight = is_tight(b, s, d)
    if was_tight or n >= b.uncrowded[old]:
        s.dirty_decode[old] = 1
    if will_be_tight or s.beside_len[d] > b.uncrowded[d]:
        s.dirty_decode[d] = 1
    if s.place[c] >= 0:
        mark(s, s.prefill[c], s.place[c])
    note(s, c)  # its arrival changes even if its prefill does not


@leaf
def restore(b: Board, s: Schedule, before: Ints, count: int) -> None:
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
    if below(s, 4) == 0:
        return below(s, n)
    w = below(s, flows)
    for _ in range(2):
        other = below(s, flows)
        if s.price[0, other] > s.price[0, w]:
            w = other
    return int(b.members[b.members_from[w] + below(s, b.members_from[w + 1] - b.members_from[w])])


@leaf
def _new_decode(b: Board, s: Schedule, c: int, p: int) -> int:
    kind = below(s, 4)
    if kind < 2:
        return int(s.decode[c])
    if kind == 2:
        return int(b.nearest[c, p])
    return int(b.targets[c, below(s, b.number[c, 1])])


@leaf
def move(b: Board, s: Schedule, before: Ints) -> int:
    """Change the schedule at random; returns how many calls stand in `before`, 0 if nothing was changed."""
    c = _pick(b, s)
    _remember(s, before, 0, c)
    if s.place[c] < 0:  # locked: only its turn on a tight replica is open
        d = s.decode[c]
        if not is_tight(b, s, d):
            return 0
        other = s.beside[d, below(s, s.beside_len[d])]
        note(s, c)
        s.time[c, START] = s.time[other, START] + below(s, 3) - 1
        s.dirty_decode[d] = 1
        return 1
    kind, p = below(s, 16), s.prefill[c]
    if kind < 3 and b.number[c, 1] > 1:
        _bind(b, s, c, b.targets[c, below(s, b.number[c, 1])])
        return 1
    if kind < 7:
        q = b.sources[c, below(s, b.number[c, 0])]
        if s.queue_len[q] == 0:
            return 0
        other = s.queue[q, below(s, s.queue_len[q])]
        if other == c or b.prefill_ticks[other, p] < 0:
            return 0
        _remember(s, before, 1, other)
        mine, its = s.place[c], s.place[other]
        _take(b, s, c)
        _take(b, s, other)
        if q == p and its > mine:  # by increasing place, as in `restore`
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
        q = b.sources[c, below(s, b.number[c, 0])]
    at = below(s, s.queue_len[q] + (0 if q == p else 1))
    if q == p and at == s.place[c]:
        return 0
    _take(b, s, c)
    _put(b, s, c, q, at)
    if q != p:
        _bind(b, s, c, _new_decode(b, s, c, q))
    return 1
