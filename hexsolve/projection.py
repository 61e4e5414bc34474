"""The projection: when would each waiting call finish its decode, and in which placement is that earliest?

The one projection code of the engine (FIELD.md §1: Δ_s counts queueing, prefill, KV transfer, wait for decode capacity
and decode). Every policy that needs a finish time asks here, so baselines and solver share the same physics. Compiled;
`HEXSOLVE_NO_JIT=1` runs the same functions interpreted. Knows arrays; knows nothing of ids, events or policies.

Per decode replica a *timeline* holds the projected step functions of time: KV blocks, running calls and context tokens.
A call is placed at the earliest time at which its KV fits for its whole decode; its step time is taken at the batch it
joins (batch-aware, without slowing down those already placed).
"""

from typing import NamedTuple

import numpy as np

from hexsolve.jit import kernel, leaf
from hexsolve.tables import DECODE, PREFILL, TRANSFER, WAIT_DECODE, Floats, Ints, Records, record_type


class World(NamedTuple):
    """What one projection reads; field shapes as in `Snapshot` and `ClusterTables`."""

    now_ms: float
    calls: Records
    prefill_ms: Floats
    held_tokens: Ints
    prefills: Records
    decodes: Records
    pair: Floats
    knots: Floats
    knot_count: Ints
    grid: Floats


SPAN_DTYPE = record_type([("start_ms", "f8"), ("blocks", "i8"), ("running", "i8"), ("context", "f8")])
"""What is on a decode replica over a span of time: KV blocks, calls and their context tokens."""


class Timeline(NamedTuple):
    """Projected occupation, changed in place as calls are placed."""

    spans: Records  # of SPAN_DTYPE [D, capacity]; each lasts until the next one of its replica begins
    length: Ints  # [D]
    peak_blocks: Ints  # [D], an upper bound: the quick answer to "does it fit anyway?"
    peak_running: Ints  # [D]
    free_ms: Floats  # [P], end of what is placed on each prefill replica
    ready_ms: Floats  # [D], scratch of `best_pair`: earliest KV arrival
    source: Ints  # [D], scratch of `best_pair`: the prefill replica it comes from


class Placed(NamedTuple):
    """Where one call would go; `prefill` is -1 for a locked call. All times in ms."""

    prefill: int
    decode: int
    prefill_end_ms: float
    start_ms: float
    finish_ms: float


@leaf
def step_ms(knots: Floats, knot_count: Ints, grid: Floats, kind: int, batch: float, context: float) -> float:
    """Decode step of `batch` calls with mean context `context` tokens: bilinear on the grid, linear beyond it.

    The first knot is (batch 1, context 0); its value is the floor.
    """
    i, last = 0, knot_count[kind, 0] - 2
    while i < last and batch >= knots[kind, 0, i + 1]:
        i += 1
    j, last = 0, knot_count[kind, 1] - 2
    while j < last and context >= knots[kind, 1, j + 1]:
        j += 1
    u = (batch - knots[kind, 0, i]) / (knots[kind, 0, i + 1] - knots[kind, 0, i])
    v = (context - knots[kind, 1, j]) / (knots[kind, 1, j + 1] - knots[kind, 1, j])
    low = grid[kind, i, j] + u * (grid[kind, i + 1, j] - grid[kind, i, j])
    high = grid[kind, i, j + 1] + u * (grid[kind, i + 1, j + 1] - grid[kind, i, j + 1])
    return max(float(low + v * (high - low)), float(grid[kind, 0, 0]))


@kernel
def sorted_order(keys: Floats | Ints) -> Ints:
    """Indices that sort `keys`, equal ones in order: a merge sort, since numba takes 3 s to compile NumPy's."""
    n = keys.shape[0]
    order, other = np.arange(n), np.empty(n, dtype=np.int64)
    width = 1
    while width < n:
        for low in range(0, n, 2 * width):
            middle, high = min(low + width, n), min(low + 2 * width, n)
            i, j = low, middle
            for x in range(low, high):
                if i < middle and (j >= high or keys[order[i]] <= keys[order[j]]):
                    other[x] = order[i]
                    i += 1
                else:
                    other[x] = order[j]
                    j += 1
        order, other = other, order
        width *= 2
    return order


