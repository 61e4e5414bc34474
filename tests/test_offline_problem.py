"""The offline problem, its judge and its list schedules: rules by hand, and every list allowed."""

from dataclasses import fields
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from offline_problems import instance, random_instance

from hexsolve_models.offline import (
    OfflineDecision,
    OfflineProblem,
    call_finishes,
    finish_ticks,
    late_count,
    max_stretch,
    mean_stretch,
    req,
    stretches,
    violations,
)
from hexsolve_models.offline.goal import MAX_STRETCH
from hexsolve_models.offline.listing import first_decision, listed
from hexsolve_models.offline.windows import paths

TWO = {
    "workflow": [0, 0],
    "ready_lag": [0, 0],
    "prefill_ticks": [[4], [4]],
    "transfer_blocks": [0, 0],
    "decode_ticks": [[5], [5]],
    "decode_work": [[1], [1]],
    "kv_blocks": [3, 3],
    "kv_capacity": [5],
}


def decision(starts, begins):
    zeros = np.zeros(len(starts), dtype=np.int64)
    return OfflineDecision(zeros, zeros, np.array(starts), np.array(begins))


def test_a_batch_shares_its_replica_but_not_its_latency():
    # Each prefill takes 4 ticks and 2 of the replica's: both can end at 4, with starts 0 and 2.
    problem = instance(**TWO | {"prefill_work": [[2], [2]], "kv_capacity": [6]})
    assert violations(problem, decision([0, 2], [4, 4])) == []
    assert "decode starts at 3: expected no earlier than 4" in violations(problem, decision([0, 2], [3, 4]))[0]
    assert "call 1 starts at 1, call 0 ends at 2" in violations(problem, decision([0, 1], [4, 4]))[0]


def test_kv_holds_one_call_at_a_time():
    # 3 + 3 blocks do not fit into 5: the second decode waits for the first one's end at 9.
    problem = instance(**TWO)
    assert violations(problem, decision([0, 4], [4, 9])) == []
    assert "6 KV blocks at tick 8: expected at most 5" in violations(problem, decision([0, 4], [4, 8]))[0]


def test_transfers_edges_and_lags_add_up():
    # Ready at 2 (release) + 1; prefill to 7; transfer 1 + 2048 * 2 // 1024 = 5; decode 12..17; child ready at 17 + 6.
    fields_ = TWO | {"release_tick": [2], "ready_lag": [1, 0], "transfer_blocks": [2, 0], "kv_capacity": [9]}
    fields_ |= {"transfer_base_ticks": [[1]], "transfer_rate_ticks": [[2048]]}
    problem = instance(**fields_ | {"edge_before": [0], "edge_after": [1], "edge_lag": [6]})
    assert violations(problem, decision([3, 23], [12, 28])) == []
    assert len(violations(problem, decision([2, 22], [11, 27]))) == 2  # the first call is a tick early at both stages
    assert call_finishes(problem, decision([3, 23], [12, 28])) == [17, 33]
    assert finish_ticks(problem, decision([3, 23], [12, 28])) == [33]
    assert paths(problem).workflow_finish(problem).tolist() == [33]


def test_objectives_are_exact():
    problem = instance(
        **TWO | {"workflow": [0, 1], "release_tick": [0, 3], "reference_ticks": [3, 7], "kv_capacity": [9]}
    )
    ratios = stretches(problem, [9, 13])
    assert ratios == [Fraction(3), Fraction(10, 7)]
    assert (max_stretch(ratios), mean_stretch(ratios)) == (Fraction(3), Fraction(31, 14))
    assert (req(ratios, Fraction(1, 2)), req(ratios, Fraction(51, 100))) == (Fraction(10, 7), Fraction(3))
    assert (late_count(ratios, Fraction(3)), late_count(ratios, Fraction(10, 7)), late_count(ratios, Fraction(1))) == (
        0,
        1,
        2,
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"workflow": [0, 2]}, r"workflow\[1\] = 2: expected 0..0"),
        ({"release_tick": [0, 0], "reference_ticks": [1, 1]}, "no call belongs to workflow 1"),
        ({"reference_ticks": [0]}, r"reference_ticks\[0\] = 0: expected 1.."),
        ({"kv_blocks": [1]}, r"kv_blocks has shape \(1,\): expected \[N\] = \(2,\)"),
        ({"prefill_work": [[5], [4]]}, r"prefill_work\[0, 0\] = 5: expected 0..4"),
        ({"decode_work": [[-1], [1]]}, r"decode_work\[0, 0\] = -1: expected 0..5"),
        ({"edge_before": [0, 1], "edge_after": [1, 0], "edge_lag": [0, 0]}, r"calls \[0, 1\] wait for one another"),
        ({"edge_before": [0], "edge_after": [2], "edge_lag": [0]}, r"edge_after\[0\] = 2: expected 0..1"),
    ],
)
def test_what_is_no_instance(change, message):
    with pytest.raises(ValueError, match=message):
        instance(**TWO | change)


def test_edges_stay_within_a_workflow():
    change = {"workflow": [0, 1], "release_tick": [0, 0], "reference_ticks": [1, 1]}
    with pytest.raises(ValueError, match="calls 0 and 1 are of workflows 0 and 1: expected one workflow"):
        instance(**TWO | change | {"edge_before": [0], "edge_after": [1], "edge_lag": [0]})


def test_a_call_that_fits_nowhere_is_named():
    problem = instance(kv_blocks=[9], kv_capacity=[8])
    assert problem.blocked_calls() == (0,)
    with pytest.raises(ValueError, match=r"calls \[0\] have no replica"):
        first_decision(problem, MAX_STRETCH)


def test_arrays_are_read_only():
    problem = instance()
    assert all(not getattr(problem, field.name).flags.writeable for field in fields(OfflineProblem))


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.randoms(use_true_random=False))
def test_every_list_is_allowed_and_no_earlier_than_its_paths(seed, scarce, rng):
    problem = random_instance(seed, scarce=scarce)
    found = listed(problem, [rng.random() for _ in range(problem.num_calls)])
    assert violations(problem, found) == []
    finish = finish_ticks(problem, found)
    assert (np.array(finish) >= paths(problem).workflow_finish(problem)).all()
