"""Finish times of whole plans: by hand, and against a recount in small steps of time."""

from dataclasses import replace

import numpy as np
import pytest
from small_states import busy_state, cluster, mixed_cluster, profile, ready

from hexsolve.listplan import held_spans, plan_by_risk, plan_in_order
from hexsolve.policies.round_robin import RoundRobin
from hexsolve.settle import settled_finish_ms
from hexsolve.state import ClusterState


def test_a_call_alone_settles_where_it_was_projected():
    state = ClusterState(mixed_cluster())
    ready(state)
    snapshot = state.snapshot(0.0)
    plan = plan_by_risk(snapshot)
    assert settled_finish_ms(snapshot, plan) == pytest.approx(plan.finish_ms)


def test_the_first_placed_is_slowed_down_by_those_that_join_later():
    # Step 10 + 5·B ms, both calls have 20 tokens; prefill of the second ends 20 ms (two tokens' worth) after the first:
    # the first does 20/15 tokens alone and shares a step of 20 ms until it is done: 20 + (20 - 20/15)·20 = 393.33 ms.
    # The second joins a batch of two and is projected alone after 20 + 300 ms, when the first was to end: until then
    # it does 300·(1/20 - ...) — counted off: 280 ms at 20 ms a step are 14 tokens, 6 more at 15 ms: 280 + 90 = 370 ms.
    state = ClusterState(cluster(prefill=(profile(prefill=(20.0, 0.0)),), decode=(profile(decode=(10.0, 5.0, 0.0)),)))
    for name in ("first", "second"):
        ready(state, name=name, tokens=(100, 20))
    snapshot = state.snapshot(0.0)
    plan = plan_in_order(snapshot, np.array([0, 1]))
    assert (plan.finish_ms - plan.start_ms).tolist() == pytest.approx([20 * 15.0, 20 * 20.0])
    assert plan.start_ms[1] - plan.start_ms[0] == pytest.approx(20.0)
    settled = settled_finish_ms(snapshot, plan) - plan.start_ms
    assert settled.tolist() == pytest.approx([20 + (20 - 20 / 15) * 20, 280 + 6 * 15])


@pytest.mark.parametrize("seed", range(6))
def test_settled_times_equal_a_walk_in_small_steps(seed):
    decode = tuple(profile(decode=(a, b, 0.0)) for a, b in ((10.0, 0.7), (14.0, 0.9), (7.0, 2.0)))
    state = busy_state(seed, cluster((profile(), profile(prefill=(5.0, 0.17))), decode, kv_tokens=400_000))
    snapshot = state.snapshot(state.clock_ms)
    plan, held = plan_by_risk(snapshot), held_spans(snapshot)
    settled = settled_finish_ms(snapshot, plan)
    for i in range(0, len(plan), 3):
        d = plan.decode[i]
        spans = [(plan.start_ms[j], plan.finish_ms[j]) for j in np.flatnonzero(plan.decode == d)]
        on_replica = (snapshot.calls["decode"] == d) & np.isfinite(held[:, 1])
        spans += [(start, end) for start, end in held[on_replica]]
        tokens = snapshot.calls["predicted_tokens"][plan.rows[i]]
        expected = walk(spans, decode[d].decode_step_ms, plan.start_ms[i], plan.finish_ms[i], tokens)
        assert settled[i] == pytest.approx(expected, abs=0.5, rel=1e-4)


def walk(spans, step_ms, now, end_ms, tokens):
    """Tokens of one call counted off in steps of 0.05 ms among the spans of all calls on its replica."""
    while tokens > 0:
        batch = sum(start <= now < end for start, end in spans) + (now >= end_ms)
        tokens -= 0.05 / step_ms(int(batch), 0.0)
        now += 0.05
    return now


def test_a_call_without_placement_never_finishes():
    state = ClusterState(cluster())
    ready(state)
    state.replica_down(0.0, "decode", 0)
    snapshot = state.snapshot(0.0)
    assert settled_finish_ms(snapshot, plan_by_risk(snapshot)).tolist() == [np.inf]
    unprojected = replace(RoundRobin().plan(snapshot))
    assert settled_finish_ms(snapshot, unprojected).tolist() == [np.inf]
