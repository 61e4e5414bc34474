"""When everything of a schedule happens and what that costs, found again where it changed. Knows no moves.

What has changed is marked (`mark`, `dirty_decode`), `settle` schedules it again, `rate` brings costs up to date; a
journal takes both back. Decodes start when their KV arrives; only where KV could bind is a replica scheduled call by
call, in order of prefill start, as `timetable` would.
"""

from hexsolve.jit import kernel, leaf
from hexsolve.search.board import (
    ARRIVAL,
    BLOCKS,
    DECODE,
    FINISH,
    JOURNAL,
    JOURNAL_FLOW,
    MOVE,
    MOVED,
    NEVER,
    RELEASE,
    RELEASED,
    START,
    TAIL,
    WORK,
    WORKFLOW,
    Board,
    Schedule,
)
from hexsolve.tables import Floats


@leaf
def begin(s: Schedule) -> None:
    s.number[MOVE] += 1
    s.number[JOURNAL] = s.number[JOURNAL_FLOW] = 0


@leaf
def _lag(b: Board, c: int, p: int, d: int) -> int:
    return int(b.lag[0, p, d] + (b.lag[1, p, d] * b.calls[c, MOVED] + 1023 >> 10))


@leaf
def note(s: Schedule, c: int) -> None:
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
    note(s, c)
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
        note(s, c)
        s.time[c, RELEASED] = released
        if s.place[c] >= 0:
            mark(s, s.prefill[c], s.place[c])


@leaf
def mark(s: Schedule, p: int, at: int) -> None:
    """The queue of `p` has changed at index `at`."""
    if at < s.dirty_queue[p, 0]:
        s.dirty_queue[p, 0] = at
    if at > s.dirty_queue[p, 1]:
        s.dirty_queue[p, 1] = at


@leaf
def is_tight(b: Board, s: Schedule, d: int) -> bool:
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
            note(s, c)
            s.time[c, START], s.time[c, ARRIVAL] = start, arrival
        if is_tight(b, s, d):
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
    if not is_tight(b, s, d):
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
def settle(b: Board, s: Schedule, passes: int) -> bool:
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
def rate(b: Board, s: Schedule) -> None:
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


@kernel
def open_schedule(b: Board, s: Schedule) -> bool:
    """Schedule everything for the first time."""
    begin(s)
    for p in range(b.free_tick.shape[0]):
        if s.queue_len[p] > 0:
            mark(s, p, 0)
            mark(s, p, s.queue_len[p] - 1)
    for d in range(b.capacity.shape[0]):
        s.dirty_decode[d] = 1
    fits = settle(b, s, 16 * (1 + b.calls.shape[0]))  # each resolves one link of a chain, at two schedulings a call
    rate(b, s)
    return fits


@leaf
def undo_times(b: Board, s: Schedule) -> None:
    for x in range(s.number[JOURNAL]):
        c = s.journal[x, 0]
        for i in range(5):
            s.time[c, i] = s.journal[x, i + 1]
    for p in range(b.free_tick.shape[0]):
        s.dirty_queue[p, 0], s.dirty_queue[p, 1] = NEVER, -1
    for d in range(b.capacity.shape[0]):
        s.dirty_decode[d] = 0


@leaf
def undo_prices(b: Board, s: Schedule, totals: Floats) -> None:
    for x in range(s.number[JOURNAL_FLOW]):
        w = s.journal_flow[x]
        s.last[w] = s.journal_last[x]
        for k in range(b.cap.shape[0]):
            s.price[k, w] = s.journal_price[k, x]
    for k in range(b.cap.shape[0]):
        s.total[k], s.own[k] = totals[k, 0], totals[k, 1]
