"""Placements as a serving system reads them."""

import numpy as np
import pytest
from small_states import adopt, cluster, push, ready

from hexsolve.listplan import plan_by_risk
from hexsolve.placement import placements
from hexsolve.policies.round_robin import RoundRobin
from hexsolve.state import ClusterState


def test_names_priorities_and_reasons():
    # Two equal calls on one pair of replicas: 20 + 12 + 500 = 532 ms each alone; the second waits 20 ms.
    state = ClusterState(cluster())
    for i in range(2):
        ready(state, workflow=state.workflow_open(0.0, f"w{i}"))
    first, second = placements(state, plan_by_risk(state.snapshot(0.0)))
    assert (first.workflow_id, first.request_id, first.prefill, first.decode) == ("w0", "a", "P0", "D0")
    assert (first.priority, second.priority) == (0, 1)
    assert (first.projected_finish_ms, second.projected_finish_ms) == (pytest.approx(532.0), pytest.approx(552.0))
    assert second.projected_ratio == pytest.approx(552.0 / 532.0)
    assert second.reason == (
        "prefill on P0, D0 decodes, place 1: planned by hexagent, projected finish 552 ms, ratio 1.04"
    )


def test_a_locked_call_has_no_prefill_to_place():
    state = ClusterState(cluster())
    slot = ready(state)
    adopt(state, plan_by_risk(state.snapshot(0.0)))
    push(state, slot, 0.0, "wait")
    (only,) = placements(state, plan_by_risk(state.snapshot(0.0)))
    assert (only.prefill, only.decode) == (None, "D0")
    assert only.reason.startswith("decode on D0, place 0")


def test_calls_that_no_longer_wait_or_whose_slot_was_reused_are_left_out():
    state = ClusterState(cluster())
    gone, started, waits = ready(state), ready(state), ready(state)
    plan = plan_by_risk(state.snapshot(0.0))
    adopt(state, plan)
    push(state, gone, 0.0, "decode")
    state.call_done(1.0, gone, 5)
    push(state, started, 1.0, "prefill")
    assert ready(state, 2.0) == gone  # a new call in the old slot
    assert [state.name(waits)] == [(p.workflow_id, p.request_id) for p in placements(state, plan)]


def test_a_call_without_placement_is_left_out_and_unprojected_times_are_not_told():
    state = ClusterState(cluster())
    ready(state)
    (told,) = placements(state, RoundRobin().plan(state.snapshot(0.0)))
    assert np.isinf(told.projected_finish_ms)
    assert told.reason.endswith("planned by round-robin")
    state.replica_down(0.0, "decode", 0)
    assert placements(state, plan_by_risk(state.snapshot(0.0))) == []