@leaf
def prefill_time(world: World, c: int, p: int) -> float:
    """Prefill of call row `c` on replica `p` in ms, given the part of its prefix that `p` holds."""
    kind = world.prefills[p].kind
    full = float(world.prefill_ms[c, kind, 0])
    cached = world.calls[c].cached_tokens
    held = min(cached, world.held_tokens[world.calls[c].prefix, p])
    if held <= 0:
        return full
    return full - (full - float(world.prefill_ms[c, kind, 1])) * float(held) / float(cached)


@leaf
def find(timeline: Timeline, d: int, time_ms: float) -> int:
    """Index of the span of replica `d` that contains `time_ms` (the first one when it is earlier)."""
    low, high = 0, timeline.length[d] - 1
    while low < high:
        middle = (low + high + 1) // 2
        if timeline.spans[d, middle].start_ms <= time_ms:
            low = middle
        else:
            high = middle - 1
    return low


@leaf
def split(timeline: Timeline, d: int, time_ms: float) -> int:
    """Make `time_ms` a break point of replica `d`; returns the index of the span that starts there."""
    i = find(timeline, d, time_ms)
    spans = timeline.spans
    if spans[d, i].start_ms >= time_ms:
        return i
    for x in range(timeline.length[d], i, -1):
        spans[d, x] = spans[d, x - 1]
    spans[d, i + 1].start_ms = time_ms
    timeline.length[d] += 1
    return i + 1


@leaf
def occupy(timeline: Timeline, d: int, start_ms: float, end_ms: float, blocks: int, context: float) -> None:
    """Add one call to replica `d` over [start_ms, end_ms)."""
    first = split(timeline, d, start_ms)
    last = split(timeline, d, end_ms)
    peak_blocks, peak_running = timeline.peak_blocks[d], timeline.peak_running[d]
    for x in range(first, last):
        span = timeline.spans[d, x]
        span.blocks += blocks
        span.running += 1
        span.context += context
        peak_blocks, peak_running = max(peak_blocks, span.blocks), max(peak_running, span.running)
    timeline.peak_blocks[d], timeline.peak_running[d] = peak_blocks, peak_running


@leaf
def fit(world: World, timeline: Timeline, c: int, d: int, ready_ms: float) -> tuple[float, float]:
    """Earliest (start, finish) in ms of the decode of row `c` on replica `d`, its KV being there from `ready_ms`."""
    call = world.calls[c]
    replica = world.decodes[d]
    tokens = max(1.0, float(call.predicted_tokens))
    own = call.input_tokens + 0.5 * tokens
    i = find(timeline, d, ready_ms)
    start = max(ready_ms, timeline.spans[d, 0].start_ms)
    fits_anyway = (
        timeline.peak_blocks[d] + call.kv_blocks <= replica.capacity_blocks
        and timeline.peak_running[d] < replica.max_running
    )
    while True:
        batch = timeline.spans[d, i].running + 1.0
        context = (timeline.spans[d, i].context + own) / batch
        finish = start + tokens * step_ms(world.knots, world.knot_count, world.grid, replica.kind, batch, context)
        if fits_anyway:
            return start, finish
        j, n = i, timeline.length[d]
        while j < n and (j == i or timeline.spans[d, j].start_ms < finish):
            full = timeline.spans[d, j].blocks + call.kv_blocks > replica.capacity_blocks
            if full or timeline.spans[d, j].running >= replica.max_running:
                break
            j += 1
        if j == n or (j > i and timeline.spans[d, j].start_ms >= finish):
            return start, finish
        if j == n - 1:  # an over-full replica whose timeline never drains: cannot be placed
            return np.inf, np.inf
        i = j + 1
        start = timeline.spans[d, i].start_ms


