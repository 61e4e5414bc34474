"""Standalone completion horizon H_w(t): the revealed part of one workflow, alone on the empty cluster.

HexAGenT §4 (FIELD.md §1): the makespan of the subgraph revealed so far if the workflow ran alone. It is a list schedule
that grows by one call per reveal: the call takes the prefill replica that finishes it first, given what the workflow's
own earlier calls occupy there, and the decode replica with the earliest finish at batch one. Observed service times
replace estimates as calls complete. Knows one workflow; knows nothing of the others or of load.
"""

import numpy as np

from hexsolve.jit import leaf
from hexsolve.projection import step_ms
from hexsolve.tables import Floats, Ints


@leaf
def place_alone(
    ready_ms: float,
    input_tokens: float,
    predicted_tokens: float,
    cached: int,
    prefill_ms: Floats,
    prefill_kind: Ints,
    decode_kind: Ints,
    capacity_blocks: Ints,
    kv_blocks: int,
    pair: Floats,
    knots: Floats,
    knot_count: Ints,
    grid: Floats,
    free_ms: Floats,
) -> tuple[float, float]:
    """Append one call to the standalone schedule; returns (start, finish) in ms and updates `free_ms` [P] in place.

    `prefill_ms` is [prefill kinds, 2]; `cached` is 1 if the workflow's own earlier calls left the prefix behind.
    """
    num_prefill, num_decode = pair.shape[1], pair.shape[2]
    context = input_tokens + 0.5 * predicted_tokens
    best, best_p, best_end = np.inf, 0, ready_ms
    for d in range(num_decode):
        if kv_blocks > capacity_blocks[d]:
            continue
        decode_ms = predicted_tokens * step_ms(knots, knot_count, grid, decode_kind[d], 1.0, context)
        for p in range(num_prefill):
            end = max(ready_ms, free_ms[p]) + prefill_ms[prefill_kind[p], cached]
            finish = end + pair[0, p, d] + pair[1, p, d] * input_tokens + decode_ms
            if finish < best or (finish == best and p < best_p):
                best, best_p, best_end = finish, p, end
    free_ms[best_p] = best_end
    return best_end - prefill_ms[prefill_kind[best_p], cached], best
