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

from hexsolve.jit import kernel
from hexsolve.tables import DECODE, PREFILL, TRANSFER, WAIT_DECODE, Floats, Ints, Records


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


class Timeline(NamedTuple):
    """Projected occupation, changed in place as calls are placed. Interval x of replica d is [time_ms[d, x], next)."""

    time_ms: Floats  # [D, capacity]
    blocks: Ints  # [D, capacity]
    running: Ints  # [D, capacity]
    context: Floats  # [D, capacity]
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


@kernel
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
def prefill_time(world: World, c: int, p: int) -> float:
    """Prefill of call row `c` on replica `p` in ms, given the part of its prefix that `p` holds."""
    kind = world.prefills[p].kind
    full = float(world.prefill_ms[c, kind, 0])
    cached = world.calls[c].cached_tokens
    held = min(cached, world.held_tokens[world.calls[c].prefix, p])
    if held <= 0:
        return full
    return full - (full - float(world.prefill_ms[c, kind, 1])) * float(held) / float(cached)


@kernel
def find(timeline: Timeline, d: int, time_ms: float) -> int:
    """Index of the interval of replica `d` that contains `time_ms` (the first one when it is earlier)."""
    low, high = 0, timeline.length[d] - 1
    while low < high:
        middle = (low + high + 1) // 2
        if timeline.time_ms[d, middle] <= time_ms:
            low = middle
        else:
            high = middle - 1
    return low


@kernel
def split(timeline: Timeline, d: int, time_ms: float) -> int:
    """Make `time_ms` a break point of replica `d`; returns the index of the interval that starts there."""
    i = find(timeline, d, time_ms)
    if timeline.time_ms[d, i] >= time_ms:
        return i
    n = timeline.length[d]
    for x in range(n, i + 1, -1):
        timeline.time_ms[d, x] = timeline.time_ms[d, x - 1]
        timeline.blocks[d, x] = timeline.blocks[d, x - 1]
        timeline.running[d, x] = timeline.running[d, x - 1]
        timeline.context[d, x] = timeline.context[d, x - 1]
    timeline.time_ms[d, i + 1] = time_ms
    timeline.blocks[d, i + 1] = timeline.blocks[d, i]
    timeline.running[d, i + 1] = timeline.running[d, i]
    timeline.context[d, i + 1] = timeline.context[d, i]
    timeline.length[d] = n + 1
    return i + 1


@kernel
def occupy(timeline: Timeline, d: int, start_ms: float, end_ms: float, blocks: int, context: float) -> None:
    """Add one call to replica `d` over [start_ms, end_ms)."""
    first = split(timeline, d, start_ms)
    last = split(timeline, d, end_ms)
    for x in range(first, last):
        timeline.blocks[d, x] += blocks
        timeline.running[d, x] += 1
        timeline.context[d, x] += context
        timeline.peak_blocks[d] = max(timeline.peak_blocks[d], timeline.blocks[d, x])
        timeline.peak_running[d] = max(timeline.peak_running[d], timeline.running[d, x])


@kernel
def fit(world: World, timeline: Timeline, c: int, d: int, ready_ms: float) -> tuple[float, float]:
    """Earliest (start, finish) in ms of the decode of row `c` on replica `d`, its KV being there from `ready_ms`."""
    call = world.calls[c]
    replica = world.decodes[d]
    tokens = max(1.0, float(call.predicted_tokens))
    own = call.input_tokens + 0.5 * tokens
    i = find(timeline, d, ready_ms)
    start = max(ready_ms, timeline.time_ms[d, 0])
    fits_anyway = (
        timeline.peak_blocks[d] + call.kv_blocks <= replica.capacity_blocks
        and timeline.peak_running[d] < replica.max_running
    )
    while True:
        batch = timeline.running[d, i] + 1.0
        context = (timeline.context[d, i] + own) / batch
        finish = start + tokens * step_ms(world.knots, world.knot_count, world.grid, replica.kind, batch, context)
        if fits_anyway:
            return start, finish
        j, n = i, timeline.length[d]
        while j < n and (j == i or timeline.time_ms[d, j] < finish):
            full = timeline.blocks[d, j] + call.kv_blocks > replica.capacity_blocks
            if full or timeline.running[d, j] >= replica.max_running:
                break
            j += 1
        if j == n or (j > i and timeline.time_ms[d, j] >= finish):
            return start, finish
        if j == n - 1:  # an over-full replica whose timeline never drains: cannot be placed
            return np.inf, np.inf
        i = j + 1
        start = timeline.time_ms[d, i]