@leaf
def best_pair(world: World, timeline: Timeline, alone_ms: Floats, c: int) -> Placed:
    """Earliest projected finish of row `c` over all feasible pairs, ties to the lowest indices.

    For a given decode replica the pair whose KV is there first is taken: a decode that starts earlier ends no later.
    So P·D additions and at most D fits decide. (The projection itself keeps the step time of the batch a call joins,
    so on paper a later arrival in a smaller batch can look faster; in a real batch it is not.) `alone_ms` [D], the
    decode time in a batch of one, is the lower bound that prunes decode replicas.
    """
    if world.calls[c].stage == WAIT_DECODE:
        d = world.calls[c].decode
        if world.decodes[d].up != 1:
            return Placed(-1, -1, np.inf, np.inf, np.inf)
        start, finish = fit(world, timeline, c, d, world.now_ms)
        return Placed(-1, d, world.now_ms, start, finish)
    tokens = world.calls[c].input_tokens
    num_prefill, num_decode = world.pair.shape[1], world.pair.shape[2]
    ready, source = timeline.ready_ms, timeline.source
    ready[:] = np.inf
    for p in range(num_prefill):
        end = timeline.free_ms[p] + prefill_time(world, c, p)
        for d in range(num_decode):
            there = end + world.pair[0, p, d] + world.pair[1, p, d] * tokens
            if there < ready[d]:
                ready[d] = there
                source[d] = p
    best = Placed(-1, -1, np.inf, np.inf, np.inf)
    for d in range(num_decode):
        if ready[d] + alone_ms[d] < best.finish_ms:
            start, finish = fit(world, timeline, c, d, ready[d])
            if finish < best.finish_ms:
                end = timeline.free_ms[source[d]] + prefill_time(world, c, source[d])
                best = Placed(source[d], d, end, start, finish)
    return best


@leaf
def given_pair(world: World, timeline: Timeline, c: int, p: int, d: int) -> Placed:
    """Projection of row `c` in the placement (p, d)."""
    end = timeline.free_ms[p] + prefill_time(world, c, p)
    ready = end + world.pair[0, p, d] + world.pair[1, p, d] * world.calls[c].input_tokens
    start, finish = fit(world, timeline, c, d, ready)
    return Placed(p, d, end, start, finish)


@leaf
def apply(world: World, timeline: Timeline, c: int, placed: Placed) -> None:
    """Commit row `c` to the projected state."""
    if not placed.finish_ms < np.inf:
        return
    if placed.prefill >= 0:
        timeline.free_ms[placed.prefill] = placed.prefill_end_ms
    call = world.calls[c]
    context = call.input_tokens + 0.5 * call.predicted_tokens
    occupy(timeline, placed.decode, placed.start_ms, placed.finish_ms, call.kv_blocks, context)


@kernel
def open_timeline(world: World, extra: int, held: Floats) -> Timeline:
    """Projected state before anything is planned: running calls, then in-flight calls in order of KV arrival.

    `extra` is the number of calls that will be placed later (room for their break points). `held` [n, 2] receives the
    projected decode start and finish of every running and in-flight row.
    """
    calls, num_decode = world.calls, world.decodes.shape[0]
    length = np.ones(num_decode, dtype=np.int64)
    flying = 0
    for c in range(calls.shape[0]):
        if calls[c].stage == DECODE:
            length[calls[c].decode] += 1
        elif calls[c].stage == PREFILL or calls[c].stage == TRANSFER:
            flying += 1
    timeline = Timeline(
        np.empty((num_decode, length.max() + 2 * (flying + extra) + 1), SPAN_DTYPE),
        length,
        np.empty(num_decode, dtype=np.int64),
        np.empty(num_decode, dtype=np.int64),
        np.empty(world.prefills.shape[0]),
        np.empty(num_decode),
        np.zeros(num_decode, dtype=np.int64),
    )
    for p in range(world.prefills.shape[0]):
        up = world.prefills[p].up == 1
        timeline.free_ms[p] = max(world.now_ms, world.prefills[p].free_ms) if up else np.inf
    _lay_running(world, timeline, held)
    _lay_in_flight(world, timeline, flying, held)
    return timeline


