"""Events by name become state changes by slot. Knows ids and replica names; never raises, counts what it cannot use."""

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

from hexsolve import events as ev
from hexsolve.books import MAX_CLOCK_MS
from hexsolve.state import ClusterState
from hexsolve.tables import WAIT_PREFILL


class Inbox:
    """Tells a `ClusterState` what events say.

    Events for unknown workflows, calls or replicas, duplicates, and events with impossible content leave the state as
    it is and are counted in `state.anomalies`.
    """

    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self._workflows: dict[str, int] = {}
        self._replicas: dict[str, tuple[str, int]] = {}
        for role, pool in (("prefill", state.cluster.prefill), ("decode", state.cluster.decode)):
            self._replicas |= {replica.name: (role, index) for index, replica in enumerate(pool)}
        self._handlers: dict[type, Callable[[Any], object]] = {
            ev.WorkflowOpen: self._workflow_open,
            ev.WorkflowDeclared: lambda e: state.workflow_declared(
                e.now_ms, self._workflows.get(e.workflow_id, -1), e.calls
            ),
            ev.CallReady: self._call_ready,
            ev.PrefillStarted: self._prefill_started,
            ev.PrefillDone: lambda e: state.prefill_done(e.now_ms, self._slot(e)),
            ev.TransferDone: lambda e: state.transfer_done(e.now_ms, self._slot(e)),
            ev.DecodeStarted: lambda e: state.decode_started(e.now_ms, self._slot(e)),
            ev.CallProgress: lambda e: state.call_progress(
                e.now_ms, self._slot(e), e.generated_tokens, e.predicted_output_tokens
            ),
            ev.CallDone: lambda e: state.call_done(e.now_ms, self._slot(e), e.output_tokens),
            ev.CallRequeued: lambda e: state.call_requeued(e.now_ms, self._slot(e), e.generated_tokens),
            ev.PrefixHeld: self._prefix_held,
            ev.ReplicaDown: self._replica_down,
            ev.ReplicaUp: self._replica_up,
            ev.WorkflowClose: self._workflow_close,
        }

    def tell(self, event: ev.Event) -> None:
        """Take one event; see the class for what happens to nonsense."""
        handler = self._handlers.get(type(event))
        if handler is None:
            self._count(type(event).__name__, "not an event")
        elif not _usable(event):
            self._count(type(event).__name__, "field of the wrong type or out of range")
        else:
            handler(event)

    def _count(self, name: str, reason: str) -> None:
        self._state.anomalies[f"{name}: {reason}"] += 1

    def _slot(self, event: Any) -> int:
        workflow = self._workflows.get(event.workflow_id)
        record = self._state.workflows.get(-1 if workflow is None else workflow)
        return -1 if record is None else record.slots.get(event.request_id, -1)

    def _workflow_open(self, event: ev.WorkflowOpen) -> None:
        if event.workflow_id in self._workflows:
            self._count("WorkflowOpen", "duplicate")
            return
        slot = self._state.workflow_open(event.now_ms, event.workflow_id, event.workflow_class)
        self._workflows[event.workflow_id] = slot

    def _call_ready(self, event: ev.CallReady) -> None:
        self._state.call_ready(
            event.now_ms,
            self._workflows.get(event.workflow_id, -1),
            event.request_id,
            input_tokens=event.input_tokens,
            predicted_output_tokens=event.predicted_output_tokens,
            dependencies=tuple(event.dependencies),
            kind=event.kind,
            cached_prefix_tokens=event.cached_prefix_tokens,
            prefix_group=event.prefix_group,
        )

    def _prefill_started(self, event: ev.PrefillStarted) -> None:
        role, index = self._replicas.get(event.replica, ("", -1))
        if role != "prefill":
            self._count("PrefillStarted", "unknown prefill replica")
            return
        slot = self._slot(event)
        if slot >= 0 and self._state.stage[slot] == WAIT_PREFILL and self._state.decode[slot] >= 0:
            self._state.prefill_batch(event.now_ms, index, event.expected_end_ms)
        self._state.prefill_started(event.now_ms, slot, index, event.cached_tokens)

    def _prefix_held(self, event: ev.PrefixHeld) -> None:
        role, index = self._replicas.get(event.replica, ("", -1))
        if role != "prefill" or event.tokens < 0:
            self._count("PrefixHeld", "unknown prefill replica or negative tokens")
            return
        workflow = self._workflows.get(event.workflow_id, -1)
        self._state.prefix_held(workflow, event.prefix_group, index, event.tokens)

    def _replica_down(self, event: ev.ReplicaDown) -> None:
        role, index = self._replicas.get(event.replica, ("", -1))
        if index < 0:
            self._count("ReplicaDown", "unknown replica")
            return
        state = self._state
        lost = [(slot, state.generated_tokens(slot, event.now_ms)) for slot in state.calls_on(role, index)]
        state.replica_down(event.now_ms, role, index)
        for slot, generated in lost:
            state.call_requeued(event.now_ms, slot, generated)

    def _replica_up(self, event: ev.ReplicaUp) -> None:
        role, index = self._replicas.get(event.replica, ("", -1))
        if index < 0:
            self._count("ReplicaUp", "unknown replica")
            return
        self._state.replica_up(event.now_ms, role, index)

    def _workflow_close(self, event: ev.WorkflowClose) -> None:
        self._state.workflow_close(event.now_ms, self._workflows.pop(event.workflow_id, -1))


def _usable(event: Any) -> bool:
    """Whether every field has its declared kind of value; events built in Python are not checked by msgspec."""
    for name in event.__struct_fields__:
        value: Any = getattr(event, name)
        if name.endswith("_ms"):
            if not _is(Real, value) or not abs(value) < MAX_CLOCK_MS:
                return False
        elif name.endswith("tokens"):
            if not _is(Integral, value) or not 0 <= value < 2**31:
                return False
        elif name == "dependencies":
            if not isinstance(value, tuple | list) or not all(isinstance(item, str) for item in value):
                return False
        elif name == "calls":
            if not isinstance(value, tuple | list) or not all(type(item) is ev.DeclaredCall for item in value):
                return False
            if not all(_usable(item) for item in value):
                return False
        elif not isinstance(value, str):
            return False
    return True


def _is(kind: type, value: Any) -> bool:
    """Number of this kind, Python's or NumPy's; True and False are no numbers here."""
    return isinstance(value, kind) and not isinstance(value, bool)
