"""What was told to an engine, noted on its way. Knows events, spans and levels; draws nothing and changes nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from numpy.typing import NDArray

from hexsolve.cluster import BLOCK_TOKENS, Cluster
from hexsolve.sim.ports import EnginePort, StatePort


class Span(NamedTuple):
    """A prefill batch, a call in decode, or an open workflow (`replica` -1).

    `source` of a call in decode: the prefill replica it came from and when its prefill ended there.
    """

    name: str
    replica: int
    start_ms: float
    end_ms: float
    details: dict[str, Any]
    source: tuple[int, float] | None = None


class Level(NamedTuple):
    """The value of a counter of a replica from `time_ms` on."""

    role: str
    replica: int
    counter: str
    time_ms: float
    value: int


class Mark(NamedTuple):
    """A replica went down or came up."""

    role: str
    replica: int
    time_ms: float
    text: str


@dataclass(slots=True)
class _Call:
    workflow: int
    request_id: str
    input_tokens: int
    predicted_tokens: int
    kind: str
    ready_ms: float
    stage: str = "wait"
    prefill: int = -1
    decode: int = -1
    since_ms: float = 0.0  # start of prefill, end of prefill or start of decode, by stage
    kv_tokens: int = 0
    source: tuple[int, float] | None = None
    details: dict[str, Any] = field(default_factory=dict)


@dataclass
class Recording:
    """What a run left: spans by role (``prefill``, ``decode``, ``workflow``), counter levels and marks."""

    spans: dict[str, list[Span]] = field(default_factory=lambda: {"prefill": [], "decode": [], "workflow": []})
    levels: list[Level] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)


class Recorder:
    """An engine that passes everything on to `engine` and notes it in `recording`.

    KV levels assume that a call holds the blocks of its prompt and predicted output while it decodes, as the simulator
    reserves them (push-back by recomputation).
    """

    def __init__(self, engine: EnginePort, cluster: Cluster) -> None:
        self._engine = engine
        self._state = _RecordingState(engine.state, cluster)

    @property
    def state(self) -> StatePort:
        """The engine's state, listened to."""
        return self._state

    @property
    def recording(self) -> Recording:
        """What was noted so far; batches, calls and workflows appear when they end."""
        self._state.end_batches()
        return self._state.recording

    def decide(self, now_ms: float) -> Sequence[int]:
        """Pass on, then note the queues."""
        moved = self._engine.decide(now_ms)
        self._state.note_queues(now_ms)
        return moved

    def next_wakeup_ms(self) -> float:
        """Pass on."""
        return self._engine.next_wakeup_ms()

    def needs_decision(self, event_kind: str) -> bool:
        """Pass on."""
        return self._engine.needs_decision(event_kind)


