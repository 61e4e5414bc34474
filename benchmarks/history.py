"""The events of open workflows, so that a moment of a simulation can be written as a snapshot file.

Knows events and the engine's two ports; knows nothing of which moments are worth keeping. A file holds the history of
workflows that are still open: the state told only of these is the same but for its guess of how far running calls are
(their batches had other members), so every running call's progress is told last.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import count
from typing import Any

import msgspec
from numpy.typing import NDArray

from hexsolve import events as ev
from hexsolve.cluster import Cluster
from hexsolve.engine import PlacementEngine
from hexsolve.snapshot_file import SCHEMA, Placed
from hexsolve.tables import DECODE

Told = ev.Event | Placed


class History:
    """An engine that passes everything on to `engine` and remembers what it was told of open workflows."""

    def __init__(self, engine: PlacementEngine, cluster: Cluster) -> None:
        self.engine = engine
        self._state = _Listener(engine, cluster)

    @property
    def state(self) -> "_Listener":
        return self._state

    def decide(self, now_ms: float) -> Sequence[int]:
        return self.engine.decide(now_ms)

    def next_wakeup_ms(self) -> float:
        return self.engine.next_wakeup_ms()

    def needs_decision(self, event_kind: str) -> bool:
        return self.engine.needs_decision(event_kind)

    def events(self, now_ms: float) -> list[Told]:
        """What a state has to be told to be where this one is now, in order."""
        return [*self._state.told(), *self._state.progress(now_ms)]


class _Listener:
    """A `StatePort` that notes every event of an open workflow and passes it on."""

    def __init__(self, engine: PlacementEngine, cluster: Cluster) -> None:
        self._to = engine.state
        self._prefill = [replica.name for replica in cluster.prefill]
        self._decode = [replica.name for replica in cluster.decode]
        self._serial = count()
        self._now_ms = 0.0
        self._batch_end_ms = [0.0] * len(self._prefill)
        self._told: dict[int, list[tuple[int, Told]]] = {}  # by workflow slot: (serial, event)
        self._open: dict[int, str] = {}  # workflow_id by workflow slot
        self._calls: dict[int, tuple[int, str]] = {}  # (workflow slot, request_id) by call slot

    @property
    def prefill(self) -> NDArray[Any]:
        return self._to.prefill

    @property
    def decode(self) -> NDArray[Any]:
        return self._to.decode

    @property
    def rank(self) -> NDArray[Any]:
        return self._to.rank

    @property
    def rank_revision(self) -> int:
        return self._to.rank_revision

    def told(self) -> Iterator[Told]:
        """Events of open workflows in the order they came."""
        yield from (event for _, event in sorted((pair for told in self._told.values() for pair in told), key=_serial))

    def progress(self, now_ms: float) -> Iterator[ev.CallProgress]:
        """How far the state takes every running call to be."""
        calls = self._to.view(now_ms).calls
        for call in calls[calls["stage"] == DECODE]:
            slot, restored = int(call["slot"]), int(call["restored_tokens"])
            generated = self._to.generated_tokens(slot, now_ms)
            predicted = restored + int(call["predicted_tokens"])
            yield ev.CallProgress(
                **self._names(slot),
                now_ms=now_ms,
                generated_tokens=generated,
                predicted_output_tokens=max(1, predicted, generated),
            )

    def workflow_open(
        self, now_ms: float, workflow_id: str, workflow_class: str = "", arrival_ms: float | None = None
    ) -> int:
        slot = self._to.workflow_open(now_ms, workflow_id, workflow_class, arrival_ms)
        self._told[slot], self._open[slot] = [], workflow_id
        event = ev.WorkflowOpen(now_ms=now_ms, workflow_id=workflow_id, workflow_class=workflow_class)
        self._note(slot, event)
        return slot

    def workflow_declared(self, now_ms: float, workflow_slot: int, calls: Sequence[ev.DeclaredCall]) -> None:
        event = ev.WorkflowDeclared(now_ms=now_ms, workflow_id=self._open[workflow_slot], calls=tuple(calls))
        self._note(workflow_slot, event)
        self._to.workflow_declared(now_ms, workflow_slot, calls)

    def workflow_close(self, now_ms: float, workflow_slot: int) -> None:
        del self._told[workflow_slot], self._open[workflow_slot]
        self._to.workflow_close(now_ms, workflow_slot)

    def call_ready(self, now_ms: float, workflow_slot: int, request_id: str, **details: Any) -> int:
        slot = self._to.call_ready(now_ms, workflow_slot, request_id, **details)
        self._calls[slot] = workflow_slot, request_id
        self._tell(slot, ev.CallReady, now_ms, **details)
        return slot

    def prefill_batch(self, now_ms: float, replica_index: int, expected_end_ms: float) -> None:
        self._batch_end_ms[replica_index] = expected_end_ms
        self._to.prefill_batch(now_ms, replica_index, expected_end_ms)

    def prefill_started(self, now_ms: float, slot: int, replica_index: int, cached_tokens: int) -> None:
        source, target = self._prefill[replica_index], self._decode[self._to.decode[slot]]
        self._tell(slot, Placed, now_ms, prefill=source, decode=target)
        end_ms = self._batch_end_ms[replica_index]
        self._tell(slot, ev.PrefillStarted, now_ms, replica=source, expected_end_ms=end_ms, cached_tokens=cached_tokens)
        self._to.prefill_started(now_ms, slot, replica_index, cached_tokens)

    def prefill_done(self, now_ms: float, slot: int) -> None:
        self._tell(slot, ev.PrefillDone, now_ms)
        self._to.prefill_done(now_ms, slot)

    def transfer_done(self, now_ms: float, slot: int) -> None:
        self._tell(slot, ev.TransferDone, now_ms)
        self._to.transfer_done(now_ms, slot)

    def decode_started(self, now_ms: float, slot: int) -> None:
        self._tell(slot, ev.DecodeStarted, now_ms)
        self._to.decode_started(now_ms, slot)

    def call_progress(self, now_ms: float, slot: int, generated_tokens: int, predicted_output_tokens: int) -> None:
        counts = {"generated_tokens": generated_tokens, "predicted_output_tokens": predicted_output_tokens}
        self._tell(slot, ev.CallProgress, now_ms, **counts)
        self._to.call_progress(now_ms, slot, generated_tokens, predicted_output_tokens)

    def call_done(self, now_ms: float, slot: int, output_tokens: int) -> None:
        self._tell(slot, ev.CallDone, now_ms, output_tokens=output_tokens)
        del self._calls[slot]
        self._to.call_done(now_ms, slot, output_tokens)

    def call_requeued(self, now_ms: float, slot: int, generated_tokens: int) -> None:
        self._tell(slot, ev.CallRequeued, now_ms, generated_tokens=generated_tokens)
        self._to.call_requeued(now_ms, slot, generated_tokens)

    def prefix_held(self, workflow_slot: int, prefix_group: str, replica_index: int, tokens: int) -> None:
        if workflow_slot in self._open:
            names = {"workflow_id": self._open[workflow_slot], "prefix_group": prefix_group}
            replica = self._prefill[replica_index]
            self._note(workflow_slot, ev.PrefixHeld(now_ms=self._now_ms, replica=replica, tokens=tokens, **names))
        self._to.prefix_held(workflow_slot, prefix_group, replica_index, tokens)

    def replica_down(self, now_ms: float, role: str, index: int) -> None:
        raise NotImplementedError("recorded simulations have no faults")

    replica_up = replica_down

    def _names(self, slot: int) -> dict[str, str]:
        workflow, request_id = self._calls[slot]
        return {"workflow_id": self._open[workflow], "request_id": request_id}

    def _tell(self, slot: int, event: Any, now_ms: float, /, **details: Any) -> None:
        self._note(self._calls[slot][0], event(now_ms=now_ms, **self._names(slot), **details))

    def _note(self, workflow: int, event: Told) -> None:
        self._now_ms = event.now_ms
        self._told[workflow].append((next(self._serial), event))


def _serial(pair: tuple[int, Told]) -> int:
    return pair[0]


def snapshot_file(cluster: dict[str, Any], now_ms: float, events: Iterable[Told], description: str) -> bytes:
    """A snapshot file, an event a line, times to a microsecond, fields at their defaults left out."""
    head = {"schema": SCHEMA, "description": description, "cluster": cluster, "now_ms": _microseconds(now_ms)}
    lines = b",\n  ".join(msgspec.json.encode(_short(event)) for event in events)
    return msgspec.json.encode(head)[:-1] + b',\n "events": [\n  ' + lines + b"\n ]\n}\n"


def _short(event: Told) -> dict[str, Any]:
    values = ((name, getattr(event, name), default) for name, default in _defaults(type(event)))
    given = {name: value for name, value, default in values if value != default}
    rounded = {name: _microseconds(value) if name.endswith("_ms") else value for name, value in given.items()}
    return {"type": event.__struct_config__.tag, **rounded}


@cache
def _defaults(kind: type[Told]) -> tuple[tuple[str, object], ...]:
    return tuple((field.name, field.default) for field in msgspec.structs.fields(kind))


def _microseconds(time_ms: float) -> float:
    return round(time_ms, 3)
