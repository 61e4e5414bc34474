"""Events by name, nonsense included: nothing raises, everything without effect is counted."""

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_states import adopt, cluster, profile

from hexsolve import events as ev
from hexsolve.inbox import Inbox
from hexsolve.listplan import plan_by_risk
from hexsolve.state import ClusterState
from hexsolve.tables import DECODE, PREFILL, WAIT_PREFILL


@pytest.fixture
def state():
    return ClusterState(cluster((profile(), profile()), (profile(), profile())))


def opened(state, *, calls=1):
    """An inbox that knows workflow w with calls c0, c1, ... that are placed."""
    inbox = Inbox(state)
    inbox.tell(ev.WorkflowOpen(now_ms=0.0, workflow_id="w"))
    for i in range(calls):
        inbox.tell(call_ready(request_id=f"c{i}"))
    adopt(state, plan_by_risk(state.snapshot(0.0)))
    return inbox


def call_ready(**changes):
    fields = {"now_ms": 0.0, "workflow_id": "w", "request_id": "c0", "input_tokens": 100, "predicted_output_tokens": 50}
    return ev.CallReady(**(fields | changes))


def serve(inbox, request_id="c0", *, until="decode"):
    name = {"workflow_id": "w", "request_id": request_id}
    inbox.tell(ev.PrefillStarted(now_ms=0.0, replica="P0", expected_end_ms=20.0, **name))
    if until == "prefill":
        return
    inbox.tell(ev.PrefillDone(now_ms=20.0, **name))
    inbox.tell(ev.TransferDone(now_ms=32.0, **name))
    inbox.tell(ev.DecodeStarted(now_ms=32.0, **name))


def test_a_life_without_anomalies(state):
    inbox = opened(state)
    serve(inbox)
    assert state.stage[0] == DECODE
    inbox.tell(
        ev.CallProgress(now_ms=132.0, workflow_id="w", request_id="c0", generated_tokens=9, predicted_output_tokens=60)
    )
    inbox.tell(ev.CallDone(now_ms=632.0, workflow_id="w", request_id="c0", output_tokens=60))
    inbox.tell(ev.PrefixHeld(now_ms=632.0, workflow_id="w", prefix_group="g", replica="P0", tokens=160))
    inbox.tell(ev.WorkflowClose(now_ms=632.0, workflow_id="w"))
    assert not state.anomalies
    assert not state.workflows


def test_a_batch_in_progress_is_known_by_its_calls(state):
    inbox = opened(state)
    serve(inbox, until="prefill")
    snapshot = state.snapshot(5.0)
    assert snapshot.prefills["free_ms"].tolist() == [20.0, 0.0]
    assert snapshot.calls["expected_ms"][0] == 20.0


def test_numpy_numbers_are_numbers(state):
    inbox = opened(state)
    inbox.tell(
        call_ready(
            now_ms=np.float32(1.0), request_id="n", input_tokens=np.int32(70), predicted_output_tokens=np.int64(9)
        )
    )
    assert not state.anomalies
    assert len(state.snapshot(1.0).calls) == 2


NONSENSE = [
    (None, "NoneType: not an event"),
    ("call_ready", "str: not an event"),
    (call_ready(now_ms=math.nan), "CallReady: field of the wrong type or out of range"),
    (call_ready(now_ms=math.inf), "CallReady: field of the wrong type or out of range"),
    (call_ready(now_ms=10**400), "CallReady: field of the wrong type or out of range"),
    (call_ready(now_ms=1e300), "CallReady: field of the wrong type or out of range"),
    (call_ready(now_ms="0"), "CallReady: field of the wrong type or out of range"),
    (call_ready(now_ms=True), "CallReady: field of the wrong type or out of range"),
    (call_ready(now_ms=None), "CallReady: field of the wrong type or out of range"),
    (call_ready(input_tokens=-3), "CallReady: field of the wrong type or out of range"),
    (call_ready(input_tokens=1.5), "CallReady: field of the wrong type or out of range"),
    (call_ready(input_tokens=10**400), "CallReady: field of the wrong type or out of range"),
    (call_ready(input_tokens=math.nan), "CallReady: field of the wrong type or out of range"),
    (call_ready(request_id=["c0"]), "CallReady: field of the wrong type or out of range"),
    (call_ready(dependencies="c0"), "CallReady: field of the wrong type or out of range"),
    (call_ready(dependencies=(1,)), "CallReady: field of the wrong type or out of range"),
    (call_ready(), "call_ready: duplicate"),
    (call_ready(workflow_id="?"), "call_ready: unknown workflow"),
    (call_ready(request_id="x", input_tokens=0), "call_ready: token counts out of range"),
    (call_ready(request_id="x", cached_prefix_tokens=100), "call_ready: token counts out of range"),
    (call_ready(request_id="x", input_tokens=10**9), "call_ready: KV fits no replica"),
    (ev.WorkflowOpen(now_ms=0.0, workflow_id="w"), "WorkflowOpen: duplicate"),
    (ev.WorkflowClose(now_ms=0.0, workflow_id="?"), "workflow_close: unknown workflow"),
    (ev.PrefillDone(now_ms=0.0, workflow_id="w", request_id="c0"), "prefill_done: call in stage wait_prefill"),
    (ev.PrefillDone(now_ms=0.0, workflow_id="w", request_id="?"), "prefill_done: unknown call"),
    (ev.TransferDone(now_ms=0.0, workflow_id="?", request_id="c0"), "transfer_done: unknown call"),
    (
        ev.CallDone(now_ms=0.0, workflow_id="w", request_id="c0", output_tokens=1),
        "call_done: call in stage wait_prefill",
    ),
    (
        ev.CallProgress(now_ms=0.0, workflow_id="w", request_id="c0", generated_tokens=1, predicted_output_tokens=2),
        "call_progress: call in stage wait_prefill",
    ),
    (ev.CallRequeued(now_ms=0.0, workflow_id="w", request_id="?", generated_tokens=0), "call_requeued: unknown call"),
    (
        ev.CallRequeued(now_ms=0.0, workflow_id="w", request_id="c0", generated_tokens=2**31 - 1),
        "call_requeued: token counts out of range",
    ),
    (
        ev.PrefillStarted(now_ms=0.0, workflow_id="w", request_id="c0", replica="D0", expected_end_ms=1.0),
        "PrefillStarted: unknown prefill replica",
    ),
    (
        ev.PrefillStarted(now_ms=0.0, workflow_id="w", request_id="?", replica="P0", expected_end_ms=1e12),
        "prefill_started: unknown call",
    ),
    (
        ev.PrefixHeld(now_ms=0.0, workflow_id="?", prefix_group="g", replica="P0", tokens=3),
        "prefix_held: unknown workflow",
    ),
    (
        ev.PrefixHeld(now_ms=0.0, workflow_id="w", prefix_group="g", replica="D0", tokens=3),
        "PrefixHeld: unknown prefill replica or negative tokens",
    ),
    (ev.ReplicaDown(now_ms=0.0, replica="?"), "ReplicaDown: unknown replica"),
    (ev.ReplicaUp(now_ms=0.0, replica="P0"), "replica_up: already up"),
]