class _RecordingState:
    """Every event of a `StatePort`, noted and passed on."""

    def __init__(self, state: StatePort, cluster: Cluster) -> None:
        self.recording = Recording()
        self._to = state
        self._most_tokens = max(replica.kv_capacity_blocks for replica in cluster.decode) * BLOCK_TOKENS
        self._workflows: dict[int, tuple[str, str, float]] = {}
        self._calls: dict[int, _Call] = {}
        self._batches: dict[int, tuple[float, float, list[_Call]]] = {}  # by prefill replica: start, end, calls
        self._queued = [0] * cluster.num_prefill
        self._kv = [0] * cluster.num_decode
        self._waiting = [0] * cluster.num_decode

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

    # -- events ------------------------------------------------------------------------------------------------------

    def workflow_open(
        self, now_ms: float, workflow_id: str, workflow_class: str = "", arrival_ms: float | None = None
    ) -> int:
        slot = self._to.workflow_open(now_ms, workflow_id, workflow_class, arrival_ms)
        self._workflows[slot] = (workflow_id, workflow_class, now_ms)
        return slot

    def workflow_declared(self, now_ms: float, workflow_slot: int, calls: Sequence[Any]) -> object:
        return self._to.workflow_declared(now_ms, workflow_slot, calls)

    def workflow_close(self, now_ms: float, workflow_slot: int) -> object:
        name, workflow_class, opened_ms = self._workflows.pop(workflow_slot)
        self.recording.spans["workflow"].append(Span(name, -1, opened_ms, now_ms, {"class": workflow_class}))
        return self._to.workflow_close(now_ms, workflow_slot)

    def call_ready(
        self,
        now_ms: float,
        workflow_slot: int,
        request_id: str,
        *,
        input_tokens: int,
        predicted_output_tokens: int,
        dependencies: tuple[str, ...] = (),
        kind: str = "",
        cached_prefix_tokens: int = 0,
        prefix_group: str = "",
    ) -> int:
        slot = self._to.call_ready(
            now_ms,
            workflow_slot,
            request_id,
            input_tokens=input_tokens,
            predicted_output_tokens=predicted_output_tokens,
            dependencies=dependencies,
            kind=kind,
            cached_prefix_tokens=cached_prefix_tokens,
            prefix_group=prefix_group,
        )
        if slot >= 0:
            self._calls[slot] = _Call(workflow_slot, request_id, input_tokens, predicted_output_tokens, kind, now_ms)
        return slot

    def prefill_batch(self, now_ms: float, replica_index: int, expected_end_ms: float) -> object:
        self._end_batch(replica_index)
        self._batches[replica_index] = (now_ms, expected_end_ms, [])
        return self._to.prefill_batch(now_ms, replica_index, expected_end_ms)

    def prefill_started(self, now_ms: float, slot: int, replica_index: int, cached_tokens: int) -> object:
        call = self._calls[slot]
        call.stage, call.prefill, call.since_ms = "prefill", replica_index, now_ms
        call.details = {"prefill_wait_ms": now_ms - call.ready_ms, "cached_tokens": cached_tokens}
        self._batches[replica_index][2].append(call)
        answer = self._to.prefill_started(now_ms, slot, replica_index, cached_tokens)
        self.note_queues(now_ms)
        return answer

    def prefill_done(self, now_ms: float, slot: int) -> object:
        call = self._calls[slot]
        call.stage, call.since_ms, call.decode = "transfer", now_ms, int(self._to.decode[slot])
        return self._to.prefill_done(now_ms, slot)

    def transfer_done(self, now_ms: float, slot: int) -> object:
        call = self._calls[slot]
        call.stage = "wait_decode"
        call.details["transfer_ms"] = now_ms - call.since_ms
        self._change_waiting(now_ms, call, 1)
        return self._to.transfer_done(now_ms, slot)

    def decode_started(self, now_ms: float, slot: int) -> object:
        call = self._calls[slot]
        call.source = (call.prefill, call.since_ms)
        call.details["decode_wait_ms"] = now_ms - call.since_ms - call.details["transfer_ms"]
        self._change_waiting(now_ms, call, -1)
        call.stage, call.since_ms = "decode", now_ms
        self._hold(now_ms, call, self._reserved(call))
        return self._to.decode_started(now_ms, slot)

    def call_progress(self, now_ms: float, slot: int, generated_tokens: int, predicted_output_tokens: int) -> object:
        call = self._calls[slot]
        call.predicted_tokens = predicted_output_tokens
        if call.stage == "decode":
            self._hold(now_ms, call, self._reserved(call))
        return self._to.call_progress(now_ms, slot, generated_tokens, predicted_output_tokens)

    def call_requeued(self, now_ms: float, slot: int, generated_tokens: int) -> object:
        call = self._calls[slot]
        self._leave(now_ms, call, "pushed back or lost")
        call.stage, call.ready_ms = "wait", now_ms
        return self._to.call_requeued(now_ms, slot, generated_tokens)

    def call_done(self, now_ms: float, slot: int, output_tokens: int) -> object:
        call = self._calls.pop(slot)
        call.details["output_tokens"] = output_tokens
        self._leave(now_ms, call, "done")
        return self._to.call_done(now_ms, slot, output_tokens)

    def prefix_held(self, workflow_slot: int, prefix_group: str, replica_index: int, tokens: int) -> object:
        return self._to.prefix_held(workflow_slot, prefix_group, replica_index, tokens)

    def replica_down(self, now_ms: float, role: str, index: int) -> object:
        self.recording.marks.append(Mark(role, index, now_ms, "down"))
        if role == "prefill":
            self._end_batch(index, now_ms)
        answer = self._to.replica_down(now_ms, role, index)
        self.note_queues(now_ms)
        return answer

    def replica_up(self, now_ms: float, role: str, index: int) -> object:
        self.recording.marks.append(Mark(role, index, now_ms, "up"))
        return self._to.replica_up(now_ms, role, index)

    # -- what they mean ----------------------------------------------------------------------------------------------

    def note_queues(self, now_ms: float) -> None:
        """Calls that wait at each prefill replica, where that has changed."""
        column, queued = self._to.prefill, [0] * len(self._queued)
        for slot, call in self._calls.items():
            if call.stage == "wait" and column[slot] >= 0:
                queued[column[slot]] += 1
        for replica, (before, after) in enumerate(zip(self._queued, queued, strict=True)):
            if before != after:
                self.recording.levels.append(Level("prefill", replica, "waiting calls", now_ms, after))
        self._queued = queued

    def end_batches(self) -> None:
        """Note the latest batch of every replica."""
        for replica in list(self._batches):
            self._end_batch(replica)

    def _end_batch(self, replica: int, at_ms: float | None = None) -> None:
        """Note the latest batch of a replica; it ran to its expected end, or until `at_ms` if that came first."""
        start_ms, end_ms, calls = self._batches.pop(replica, (0.0, 0.0, []))
        end_ms = end_ms if at_ms is None else min(end_ms, at_ms)
        if calls or end_ms > start_ms:
            names = [self._name(call) for call in calls]
            label = names[0] if len(names) == 1 else f"{len(names)} calls" if names else "next chunk"
            details = {"calls": names, "input_tokens": sum(call.input_tokens for call in calls)}
            self.recording.spans["prefill"].append(Span(label, replica, start_ms, end_ms, details))

    def _leave(self, now_ms: float, call: _Call, why: str) -> None:
        if call.stage == "decode":
            details = {"kind": call.kind, "input_tokens": call.input_tokens, **call.details, "end": why}
            span = Span(self._name(call), call.decode, call.since_ms, now_ms, details, call.source)
            self.recording.spans["decode"].append(span)
            self._hold(now_ms, call, 0)
        elif call.stage == "wait_decode":
            self._change_waiting(now_ms, call, -1)

    def _name(self, call: _Call) -> str:
        workflow = self._workflows.get(call.workflow)
        return f"{workflow[0] if workflow else '?'} / {call.request_id}"

    def _reserved(self, call: _Call) -> int:
        tokens = min(call.input_tokens + call.predicted_tokens, self._most_tokens)
        return -(-tokens // BLOCK_TOKENS) * BLOCK_TOKENS

    def _hold(self, now_ms: float, call: _Call, tokens: int) -> None:
        self._kv[call.decode] += tokens - call.kv_tokens
        call.kv_tokens = tokens
        self.recording.levels.append(Level("decode", call.decode, "KV tokens", now_ms, self._kv[call.decode]))

    def _change_waiting(self, now_ms: float, call: _Call, step: int) -> None:
        self._waiting[call.decode] += step
        level = Level("decode", call.decode, "waiting calls", now_ms, self._waiting[call.decode])
        self.recording.levels.append(level)