@leaf
def _lay_running(world: World, timeline: Timeline, held: Floats) -> None:
    """Running calls leave one by one; those that are left keep the mean context of now."""
    calls, decodes, spans, now = world.calls, world.decodes, timeline.spans, world.now_ms
    for d in range(decodes.shape[0]):
        timeline.length[d] = 1
        first = spans[d, 0]
        first.start_ms, first.blocks, first.running, first.context = now, 0, 0, 0.0
    for c in range(calls.shape[0]):
        call = calls[c]
        if call.stage == DECODE:
            d = call.decode
            step = max(decodes[d].step_ms, 1e-6)
            done = decodes[d].steps + (now - decodes[d].last_ms) / step - call.step_mark
            end = now + max(1.0, call.predicted_tokens - done) * step
            held[c, 0], held[c, 1] = now, end
            spans[d, 0].blocks += call.kv_blocks
            spans[d, 0].running += 1
            spans[d, 0].context += call.input_tokens + done
            x = timeline.length[d]
            timeline.length[d] += 1
            while x > 1 and spans[d, x - 1].start_ms > end:
                spans[d, x] = spans[d, x - 1]
                x -= 1
            spans[d, x].start_ms, spans[d, x].blocks = end, call.kv_blocks  # the blocks that leave; summed up below
    for d in range(decodes.shape[0]):
        timeline.peak_blocks[d] = spans[d, 0].blocks
        timeline.peak_running[d] = spans[d, 0].running
        mean = spans[d, 0].context / max(1, spans[d, 0].running)
        for x in range(1, timeline.length[d]):
            spans[d, x].blocks = spans[d, x - 1].blocks - spans[d, x].blocks
            spans[d, x].running = spans[d, x - 1].running - 1
            spans[d, x].context = spans[d, x].running * mean


@kernel
def _lay_in_flight(world: World, timeline: Timeline, flying: int, held: Floats) -> None:
    calls = world.calls
    rows, ready = np.empty(flying, dtype=np.int64), np.empty(flying)
    n = 0
    for c in range(calls.shape[0]):
        stage = calls[c].stage
        if stage in (PREFILL, TRANSFER):
            there = max(world.now_ms, calls[c].expected_ms)
            if stage == PREFILL:
                p, d = calls[c].prefill, calls[c].decode
                there += world.pair[0, p, d] + world.pair[1, p, d] * calls[c].input_tokens
            x = n
            while x > 0 and ready[x - 1] > there:  # ties by row
                rows[x], ready[x] = rows[x - 1], ready[x - 1]
                x -= 1
            rows[x], ready[x] = c, there
            n += 1
    for x in range(flying):
        c = rows[x]
        start, finish = fit(world, timeline, c, calls[c].decode, ready[x])
        held[c, 0], held[c, 1] = start, finish
        apply(world, timeline, c, Placed(-1, calls[c].decode, 0.0, start, finish))


@leaf
def can_hold(world: World, c: int, d: int) -> bool:
    """Whether decode replica `d` is up and large enough for the KV of row `c`."""
    return bool(world.decodes[d].up == 1 and world.calls[c].kv_blocks <= world.decodes[d].capacity_blocks)


@leaf
def decode_alone(world: World, c: int, alone_ms: Floats) -> None:
    """Fill `alone_ms` [D]: decode time of row `c` in a batch of one; inf where it cannot be."""
    call = world.calls[c]
    tokens = max(1.0, float(call.predicted_tokens))
    context = call.input_tokens + 0.5 * tokens
    for d in range(world.decodes.shape[0]):
        if can_hold(world, c, d):
            kind = world.decodes[d].kind
            alone_ms[d] = tokens * step_ms(world.knots, world.knot_count, world.grid, kind, 1.0, context)
        else:
            alone_ms[d] = np.inf


@leaf
def projected_risk(world: World, c: int, finish_ms: float) -> float:
    """R = ((t - a_w) + Δ) / H_w(t) with t + Δ = finish_ms (HexAGenT eq. 2)."""
    return (finish_ms - float(world.calls[c].arrival_ms)) / float(world.calls[c].horizon_ms)