@kernel
def best_pair(world: World, timeline: Timeline, alone_ms: Floats, c: int) -> Placed:
    """Earliest projected finish of row `c` over all feasible pairs, ties to the lowest indices.

    For a given decode replica the pair whose KV is there first is taken: a decode that starts earlier ends no later.
    So P·D additions and at most D fits decide. (The projection itself keeps the step time of the batch a call joins,
    so on paper a later arrival in a smaller batch can look faster; in a real batch it is not.) `alone_ms` [n, D], the
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
        if ready[d] + alone_ms[c, d] < best.finish_ms:
            start, finish = fit(world, timeline, c, d, ready[d])
            if finish < best.finish_ms:
                end = timeline.free_ms[source[d]] + prefill_time(world, c, source[d])
                best = Placed(source[d], d, end, start, finish)
    return best


@kernel
def given_pair(world: World, timeline: Timeline, c: int, p: int, d: int) -> Placed:
    """Projection of row `c` in the placement (p, d)."""
    end = timeline.free_ms[p] + prefill_time(world, c, p)
    ready = end + world.pair[0, p, d] + world.pair[1, p, d] * world.calls[c].input_tokens
    start, finish = fit(world, timeline, c, d, ready)
    return Placed(p, d, end, start, finish)


@kernel
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
    calls, decodes, now = world.calls, world.decodes, world.now_ms
    num_decode, n = decodes.shape[0], calls.shape[0]
    count = np.zeros(num_decode, dtype=np.int64)
    flying = 0
    for c in range(n):
        if calls[c].stage == DECODE:
            count[calls[c].decode] += 1
        elif calls[c].stage == PREFILL or calls[c].stage == TRANSFER:
            flying += 1
    capacity = count.max() + 2 * (flying + extra) + 2
    timeline = Timeline(
        np.zeros((num_decode, capacity)),
        np.zeros((num_decode, capacity), dtype=np.int64),
        np.zeros((num_decode, capacity), dtype=np.int64),
        np.zeros((num_decode, capacity)),
        np.ones(num_decode, dtype=np.int64),
        np.zeros(num_decode, dtype=np.int64),
        np.zeros(num_decode, dtype=np.int64),
        np.empty(world.prefills.shape[0]),
        np.empty(num_decode),
        np.zeros(num_decode, dtype=np.int64),
    )
    for p in range(world.prefills.shape[0]):
        up = world.prefills[p].up == 1
        timeline.free_ms[p] = max(now, world.prefills[p].free_ms) if up else np.inf
    _lay_running(world, timeline, count, held)
    _lay_in_flight(world, timeline, flying, held)
    return timeline


@kernel
def _lay_running(world: World, timeline: Timeline, count: Ints, held: Floats) -> None:
    calls, decodes, now = world.calls, world.decodes, world.now_ms
    num_decode = decodes.shape[0]
    offset = np.zeros(num_decode + 1, dtype=np.int64)
    for d in range(num_decode):
        offset[d + 1] = offset[d] + count[d]
        timeline.time_ms[d, 0] = now
    rows = np.empty(offset[num_decode], dtype=np.int64)
    ends = np.empty(offset[num_decode])
    filled = offset.copy()
    for c in range(calls.shape[0]):
        if calls[c].stage == DECODE:
            d = calls[c].decode
            step = max(decodes[d].step_ms, 1e-6)
            done = decodes[d].steps + (now - decodes[d].last_ms) / step - calls[c].step_mark
            rows[filled[d]] = c
            ends[filled[d]] = now + max(1.0, calls[c].predicted_tokens - done) * step
            held[c, 0], held[c, 1] = now, ends[filled[d]]
            timeline.blocks[d, 0] += calls[c].kv_blocks
            timeline.running[d, 0] += 1
            timeline.context[d, 0] += calls[c].input_tokens + done
            filled[d] += 1
    for d in range(num_decode):
        timeline.peak_blocks[d] = timeline.blocks[d, 0]
        timeline.peak_running[d] = timeline.running[d, 0]
        mean = timeline.context[d, 0] / max(1, timeline.running[d, 0])
        order = np.argsort(ends[offset[d] : offset[d + 1]], kind="mergesort")
        for x in range(count[d]):
            c = rows[offset[d] + order[x]]
            timeline.time_ms[d, x + 1] = ends[offset[d] + order[x]]
            timeline.blocks[d, x + 1] = timeline.blocks[d, x] - calls[c].kv_blocks
            timeline.running[d, x + 1] = timeline.running[d, x] - 1
            timeline.context[d, x + 1] = timeline.running[d, x + 1] * mean
        timeline.length[d] = count[d] + 1


@kernel
def _lay_in_flight(world: World, timeline: Timeline, flying: int, held: Floats) -> None:
    calls = world.calls
    rows = np.empty(flying, dtype=np.int64)
    ready = np.empty(flying)
    x = 0
    for c in range(calls.shape[0]):
        stage = calls[c].stage
        if stage in (PREFILL, TRANSFER):
            rows[x] = c
            ready[x] = max(world.now_ms, calls[c].expected_ms)
            if stage == PREFILL:
                p, d = calls[c].prefill, calls[c].decode
                ready[x] += world.pair[0, p, d] + world.pair[1, p, d] * calls[c].input_tokens
            x += 1
    order = np.argsort(ready, kind="mergesort")  # ties by row, compiled or not
    for x in range(flying):
        c = rows[order[x]]
        start, finish = fit(world, timeline, c, calls[c].decode, ready[order[x]])
        held[c, 0], held[c, 1] = start, finish
        apply(world, timeline, c, Placed(-1, calls[c].decode, 0.0, start, finish))


@kernel
def decode_alone(world: World, rows: Ints) -> Floats:
    """Decode time in ms of `rows` in a batch of one, [n, D]; inf where the KV never fits or the replica is down.

    Other rows are left unset.
    """
    alone = np.empty((world.calls.shape[0], world.decodes.shape[0]))
    for c in rows:
        call = world.calls[c]
        tokens = max(1.0, float(call.predicted_tokens))
        for d in range(world.decodes.shape[0]):
            replica = world.decodes[d]
            alone[c, d] = np.inf
            if replica.up == 1 and call.kv_blocks <= replica.capacity_blocks:
                context = call.input_tokens + 0.5 * tokens
                alone[c, d] = tokens * step_ms(world.knots, world.knot_count, world.grid, replica.kind, 1.0, context)
    return alone


@kernel
def projected_risk(world: World, c: int, finish_ms: float) -> float:
    """R = ((t - a_w) + Δ) / H_w(t) with t + Δ = finish_ms (HexAGenT eq. 2)."""
    return (finish_ms - float(world.calls[c].arrival_ms)) / float(world.calls[c].horizon_ms)
