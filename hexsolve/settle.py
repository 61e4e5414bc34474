"""Finish times of a whole plan, told without regard to its order: what the list planners cannot know while they plan.

A list planner takes a call's step time from the batch it joins among the calls placed *so far*. Here, with everything
placed, each call's tokens are counted off along the final timeline of its decode replica, span by span. Used to compare
whole plans; knows nothing of how they were made.
"""

import numpy as np

from hexsolve.jit import kernel
from hexsolve.listplan import world_of
from hexsolve.policy import Plan
from hexsolve.projection import Timeline, World, find, occupy, open_timeline, step_ms
from hexsolve.snapshot import Snapshot
from hexsolve.tables import Floats, Ints


@kernel
def _count_off(world: World, timeline: Timeline, c: int, d: int, start_ms: float, end_ms: float) -> float:
    """When row `c` has all its tokens if it starts at `start_ms`; the timeline counts it as running until `end_ms`."""
    spans, last = timeline.spans, timeline.length[d] - 1
    left = max(1.0, float(world.calls[c].predicted_tokens))
    own = world.calls[c].input_tokens + 0.5 * left
    i, now = find(timeline, d, start_ms), start_ms
    while True:
        counted = now < end_ms
        batch = spans[d, i].running + (0.0 if counted else 1.0)
        context = (spans[d, i].context + (0.0 if counted else own)) / batch
        step = step_ms(world.knots, world.knot_count, world.grid, world.decodes[d].kind, batch, context)
        if i == last or now + left * step <= spans[d, i + 1].start_ms:
            return now + left * step
        i += 1
        left -= (spans[d, i].start_ms - now) / step
        now = spans[d, i].start_ms


@kernel
def _settled(
    world: World,
    waiting: Ints,
    decode: Ints,
    start_ms: Floats,
    finish_ms: Floats,
) -> Floats:
    calls = world.calls
    n = waiting.shape[0]
    timeline = open_timeline(world, n, np.empty((calls.shape[0], 2)))
    for i in range(n):
        if finish_ms[i] < np.inf:
            call = calls[waiting[i]]
            context = call.input_tokens + 0.5 * call.predicted_tokens
            occupy(timeline, decode[i], start_ms[i], finish_ms[i], call.kv_blocks, context)
    settled = np.full(n, np.inf)
    for i in range(n):
        if finish_ms[i] < np.inf:
            settled[i] = _count_off(world, timeline, waiting[i], decode[i], start_ms[i], finish_ms[i])
    return settled


def settled_finish_ms(snapshot: Snapshot, plan: Plan) -> Floats:
    """float64 [n] decode finish of each waiting call in the batches that the whole plan makes; inf if not placed."""
    columns = np.ascontiguousarray(plan.decode, np.int64), plan.start_ms, plan.finish_ms
    return _settled(world_of(snapshot), snapshot.waiting, *columns)