@pytest.mark.parametrize(("event", "counted"), NONSENSE)
def test_nonsense_is_counted(state, event, counted):
    inbox = opened(state)
    before = state.snapshot(0.0)
    inbox.tell(event)
    assert state.anomalies == {counted: 1}
    after = state.snapshot(0.0)
    assert after.prefills.tolist() == before.prefills.tolist()
    if "call_requeued: token" not in counted:  # the call waits anew, only its tokens are not believed
        assert np.array_equal(after.calls, before.calls)


def test_events_that_arrive_late_take_the_time_of_the_latest(state):
    inbox = opened(state)
    inbox.tell(ev.WorkflowOpen(now_ms=50.0, workflow_id="x"))
    inbox.tell(ev.WorkflowOpen(now_ms=10.0, workflow_id="y"))
    assert state.anomalies == {"clock: went backwards": 1}
    assert state.workflows[2].arrival_ms == 50.0


def test_a_lost_decode_replica_sends_its_calls_back_with_what_they_generated(state):
    # c0 decodes on D0 since 32 at 10 ms per token: 20 tokens at 232. c1 waits for prefill, placed on D0 as well.
    inbox = opened(state, calls=2)
    state.decode[:2] = 0
    serve(inbox)
    inbox.tell(ev.ReplicaDown(now_ms=232.0, replica="D0"))
    calls = state.snapshot(232.0).calls
    assert calls["stage"].tolist() == [WAIT_PREFILL, WAIT_PREFILL]
    assert calls["input_tokens"].tolist() == [120, 100]
    assert calls["decode"].tolist() == [-1, -1]
    assert not state.anomalies
    assert plan_by_risk(state.snapshot(232.0)).decode.tolist() == [1, 1]
    inbox.tell(ev.ReplicaUp(now_ms=240.0, replica="D0"))
    assert state.decodes["up"].tolist() == [1, 1]
    assert not state.anomalies


def test_a_lost_prefill_replica_takes_prefills_and_transfers_with_it(state):
    inbox = opened(state, calls=3)
    for request_id in ("c0", "c1"):
        serve(inbox, request_id, until="prefill")
    inbox.tell(ev.PrefillDone(now_ms=20.0, workflow_id="w", request_id="c1"))
    state.prefill[2] = 1
    inbox.tell(ev.ReplicaDown(now_ms=25.0, replica="P0"))
    assert state.stage[:3].tolist() == [WAIT_PREFILL] * 3
    assert state.prefill[:3].tolist() == [-1, -1, 1]
    assert PREFILL not in state.stage


def test_a_reopened_workflow_is_a_new_one(state):
    inbox = opened(state)
    inbox.tell(ev.WorkflowClose(now_ms=1.0, workflow_id="w"))
    inbox.tell(ev.WorkflowOpen(now_ms=2.0, workflow_id="w"))
    inbox.tell(call_ready(now_ms=2.0))
    assert state.anomalies == {"workflow_close: call in stage wait_prefill abandoned": 1}
    assert len(state.snapshot(2.0).calls) == 1


def test_json_round_trip_and_refusal():
    event = call_ready(dependencies=("a", "b"))
    line = msgspec.json.encode(event)
    assert b'"type":"call_ready"' in line
    assert ev.decode_event(line) == event
    for wrong in (b"{}", b"[", b'{"type":"nope"}', line[:-1] + b',"more":1}', line.replace(b"100", b'"100"')):
        with pytest.raises(msgspec.DecodeError):
            ev.decode_event(wrong)


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-10, 400),
    st.sampled_from([2**31, 2**63, 10**400, -(10**400)]),
    st.floats(),
    st.sampled_from(["w", "c0", "c1", "P0", "D0", "D1", ""]),
    st.binary(max_size=2),
    st.lists(st.sampled_from(["c0", 3, None]), max_size=2),
)
EVENT_TYPES = list(Inbox(ClusterState(cluster()))._handlers)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(EVENT_TYPES), st.lists(VALUES, min_size=12, max_size=12)), max_size=12))
def test_any_content_in_any_order_never_raises(stream):
    state = ClusterState(cluster((profile(), profile()), (profile(), profile())))
    inbox = opened(state, calls=2)
    for kind, values in stream:
        inbox.tell(kind(**dict(zip(kind.__struct_fields__, values, strict=False))))
    adopt(state, plan_by_risk(state.snapshot(0.0)))
