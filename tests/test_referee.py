"""The referee finds each broken rule and nothing else, and agrees with a tick-by-tick count."""

from dataclasses import replace

import numpy as np
import pytest
from epoch_problems import FEATURES, hint_within_caps, make_problem, random_problem
from hypothesis import given, settings
from hypothesis import strategies as st

from hexsolve_models import Decision, Objective, violations


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


def crowded():
    # Two calls, own prefill replicas, one decode replica of 10 blocks: 4 ticks alone, 7 for two. 5 blocks each.
    return make_problem([[1, -1], [-1, 1]], [[4]] * 2, kv=[6, 6], capacity=[10], crowding=[[3]] * 2)


def starts(*decode_start, prefill_start=(0, 0)):
    return Decision(np.array([0, 1]), np.array([0, 0]), np.array(prefill_start), np.array(decode_start))


def test_company_holds_kv_for_longer():
    # The first is done at 1 + 7 = 8, not at 1 + 4.
    assert violations(crowded(), starts(1, 8)) == []
    assert violations(crowded(), starts(1, 7)) == ["KV capacity: 12 > 10 blocks on decode replica 0 at 7, calls 0, 1"]
    alone = replace(crowded(), uncrowded_calls=np.array([2]))
    assert violations(alone, starts(1, 5)) == []
    assert violations(alone, starts(1, 4)) == ["KV capacity: 12 > 10 blocks on decode replica 0 at 4, calls 0, 1"]


def test_children_wait_for_finish_and_lag():
    # Call 0 is done at 1 + 7 = 8; call 1 may prefill from 8 + 2 on.
    family = replace(crowded(), edge_before=np.array([0]), edge_after=np.array([1]), edge_lag=np.array([2]))
    assert violations(family, starts(1, 11, prefill_start=(0, 10))) == []
    assert violations(family, starts(1, 10, prefill_start=(0, 9))) == ["edge: call 1 starts at 9, 2 after call 0 is 10"]


def test_caps_are_limits_on_other_costs():
    # Finishes 8 and 15: 23 in all, one of them after 10.
    nothing = np.zeros((2, 1), dtype=int)
    punctual = Objective(nothing, nothing, nothing[:, 0], nothing[:, 0], due_tick=[10, 10], late_weight=[4, 5])
    capped = replace(crowded(), caps=((crowded().objective, 23), (punctual, 5)))
    assert violations(capped, starts(1, 8)) == []
    assert violations(capped, starts(1, 9)) == ["cap 0: costs 24, at most 23"]
    stricter = replace(capped, caps=((capped.objective, 22), (punctual, 4)))
    assert violations(stricter, starts(1, 8)) == ["cap 0: costs 23, at most 22", "cap 1: costs 5, at most 4"]


@given(
    st.integers(0, 10**6),
    st.integers(1, 6),
    st.integers(-3, 3),
    st.integers(0, 5),
    st.booleans(),
    st.sets(st.sampled_from(FEATURES)),
)
@settings(max_examples=200)
def test_agrees_with_a_count_of_every_tick(seed, num_calls, shift, moved_call, is_prefill, features):
    """Shift one start of an allowed decision and compare with the rules spelled out tick by tick."""
    epoch = random_problem(seed, num_calls, features=features)
    allowed = hint_within_caps(epoch)
    field = "prefill_start" if is_prefill else "decode_start"
    starts = getattr(allowed, field).copy()
    c = moved_call % num_calls
    if starts[c] >= 0:
        starts[c] = max(0, starts[c] + shift)
    decision = replace(allowed, **{field: starts})
    assert (violations(epoch, decision) == []) == every_tick_is_fine(epoch, decision)


def every_tick_is_fine(epoch, decision):
    arrival, calls = decision.arrival(epoch), np.arange(epoch.num_calls)
    together = (decision.decode[:, None] == decision.decode).sum(axis=0)
    excess = np.clip(together - epoch.uncrowded_calls[decision.decode], 0, None)
    ticks = epoch.decode_ticks[calls, decision.decode] + excess * epoch.crowding_ticks[calls, decision.decode]
    finish = decision.decode_start + ticks
    if (decision.decode_start < arrival).any():
        return False
    if (decision.prefill_start[epoch.edge_after] - epoch.edge_lag < finish[epoch.edge_before]).any():
        return False
    for objective, limit in epoch.caps:
        last = [(finish + objective.tail_ticks)[epoch.workflow == w].max() for w in range(epoch.num_workflows)]
        if objective.late_weight[last > objective.due_tick].sum() > limit:  # caps drawn at random are steps alone
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
