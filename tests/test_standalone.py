"""The standalone horizon H_w(t), worked out by hand: prefill 10 + 0.1·N ms, transfer 2 + 0.1·N ms, 10 ms per token."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_states import adopt, cluster, mixed_cluster, profile, push, ready

from hexsolve.listplan import plan_by_risk
from hexsolve.state import ClusterState

ALONE_MS = 20.0 + 12.0 + 500.0  # a call of (100, 50) tokens


def run(state, slot, start_ms, finish_ms):
    """Serve one call: prefill and transfer take 32 ms from `start_ms`, decode the rest."""
    adopt(state, plan_by_risk(state.snapshot(start_ms)))
    state.prefill_started(start_ms, slot, 0)
    state.prefill_done(start_ms + 20.0, slot)
    state.transfer_done(start_ms + 32.0, slot)
    state.decode_started(start_ms + 32.0, slot)
    state.call_done(finish_ms, slot, 50)


def test_one_call_is_its_best_service():
    state = ClusterState(cluster())
    w = state.workflow_open(0.0, "w")
    ready(state, workflow=w)
    assert state.horizon_ms(w) == pytest.approx(ALONE_MS)


def test_the_best_pair_counts_transfer_and_capacity():
    # D0 needs 10 ms per token but holds 320 tokens only; D1 needs 20. (100, 50) fits D0: 532; (300, 50) does not:
    # 40 + 32 + 1000 on D1.
    on = cluster(decode=(profile(), profile(decode=(20.0, 0.0, 0.0))), kv_tokens=(320, 16_000))
    state = ClusterState(on)
    small, large = state.workflow_open(0.0, "small"), state.workflow_open(0.0, "large")
    ready(state, workflow=small)
    ready(state, workflow=large, tokens=(300, 50))
    assert state.horizon_ms(small) == pytest.approx(ALONE_MS)
    assert state.horizon_ms(large) == pytest.approx(1072.0)


def test_a_chain_adds_best_services_and_tool_delays():
    # Each call is served as if alone; the second is revealed 300 ms after the first is done: 532 + 300 + 532.
    state = ClusterState(cluster())
    w = state.workflow_open(0.0, "w")
    run(state, ready(state, workflow=w), 0.0, ALONE_MS)
    ready(state, ALONE_MS + 300.0, workflow=w, name="b", dependencies=("a",))
    assert state.horizon_ms(w) == pytest.approx(2 * ALONE_MS + 300.0)


def test_waiting_under_load_does_not_lengthen_the_horizon():
    # The first call waits 700 ms for prefill; H counts its service only.
    state = ClusterState(cluster())
    w = state.workflow_open(0.0, "w")
    run(state, ready(state, workflow=w), 700.0, 700.0 + ALONE_MS)
    ready(state, 700.0 + ALONE_MS, workflow=w, name="b", dependencies=("a",))
    assert state.horizon_ms(w) == pytest.approx(2 * ALONE_MS)


def test_a_fan_out_wider_than_the_pool_queues():
    # Three siblings on two equal prefill replicas: the third starts its prefill at 20. Decodes run at batch one.
    state = ClusterState(cluster((profile(), profile())))
    w = state.workflow_open(0.0, "w")
    for name in "abc":
        ready(state, workflow=w, name=name)
    assert state.horizon_ms(w) == pytest.approx(20.0 + ALONE_MS)


def test_another_workflow_does_not_matter():
    state = ClusterState(cluster())
    for _ in range(5):
        ready(state)
    w = state.workflow_open(0.0, "alone")
    ready(state, workflow=w)
    assert state.horizon_ms(w) == pytest.approx(ALONE_MS)


@pytest.mark.parametrize("decode_ms", [200.0, 900.0])
def test_observed_service_replaces_the_estimate(decode_ms):
    # 32 ms of prefill and transfer as estimated, then 200 or 900 ms of decode instead of 500.
    state = ClusterState(cluster())
    w = state.workflow_open(0.0, "w")
    run(state, ready(state, workflow=w), 0.0, 32.0 + decode_ms)
    assert state.horizon_ms(w) == pytest.approx(32.0 + decode_ms)


def test_a_prefix_left_by_an_earlier_call_shortens_the_standalone_prefill():
    # 100 of 200 tokens cached: the second call's prefill takes 10 + 10 ms instead of 30, after the first one's 30.
    state = ClusterState(cluster())
    w = state.workflow_open(0.0, "w")
    for name in "ab":
        slot = ready(state, workflow=w, name=name, tokens=(200, 50), cached_prefix_tokens=100, prefix_group="g")
    starts = state.snapshot(0.0).calls[["alone_start_ms", "alone_finish_ms"]]
    assert starts["alone_start_ms"].tolist() == pytest.approx([0.0, 30.0])
    assert starts["alone_finish_ms"][slot] == pytest.approx(30.0 + 20.0 + 22.0 + 500.0)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 2000), st.integers(1, 300), st.floats(0.0, 500.0), st.booleans()),
        min_size=1,
        max_size=12,
    )
)
def test_the_horizon_never_falls_when_calls_are_revealed(calls):
    state = ClusterState(mixed_cluster())
    w = state.workflow_open(0.0, "w")
    now_ms, horizons, names = 0.0, [0.0], []
    for i, (input_tokens, predicted, delay_ms, chained) in enumerate(calls):
        now_ms += delay_ms
        parents = tuple(names[-1:]) if chained else ()
        ready(state, now_ms, workflow=w, name=str(i), tokens=(input_tokens, predicted), dependencies=parents)
        names.append(str(i))
        horizons.append(state.horizon_ms(w))
    assert np.all(np.diff(horizons) >= 0.0)


def test_served_calls_free_nothing_for_others():
    # Pushing calls through the cluster leaves the standalone schedules of other workflows alone.
    state = ClusterState(cluster())
    w = state.workflow_open(0.0, "w")
    slot = ready(state, workflow=w)
    before = state.horizon_ms(w)
    other = ready(state)
    adopt(state, plan_by_risk(state.snapshot(0.0)))
    push(state, other, 5.0, "decode")
    assert state.horizon_ms(w) == before
    assert state.stage[slot] == 1
