"""Decode times as straight lines through a plan: how long beside what it puts there, and longer by how much per call.

The projection's own rule, step time at the batch a call joins, made linear in the number of planned calls on a replica.
Knows snapshots and plans; knows no problem and no solver.
"""

import numpy as np

from hexsolve.jit import kernel
from hexsolve.listplan import world_of
from hexsolve.policy import Plan
from hexsolve.projection import World, step_ms
from hexsolve.snapshot import Snapshot
from hexsolve.tables import Floats, Ints

_LEAST_SHARE = 0.1  # of the decode time beside the plan's calls that is left if none of them came


@kernel
def _decode_lines(
    world: World, rows: Ints, starts: Floats, finishes: Floats, home: Ints, spans: Floats, alone: Floats, more: Floats
) -> None:
    calls, decodes = world.calls, world.decodes
    n, num_decode = rows.shape[0], decodes.shape[0]
    batch, context, count = np.empty(num_decode), np.empty(num_decode), np.zeros(num_decode)
    own = np.empty(n)
    mean_own = 0.0
    for i in range(n):
        own[i] = calls[rows[i]].input_tokens + 0.5 * calls[rows[i]].predicted_tokens
        mean_own += own[i] / n
        if home[i] >= 0:
            count[home[i]] += 1.0
    for i in range(n):
        call = calls[rows[i]]
        moment = starts[i]
        batch[:] = 1.0
        context[:] = own[i]
        for c in range(calls.shape[0]):
            if spans[c, 0] <= moment < spans[c, 1]:
                batch[calls[c].decode] += 1.0
                context[calls[c].decode] += calls[c].input_tokens + 0.5 * calls[c].predicted_tokens
        shared = 0.0
        for j in range(n):
            if j != i and home[j] >= 0:
                if starts[j] <= moment < finishes[j]:
                    batch[home[j]] += 1.0
                    context[home[j]] += own[j]
                shared += max(0.0, min(finishes[i], finishes[j]) - max(moment, starts[j]))
        shared /= max(1e-9, (finishes[i] - moment) * max(1, n - 1))
        tokens = max(1.0, float(call.predicted_tokens))
        for d in range(num_decode):
            alone[i, d], more[i, d] = np.inf, 0.0
            if decodes[d].up == 1 and call.kv_blocks <= decodes[d].capacity_blocks:
                kind = decodes[d].kind
                now = step_ms(world.knots, world.knot_count, world.grid, kind, batch[d], context[d] / batch[d])
                mean = (context[d] + mean_own) / (batch[d] + 1.0)
                then = step_ms(world.knots, world.knot_count, world.grid, kind, batch[d] + 1.0, mean)
                more[i, d] = tokens * max(0.0, then - now) * shared
                # The line goes through the plan: where the call is at home it is one of `count`, else one more.
                beside = count[d] if home[i] == d else count[d] + 1.0
                alone[i, d] = max(_LEAST_SHARE * tokens * now, tokens * now - beside * more[i, d])


def decode_lines(snapshot: Snapshot, plan: Plan, positions: Ints, spans: Floats) -> tuple[Floats, Floats]:
    """Decode time of `positions` if n of them decode on a replica: first + n * second.

    Parameters
    ----------
    positions : int64 [N] waiting positions; all of them placed by `plan`.
    spans : float64 [calls, 2] decode start and finish of running and in-flight rows (`listplan.held_spans`).

    Returns
    -------
    float64 [N, D] in ms (inf where the KV never fits or the replica is down), float64 [N, D] ms per call. A further
    call slows a decode down for the part that both share, taken as the mean over all pairs of the plan.
    """
    rows = snapshot.waiting[positions]
    alone, more = np.empty((2, len(positions), len(snapshot.decodes)))
    starts, finishes, home = plan.start_ms[positions], plan.finish_ms[positions], plan.decode[positions]
    _decode_lines(world_of(snapshot), rows, starts, finishes, home, spans, alone, more)
    return alone, more
