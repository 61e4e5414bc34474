"""What is learned of the rest of workflows: means by kind, drawn to broader ones; nothing without evidence."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hexsolve.catalog import load_cluster
from hexsolve.events import DeclaredCall
from hexsolve.remainder import Remainders
from hexsolve.state import ClusterState


def test_nothing_is_expected_before_anything_has_ended():
    assert Remainders().rest_ms("chat", "plan") == 0.0


def test_one_workflow_is_drawn_towards_nothing():
    learned = Remainders()
    learned.observe("chat", [("plan", 100.0), ("write", 400.0)], 400.0)
    # plan: 300 to come, write: 0. All: 150 with weight 1, so (1 * 150 + 5 * 0) / 6 = 25; class: (150 + 5 * 25) / 6.
    of_class = (150 + 5 * 25) / 6
    assert learned.rest_ms("chat", "plan") == pytest.approx((300 + 5 * of_class) / 6)
    assert learned.rest_ms("chat", "write") == pytest.approx((0 + 5 * of_class) / 6)
    assert learned.rest_ms("chat", "unseen") == pytest.approx(of_class)
    assert learned.rest_ms("unseen", "plan") == pytest.approx(25)


def test_much_evidence_is_the_mean_and_drift_is_followed():
    learned = Remainders()
    for rest_ms in (100.0, 300.0) * 200:
        learned.observe("chat", [("plan", 50.0)], 50.0 + rest_ms)
    assert learned.rest_ms("chat", "plan") == pytest.approx(200.0, rel=0.02)
    for _ in range(1000):
        learned.observe("chat", [("plan", 50.0)], 50.0 + 1000.0)
    assert learned.rest_ms("chat", "plan") == pytest.approx(1000.0, rel=0.05)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 1e6), st.floats(0, 1e6)), max_size=30))
def test_never_negative_and_never_above_the_longest_seen(workflows):
    learned = Remainders()
    for kind, revealed, final in workflows:
        learned.observe("chat", [(kind, revealed)], final)
    longest = max((final - revealed for _, revealed, final in workflows), default=0.0)
    for kind in "abcd":
        assert 0.0 <= learned.rest_ms("chat", kind) <= max(0.0, longest) * (1 + 1e-9)


SERVICE_MS = 2500.0  # about what the call takes alone


def end(state, slot, now_ms):
    state.prefill[slot], state.decode[slot] = 0, 0
    state.prefill_started(now_ms, slot, 0)
    state.prefill_done(now_ms + 1, slot)
    state.transfer_done(now_ms + 2, slot)
    state.decode_started(now_ms + 3, slot)
    state.call_done(now_ms + SERVICE_MS, slot, 200)


def reveal(state, workflow, name, now_ms, kind, dependencies=()):
    return state.call_ready(
        now_ms, workflow, name, input_tokens=1000, predicted_output_tokens=200, kind=kind, dependencies=dependencies
    )


def test_a_state_learns_from_workflows_that_ended_and_snapshots_tell_it():
    state = ClusterState(load_cluster("demo"))
    for i in range(40):
        now_ms = 3.0 * SERVICE_MS * i
        workflow = state.workflow_open(now_ms, f"w{i}", "chat")
        first = reveal(state, workflow, "a", now_ms, "plan")
        if i == 0:
            assert state.snapshot(0.0).calls["rest_ms"][0] == 0.0
        end(state, first, now_ms)
        second = reveal(state, workflow, "b", now_ms + SERVICE_MS, "write", ("a",))
        end(state, second, now_ms + SERVICE_MS)
        state.workflow_close(now_ms + 2 * SERVICE_MS, workflow)
    workflow = state.workflow_open(1e6, "new", "chat")
    reveal(state, workflow, "a", 1e6, "plan")
    snapshot = state.snapshot(1e6)
    tail_ms, whole_ms = snapshot.outlook
    rest, horizon = snapshot.calls["rest_ms"][0], snapshot.calls["horizon_ms"][0]
    # The second call has about the service of the first; 40 workflows against 5 imagined ones.
    assert 0.5 * horizon < rest < 1.1 * horizon
    assert (tail_ms[0], whole_ms[0]) == (rest, horizon + rest)
    other = state.workflow_open(1e6, "told", "chat")
    state.workflow_declared(1e6, other, (DeclaredCall(request_id="a", input_tokens=1000, output_tokens=200),))
    reveal(state, other, "a", 1e6, "plan")
    snapshot = state.snapshot(1e6)
    told = snapshot.calls["workflow"] == other
    assert (snapshot.calls["rest_ms"][told] == 0.0).all()
    assert snapshot.outlook[1][told] == snapshot.calls["horizon_ms"][told]
    assert np.isfinite(snapshot.outlook[0]).all()


def test_workflows_that_were_cut_short_teach_nothing():
    state = ClusterState(load_cluster("demo"))
    workflow = state.workflow_open(0.0, "w", "chat")
    reveal(state, workflow, "a", 0.0, "plan")
    state.workflow_close(10.0, workflow)
    workflow = state.workflow_open(20.0, "v", "chat")
    reveal(state, workflow, "a", 20.0, "plan")
    assert state.snapshot(20.0).calls["rest_ms"][0] == 0.0
