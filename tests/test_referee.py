"""The referee finds each broken rule and nothing else, and agrees with a tick-by-tick count."""

from dataclasses import replace

import numpy as np
import pytest
from epoch_problems import make_problem, random_problem
from hypothesis import given, settings
from hypothesis import strategies as st

from hexsolve_models import Decision, earliest_finish, violations


def problem():
    # Two free calls and one locked to D1; P0 busy until 2; transfer 1; D0 holds 10 blocks, 4 of them held until 8.
    return make_problem(
        [[3, -1], [3, 4], [-1, -1]],
        [[5, 5], [5, -1], [6, 6]],
        kv=[5, 5, 5],
        capacity=[10, 8],
        transfer=[[1, 1], [1, 1]],
        release=[0, 1, 3],
        locked=[-1, -1, 1],
        free_tick=[2, 0],
        held=[(0, 0, 8, 4)],
    )


ALLOWED = {"prefill": [0, 1, -1], "decode": [0, 0, 1], "prefill_start": [2, 1, -1], "decode_start": [13, 8, 3]}


def decide(**changes):
    return Decision(**{name: np.array(row) for name, row in (ALLOWED | changes).items()})


def test_allowed():
    assert violations(problem(), decide()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prefill": [0, 1]}, "size: decision.prefill has 2 entries, expected 3"),
        ({"decode": [0, 0, 0]}, "locked decode: call 2 is bound to decode replica 1, placed on 0"),
        ({"prefill": [0, 1, 0]}, "locked prefill: call 2 has no prefill to place, got replica 0, start -1"),
        ({"prefill_start": [2, 1, 0]}, "locked prefill: call 2 has no prefill to place, got replica -1, start 0"),
        ({"prefill": [1, 1, -1]}, "prefill replica: call 0 may not prefill on replica 1"),
        ({"prefill": [2, 1, -1]}, "prefill replica: call 0 may not prefill on replica 2"),
        ({"prefill": [-1, 1, -1]}, "prefill replica: call 0 may not prefill on replica -1"),
        ({"decode": [0, 1, 1]}, "decode replica: call 1 may not decode on replica 1"),
        ({"decode": [-1, 0, 1]}, "decode replica: call 0 may not decode on replica -1"),
        ({"prefill_start": [1, 1, -1]}, "busy prefill: call 0 starts on replica 0 at 1, free at 2"),
        ({"prefill_start": [2, 0, -1]}, "release: call 1 prefills on replica 1 at 0, released at 1"),
        ({"decode_start": [13, 8, 2]}, "release: locked call 2 decodes on replica 1 at 2, its KV is there at 3"),
        ({"prefill_start": [10, 1, -1]}, "transfer: call 0 decodes on replica 0 at 13, its KV arrives at 14"),
        (
            {"prefill": [0, 0, -1], "prefill_start": [2, 4, -1], "decode_start": [13, 8, 3]},
            "prefill overlap: calls 0 and 1 on replica 0, 1 starts at 4 before 5",
        ),
        ({"decode_start": [6, 11, 3]}, None),  # 5 + 4 held fit in 10
        ({"decode_start": [6, 8, 3]}, None),  # the held 4 end at 8 when call 1 comes: 5 + 5
        ({"decode_start": [7, 7, 3]}, "KV capacity: 14 > 10 blocks on decode replica 0 at 7, calls 0, 1"),
        ({"decode": [1, 0, 1]}, None),  # on D1 from 13, after the locked call
        (
            {"decode": [1, 0, 1], "decode_start": [8, 8, 3]},
            "KV capacity: 10 > 8 blocks on decode replica 1 at 8, calls 0, 2",
        ),
    ],
)
def test_each_rule(changes, message):
    found = violations(problem(), decide(**changes))
    assert found == ([] if message is None else [message])


def test_held_interval_that_starts_inside_a_call_counts():
    inside = make_problem([[1]], [[5]], kv=[6], capacity=[10], held=[(0, 3, 9, 5)])
    early = Decision(np.array([0]), np.array([0]), np.array([0]), np.array([1]))
    assert violations(inside, early) == ["KV capacity: 11 > 10 blocks on decode replica 0 at 3, calls 0"]


def test_held_kv_alone_breaks_no_rule():
    over = make_problem([[1]], [[5]], kv=[6], capacity=[10], held=[(0, 0, 9, 50)])
    late = Decision(np.array([0]), np.array([0]), np.array([0]), np.array([9]))
    assert violations(over, late) == []


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(-3, 3), st.integers(0, 5), st.booleans())
@settings(max_examples=150, deadline=None)
def test_agrees_with_a_count_of_every_tick(seed, num_calls, shift, moved_call, is_prefill):
    """Shift one start of an allowed decision and compare with the rules spelled out tick by tick."""
    epoch = random_problem(seed, num_calls)
    allowed = earliest_finish(epoch, np.arange(num_calls))
    field = "prefill_start" if is_prefill else "decode_start"
    starts = getattr(allowed, field).copy()
    c = moved_call % num_calls
    if starts[c] >= 0:
        starts[c] = max(0, starts[c] + shift)
    decision = replace(allowed, **{field: starts})
    assert (violations(epoch, decision) == []) == every_tick_is_fine(epoch, decision)


def every_tick_is_fine(epoch, decision):
    arrival, finish = decision.arrival(epoch), decision.decode_finish(epoch)
    if (decision.decode_start < arrival).any():
        return False
    for tick in range(int(finish.max()) + 1):
        for p in range(epoch.num_prefill):
            end = decision.prefill_start + epoch.prefill_ticks[:, p]
            busy = (decision.prefill == p) & (decision.prefill_start <= tick) & (tick < end)
            too_soon = (tick < epoch.release_tick) | (tick < epoch.prefill_free_tick[p])
            if busy.sum() > 1 or (busy & too_soon).any():
                return False
        for d in range(epoch.num_decode):
            here = (decision.decode == d) & (decision.decode_start <= tick) & (tick < finish)
            held = (epoch.held_decode == d) & (epoch.held_start <= tick) & (tick < epoch.held_end)
            use = epoch.kv_blocks[here].sum() + epoch.held_blocks[held].sum()
            if here.any() and use > epoch.kv_capacity[d]:
                return False
    return True
