"""The cluster as its events tell it: the only mutable object of the engine.

Knows calls by slot, workflows, replicas and what is expected of them; knows nothing of plans' reasons, of solvers, or
of anything that has not been told. No event ever raises: what cannot be true (out of order, duplicated, unknown, not
a number, beyond every capacity) is counted in `anomalies` by name and left without effect (DESIGN §4). Arguments are
taken to be of the declared kind; `Inbox` checks that for events from outside.
"""

import heapq
from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np

from hexsolve.cluster import BLOCK_TOKENS, Cluster
from hexsolve.decode_pace import DecodePace
from hexsolve.errors import InputError
from hexsolve.snapshot import Snapshot
from hexsolve.standalone import place_alone
from hexsolve.tables import (
    CALL_DTYPE,
    CALL_ROW,
    DECODE,
    DECODE_DTYPE,
    EMPTY,
    PREFILL,
    PREFILL_DTYPE,
    STAGE_NAMES,
    TRANSFER,
    UNRANKED,
    WAIT_DECODE,
    WAIT_PREFILL,
    ClusterTables,
    Floats,
    Ints,
    cells,
    records,
)

MAX_CLOCK_MS = 2.0**42
"""Clocks stay below this (the year 2109 in Unix milliseconds): ranks made of whole ms and a serial fit an int64."""


@dataclass(slots=True)
class WorkflowRecord:
    """One open workflow. `alone` is its standalone schedule: finish of each revealed call, relative to its arrival."""

    workflow_id: str
    workflow_class: str
    arrival_ms: float
    horizon_ms: float = 1.0  # H_w(t)
    slots: dict[str, int] = field(default_factory=dict)  # live calls
    alone: dict[str, float] = field(default_factory=dict)  # every revealed call -> standalone finish, ms
    done_ms: dict[str, float] = field(default_factory=dict)  # completed calls -> actual finish, ms since the epoch
    prefixes: dict[str, int] = field(default_factory=dict)  # prefix group -> prefix slot
    refused: list[str] = field(default_factory=list)  # calls that no replica can ever take


class _Slots:
    """Free-list of row indices, smallest first, so that live rows stay dense."""

    __slots__ = ("_free", "high")

    def __init__(self) -> None:
        self._free: list[int] = []
        self.high = 0

    def take(self) -> int:
        if self._free:
            return heapq.heappop(self._free)
        self.high += 1
        return self.high - 1

    def give(self, slot: int) -> None:
        heapq.heappush(self._free, slot)


class ClusterState:
    """Everything known of calls, workflows and replicas.

    Parameters
    ----------
    cluster : the replicas and links.
    clock_ms : time of creation; events before the latest one are counted as ``clock`` anomalies and take its time.

    Attributes
    ----------
    revision : grows with every event that has an effect.
    anomalies : Counter of events without effect, by ``event: reason``.
    refused : (workflow_id, request_id) -> why no replica can ever take that call, while the workflow is open.
    rank_revision : grows when a call that has a rank changes it; until then local queues keep their order.
    table : records of `CALL_DTYPE` by call slot; serial, stage, prefill, decode, rank : its int64 columns. Rebound when
        the table grows: read them anew.
    """

    _raw: Ints
    _prefill_ms: Floats  # [slot, prefill kind, 2]
    _alone_free: Floats  # [workflow slot, P]

    def __init__(self, cluster: Cluster, *, clock_ms: float = 0.0) -> None:
        if not abs(clock_ms) < MAX_CLOCK_MS:
            raise InputError(f"clock_ms = {clock_ms!r}: expected a number of magnitude below {MAX_CLOCK_MS:.0f}")
        self.cluster = cluster
        self.tables = ClusterTables.of(cluster)
        self.clock_ms = float(clock_ms)
        self.revision = 0
        self.rank_revision = 0
        self.anomalies: Counter[str] = Counter()
        self.refused: dict[tuple[str, str], str] = {}
        self.workflows: dict[int, WorkflowRecord] = {}
        self._next_serial = 1
        self._calls = _Slots()
        self._names: list[tuple[int, str]] = []  # by call slot: (workflow slot, request_id)
        self._workflow_slots = _Slots()
        self._prefix_slots = _Slots()
        self._prefix_slots.take()  # slot 0: shares nothing, always zero
        self._kinds: dict[tuple[str, str], int] = {}
        self._grow_calls(256)
        self._grow_workflows(64)
        self._held = np.zeros((64, cluster.num_prefill), dtype=np.int64)
        self._prefill_raw, self.prefills = records(cluster.num_prefill, PREFILL_DTYPE)
        self._decode_raw, self.decodes = records(cluster.num_decode, DECODE_DTYPE)
        self.prefills["kind"], self.prefills["up"] = self.tables.prefill_kind, 1
        self.decodes["kind"], self.decodes["up"] = self.tables.decode_kind, 1
        self.decodes["capacity_blocks"] = self.tables.capacity_blocks
        self.decodes["max_running"] = self.tables.max_running
        paces = [DecodePace(profile) for profile in self.tables.decode_profiles]
        self._paces = [paces[kind] for kind in self.tables.decode_kind]
        self._prefill_kind: list[int] = self.tables.prefill_kind.tolist()
        self._latency_ms, self._token_ms = self.tables.pair.tolist()  # of a transfer, [P][D]
        self._pool_size = {"prefill": cluster.num_prefill, "decode": cluster.num_decode}
        self._prefill_times = [profile.prefill_ms for profile in self.tables.prefill_profiles]
        self._largest_blocks = int(self.tables.capacity_blocks.max())
        self._largest_tokens = self._largest_blocks * BLOCK_TOKENS
        self._bind_replica_columns()

    # -- tables ------------------------------------------------------------------------------------------------------

    def _grow_calls(self, capacity: int) -> None:
        raw, table = records(capacity, CALL_DTYPE)
        times = np.zeros((capacity, len(self.tables.prefill_profiles), 2))
        if self._names:
            raw[: len(self._names)] = self._raw
            times[: len(self._names)] = self._prefill_ms
        self._names.extend([(-1, "")] * (capacity - len(self._names)))
        self._raw, self.table, self._prefill_ms = raw, table, times
        self._bytes = raw.data
        self.serial, self.stage = table["serial"], table["stage"]
        self.prefill, self.decode, self.rank = table["prefill"], table["decode"], table["rank"]
        self._stage, self._prefill, self._decode = (cells(table[c]) for c in ("stage", "prefill", "decode"))
        self._input, self._predicted = cells(table["input_tokens"]), cells(table["predicted_tokens"])
        self._blocks, self._restored = cells(table["kv_blocks"]), cells(table["restored_tokens"])
        self._stage_ms, self._expected = cells(table["stage_ms"]), cells(table["expected_ms"])
        self._service, self._mark = cells(table["service_ms"]), cells(table["step_mark"])
        self._alone_start, self._horizon = cells(table["alone_start_ms"]), cells(table["horizon_ms"])
        self._prefill_at = cells(times)

    def _grow_workflows(self, capacity: int) -> None:
        free = np.zeros((capacity, self.cluster.num_prefill))
        if capacity > 64:
            free[: len(self._alone_free)] = self._alone_free
        self._alone_free = free

    def _bind_replica_columns(self) -> None:
        decodes = self.decodes
        self._free_ms = cells(self.prefills["free_ms"])
        self._running, self._context = cells(decodes["running"]), cells(decodes["context_tokens"])
        self._steps, self._last = cells(decodes["steps"]), cells(decodes["last_ms"])
        self._step_ms = cells(decodes["step_ms"])

    # -- workflows ---------------------------------------------------------------------------------------------------

    def workflow_open(
        self, now_ms: float, workflow_id: str, workflow_class: str = "", arrival_ms: float | None = None
    ) -> int:
        """A workflow has arrived; returns its slot."""
        now_ms = self._advance(now_ms)
        slot = self._workflow_slots.take()
        if slot >= len(self._alone_free):
            self._grow_workflows(2 * len(self._alone_free))
        if arrival_ms is not None and not abs(arrival_ms) < MAX_CLOCK_MS:
            self._anomaly("workflow_open", "arrival is no time")
            arrival_ms = None
        self._alone_free[slot] = 0.0
        arrival_ms = now_ms if arrival_ms is None else float(arrival_ms)
        self.workflows[slot] = WorkflowRecord(workflow_id, workflow_class, arrival_ms)
        return slot

    def workflow_close(self, now_ms: float, workflow: int) -> None:
        """The client is done with a workflow: its calls, prefixes and standalone schedule are forgotten."""
        record = self.workflows.get(workflow)
        if record is None:
            self._anomaly("workflow_close", "unknown workflow")
            return
        now_ms = self._advance(now_ms)
        for slot in list(record.slots.values()):
            self._anomaly("workflow_close", f"call in stage {STAGE_NAMES[self.stage[slot]]} abandoned")
            self._leave_decode(slot, now_ms)
            self._release(slot, record)
        for prefix in record.prefixes.values():
            self._held[prefix] = 0
            self._prefix_slots.give(prefix)
        for request_id in record.refused:
            self.refused.pop((record.workflow_id, request_id), None)
        del self.workflows[workflow]
        self._workflow_slots.give(workflow)

    # -- calls -------------------------------------------------------------------------------------------------------

    def call_ready(
        self,
        now_ms: float,
        workflow: int,
        request_id: str,
        *,
        input_tokens: int,
        predicted_output_tokens: int,
        dependencies: tuple[str, ...] = (),
        kind: str = "",
        cached_prefix_tokens: int = 0,
        prefix_group: str = "",
    ) -> int:
        """A call is revealed and waits for prefill; returns its slot, or -1 when it is refused (see `refused`)."""
        record = self.workflows.get(workflow)
        if record is None:
            return self._anomaly("call_ready", "unknown workflow")
        if request_id in record.alone:
            return self._anomaly("call_ready", "duplicate")
        if not (input_tokens >= 1 and predicted_output_tokens >= 1 and 0 <= cached_prefix_tokens < input_tokens):
            return self._anomaly("call_ready", "token counts out of range")
        if input_tokens >= self._largest_tokens:
            return self._refuse(record, request_id, input_tokens)
        # Plain ints: the kernels would be compiled anew for another kind of number. A prediction that fits nowhere is
        # cut to what the largest replica can hold.
        input_tokens, cached_prefix_tokens = int(input_tokens), int(cached_prefix_tokens)
        predicted_output_tokens = int(min(predicted_output_tokens, self._largest_tokens - input_tokens))
        blocks = -(-(input_tokens + predicted_output_tokens) // BLOCK_TOKENS)
        now_ms = self._advance(now_ms)
        slot = self._calls.take()
        if slot >= len(self._names):
            self._grow_calls(2 * len(self._names))
        self._names[slot] = (workflow, request_id)
        self._time_prefill(slot, input_tokens, cached_prefix_tokens)
        prefix = self._prefix_of(record, prefix_group) if cached_prefix_tokens or prefix_group else 0
        ready = _ready_alone(record, now_ms, dependencies)
        reuse = 1 if cached_prefix_tokens and record.alone else 0
        start, finish = self._extend_alone(workflow, slot, ready, input_tokens, predicted_output_tokens, blocks, reuse)
        step = len(record.alone)
        record.slots[request_id] = slot
        record.alone[request_id] = finish
        CALL_ROW.pack_into(
            self._bytes,
            slot * CALL_ROW.size,
            self._next_serial,
            slot,
            WAIT_PREFILL,
            workflow,
            prefix,
            input_tokens,
            cached_prefix_tokens,
            predicted_output_tokens,
            0,
            blocks,
            -1,
            -1,
            UNRANKED,
            self._kinds.setdefault((record.workflow_class, kind), len(self._kinds)),
            step,
            now_ms,
            now_ms,
            now_ms,
            0.0,
            0.0,
            0.0,
            start,
            finish,
            record.arrival_ms,
            record.horizon_ms,
        )
        if finish > record.horizon_ms:
            self._set_horizon(record, finish)
        self._next_serial += 1
        return slot

    def prefill_started(self, now_ms: float, slot: int, replica: int, cached_tokens: int = 0) -> None:
        """Prefill of a waiting call began on `replica`; its decode replica is bound from here on."""
        if not self._expect(slot, WAIT_PREFILL, "prefill_started") or not self._has("prefill", replica):
            return
        if self._decode[slot] < 0:
            self._anomaly("prefill_started", "call without placement")
            return
        now_ms = self._advance(now_ms)
        self._stage[slot] = PREFILL
        self._prefill[slot] = replica
        self._stage_ms[slot] = now_ms
        alone_ms = self._prefill_at[slot, self._prefill_kind[replica], 1 if cached_tokens else 0]
        self._expected[slot] = max(self._free_ms[replica], now_ms + alone_ms)

    def prefill_batch(self, now_ms: float, replica: int, expected_end_ms: float) -> None:
        """The batch that `replica` runs now is expected to end at `expected_end_ms`; told before its calls' starts."""
        if not self._has("prefill", replica):
            return
        self._advance(now_ms)
        if abs(expected_end_ms) < MAX_CLOCK_MS:
            self._free_ms[replica] = expected_end_ms
        else:
            self._anomaly("prefill_batch", "end is no time")

    def prefill_done(self, now_ms: float, slot: int) -> None:
        """Prefill ended; KV transfer to the decode replica begins."""
        if not self._expect(slot, PREFILL, "prefill_done"):
            return
        now_ms = self._advance(now_ms)
        self._end_service(slot, now_ms)
        self._stage[slot] = TRANSFER
        p, d = self._prefill[slot], self._decode[slot]
        self._expected[slot] = now_ms + self._latency_ms[p][d] + self._token_ms[p][d] * self._input[slot]

    def transfer_done(self, now_ms: float, slot: int) -> None:
        """The KV is at the decode replica; the call waits for capacity there (locked)."""
        if not self._expect(slot, TRANSFER, "transfer_done"):
            return
        now_ms = self._advance(now_ms)
        self._end_service(slot, now_ms)
        self._stage[slot] = WAIT_DECODE

    def decode_started(self, now_ms: float, slot: int) -> None:
        """The call joined the running batch of its decode replica."""
        if not self._expect(slot, WAIT_DECODE, "decode_started"):
            return
        now_ms = self._advance(now_ms)
        d = self._decode[slot]
        self._run_decode(d, now_ms)
        self._stage[slot] = DECODE
        self._stage_ms[slot] = now_ms
        self._mark[slot] = self._steps[d]
        self._running[d] += 1
        self._context[d] += self._input[slot]
        self._pace_decode(d)

    def call_progress(self, now_ms: float, slot: int, generated_tokens: int, predicted_output_tokens: int) -> None:
        """Refined prediction: `generated_tokens` exist of now `predicted_output_tokens` (both of the whole call)."""
        if not self._expect(slot, DECODE, "call_progress"):
            return
        restored = self._restored[slot]
        generated, predicted = generated_tokens - restored, predicted_output_tokens - restored
        room = self._largest_tokens - self._input[slot]
        if not (0 <= generated <= room and predicted >= max(1, generated)):
            self._anomaly("call_progress", "token counts out of range")
            return
        predicted = min(predicted, room)
        now_ms = self._advance(now_ms)
        d = self._decode[slot]
        self._run_decode(d, now_ms)
        believed = self._steps[d] - self._mark[slot]
        self._mark[slot] = self._steps[d] - generated
        self._context[d] += generated - believed
        self._predicted[slot] = predicted
        self._blocks[slot] = -(-(self._input[slot] + predicted) // BLOCK_TOKENS)
        self._pace_decode(d)

    def call_done(self, now_ms: float, slot: int, output_tokens: int) -> None:
        """The call completed; its observed service time replaces its estimate in the standalone schedule."""
        if not self._expect(slot, DECODE, "call_done"):
            return
        now_ms = self._advance(now_ms)
        self._leave_decode(slot, now_ms)
        self._end_service(slot, now_ms)
        workflow, request_id = self._names[slot]
        record = self.workflows[workflow]
        estimated = record.alone[request_id]
        observed = self._alone_start[slot] + self._service[slot]
        record.alone[request_id] = observed
        record.done_ms[request_id] = now_ms
        self._release(slot, record)
        if observed > record.horizon_ms:
            self._set_horizon(record, observed)
        elif estimated >= record.horizon_ms:
            self._set_horizon(record, max(1.0, max(record.alone.values())))

    def call_requeued(self, now_ms: float, slot: int, generated_tokens: int) -> None:
        """Pushed back or lost: waits for prefill again; its `generated_tokens` (of the whole call) join the prompt."""
        if not 0 <= slot < len(self._names) or self.stage[slot] == EMPTY:
            self._anomaly("call_requeued", "unknown call")
            return
        now_ms = self._advance(now_ms)
        self._leave_decode(slot, now_ms)
        new = generated_tokens - self._restored[slot]
        room = self._largest_tokens - 1 - self._input[slot]  # the call has at least one token to go
        if not 0 <= new <= room:
            self._anomaly("call_requeued", "token counts out of range")
            new = 0
        tokens = self._input[slot] + new
        predicted = max(1, self._predicted[slot] - new)
        self._restored[slot] += new
        self._input[slot], self._predicted[slot] = tokens, predicted
        predicted = min(predicted, self._largest_tokens - tokens)
        self._blocks[slot] = -(-(tokens + predicted) // BLOCK_TOKENS)
        self._time_prefill(slot, tokens, int(self.table["cached_tokens"][slot]))
        self._stage[slot] = WAIT_PREFILL
        self._prefill[slot] = self._decode[slot] = -1
        self.table["ready_ms"][slot] = self._stage_ms[slot] = now_ms

    # -- replicas ----------------------------------------------------------------------------------------------------

    def replica_down(self, now_ms: float, role: str, index: int) -> None:
        """A replica is lost: waiting calls placed on it are placed anew; calls in service there are to be requeued."""
        if not self._has(role, index):
            return
        self._advance(now_ms)
        table, column = (self.prefills, self.prefill) if role == "prefill" else (self.decodes, self.decode)
        if not table["up"][index]:
            self._anomaly("replica_down", "already down")
        table["up"][index] = 0
        high = self._calls.high
        lost = np.flatnonzero((self.stage[:high] == WAIT_PREFILL) & (column[:high] == index))
        self.prefill[lost] = self.decode[lost] = -1
        if role == "prefill":
            self._held[:, index] = 0
            self._free_ms[index] = 0.0

    def replica_up(self, now_ms: float, role: str, index: int) -> None:
        """A replica is back, empty."""
        if not self._has(role, index):
            return
        self._advance(now_ms)
        table = self.prefills if role == "prefill" else self.decodes
        if table["up"][index]:
            self._anomaly("replica_up", "already up")
        table["up"][index] = 1

    def calls_on(self, role: str, index: int) -> list[int]:
        """Slots of calls in service on a replica: in prefill there, or with their KV there or on its way."""
        high = self._calls.high
        stage = self.stage[:high]
        if role == "prefill":
            served = (stage == PREFILL) | (stage == TRANSFER)
            return [int(s) for s in np.flatnonzero(served & (self.prefill[:high] == index))]
        served = (stage == PREFILL) | (stage == TRANSFER) | (stage == WAIT_DECODE) | (stage == DECODE)
        return [int(s) for s in np.flatnonzero(served & (self.decode[:high] == index))]

    def prefix_held(self, workflow: int, prefix_group: str, replica: int, tokens: int) -> None:
        """Prefill replica `replica` now holds `tokens` of the group's prefix (0: evicted)."""
        record = self.workflows.get(workflow)
        if record is None:
            if tokens:
                self._anomaly("prefix_held", "unknown workflow")
            return
        if not self._has("prefill", replica):
            return
        if not 0 <= tokens < 2**62:
            self._anomaly("prefix_held", "token counts out of range")
            return
        self._held[self._prefix_of(record, prefix_group), replica] = tokens
        self.revision += 1

    # -- questions ---------------------------------------------------------------------------------------------------

    def name(self, slot: int) -> tuple[str, str]:
        """(workflow_id, request_id) of a live call."""
        workflow, request_id = self._names[slot]
        return self.workflows[workflow].workflow_id, request_id

    def workflow_slot(self, slot: int) -> int:
        """Workflow slot of a live call."""
        return self._names[slot][0]

    def workflow_of(self, slot: int) -> WorkflowRecord:
        """Workflow of a live call."""
        return self.workflows[self._names[slot][0]]

    def horizon_ms(self, workflow: int) -> float:
        """Standalone completion horizon H_w(t) of the part revealed so far, in ms."""
        return self.workflows[workflow].horizon_ms

    def generated_tokens(self, slot: int, now_ms: float) -> int:
        """Estimate of the output tokens a call in decode has by now, of the whole call."""
        if self._stage[slot] != DECODE:
            return int(self._restored[slot])
        d = self._decode[slot]
        steps = self._steps[d] + max(0.0, now_ms - self._last[d]) / max(self._step_ms[d], 1e-6) - self._mark[slot]
        return int(self._restored[slot]) + int(min(steps, self._predicted[slot]))

    def snapshot(self, now_ms: float, *, names: bool = False) -> Snapshot:
        """Frozen copy of what is known at `now_ms`; with `names` also every call's ids."""
        view = self.view(now_ms)
        live = np.flatnonzero(view.calls["stage"])
        return replace(
            view,
            calls=self._raw[live].view(CALL_DTYPE)[:, 0],
            prefill_ms=self._prefill_ms[live],
            held_tokens=self._held[: self._prefix_slots.high].copy(),
            prefills=self._prefill_raw.copy().view(PREFILL_DTYPE)[:, 0],
            decodes=self._decode_raw.copy().view(DECODE_DTYPE)[:, 0],
            names=tuple(self.name(int(slot)) for slot in live) if names else (),
        )

    def view(self, now_ms: float) -> Snapshot:
        """The same as `snapshot` without copying: valid until the next event, with rows of stage EMPTY in between."""
        high = self._calls.high
        return Snapshot(
            float(now_ms) if self.clock_ms < now_ms < MAX_CLOCK_MS else self.clock_ms,
            self.revision,
            self.tables,
            self.table[:high],
            self._prefill_ms[:high],
            self._held,
            self.prefills,
            self.decodes,
        )

    # -- inside ------------------------------------------------------------------------------------------------------

    def _advance(self, now_ms: float) -> float:
        self.revision += 1
        if self.clock_ms <= now_ms < MAX_CLOCK_MS:
            self.clock_ms = float(now_ms)
        else:
            self._anomaly("clock", "went backwards" if now_ms < self.clock_ms else "no time")
        return self.clock_ms

    def _anomaly(self, event: str, reason: str) -> int:
        self.anomalies[f"{event}: {reason}"] += 1
        return -1

    def _refuse(self, record: WorkflowRecord, request_id: str, input_tokens: int) -> int:
        self.refused[record.workflow_id, request_id] = (
            f"call {request_id!r} of workflow {record.workflow_id!r}: input_tokens = {input_tokens}: "
            f"expected at most {self._largest_tokens - 1} (no decode replica can hold more)"
        )
        record.refused.append(request_id)
        return self._anomaly("call_ready", "KV fits no replica")

    def _expect(self, slot: int, stage: int, event: str) -> bool:
        if 0 <= slot < len(self._names) and self._stage[slot] == stage:
            return True
        known = 0 <= slot < len(self._names)
        self._anomaly(event, f"call in stage {STAGE_NAMES[self.stage[slot]]}" if known else "unknown call")
        return False

    def _has(self, role: str, index: int) -> bool:
        size = self._pool_size.get(role, 0)
        if 0 <= index < size:
            return True
        self._anomaly("replica", f"no such {role if size else 'role'}")
        return False

    def _release(self, slot: int, record: WorkflowRecord) -> None:
        del record.slots[self._names[slot][1]]
        self._stage[slot] = EMPTY
        self._calls.give(slot)

    def _time_prefill(self, slot: int, input_tokens: int, cached_tokens: int) -> None:
        area = input_tokens * input_tokens
        times = self._prefill_at
        for kind, prefill_ms in enumerate(self._prefill_times):
            full_ms = part_ms = prefill_ms(input_tokens, area)
            if cached_tokens:
                part_ms = prefill_ms(input_tokens - cached_tokens, area - cached_tokens * cached_tokens)
            times[slot, kind, 0], times[slot, kind, 1] = full_ms, part_ms

    def _prefix_of(self, record: WorkflowRecord, group: str) -> int:
        slot = record.prefixes.get(group)
        if slot is None:
            slot = record.prefixes[group] = self._prefix_slots.take()
            if slot >= len(self._held):
                self._held = np.concatenate([self._held, np.zeros_like(self._held)])
        return slot

    def _extend_alone(
        self,
        workflow: int,
        slot: int,
        ready_ms: float,
        input_tokens: int,
        predicted_tokens: int,
        kv_blocks: int,
        reuse: int,
    ) -> tuple[float, float]:
        """Append the call to its workflow's standalone schedule."""
        tables = self.tables
        return place_alone(
            ready_ms,
            float(input_tokens),
            float(predicted_tokens),
            reuse,
            self._prefill_ms[slot],
            tables.prefill_kind,
            tables.decode_kind,
            tables.capacity_blocks,
            kv_blocks,
            tables.pair,
            tables.knots,
            tables.knot_count,
            tables.grid,
            self._alone_free[workflow],
        )

    def _set_horizon(self, record: WorkflowRecord, horizon_ms: float) -> None:
        record.horizon_ms = horizon_ms
        for slot in record.slots.values():
            self._horizon[slot] = horizon_ms

    def _end_service(self, slot: int, now_ms: float) -> None:
        self._service[slot] += now_ms - self._stage_ms[slot]
        self._stage_ms[slot] = now_ms

    def _run_decode(self, d: int, now_ms: float) -> None:
        """Let the virtual step count of a decode replica run up to `now_ms`."""
        elapsed_ms = now_ms - self._last[d]
        if not elapsed_ms:
            return
        self._last[d] = now_ms
        running = self._running[d]
        if running:
            steps = elapsed_ms / max(self._step_ms[d], 1e-6)
            self._steps[d] += steps
            self._context[d] += running * steps

    def _pace_decode(self, d: int) -> None:
        running = self._running[d]
        self._step_ms[d] = self._paces[d].segment(running, self._context[d] / running)[0] if running else 0.0

    def _leave_decode(self, slot: int, now_ms: float) -> None:
        if self._stage[slot] != DECODE:
            return
        d = self._decode[slot]
        self._run_decode(d, now_ms)
        self._running[d] -= 1
        if self._running[d]:
            self._context[d] -= self._input[slot] + self._steps[d] - self._mark[slot]
        else:
            self._context[d] = 0.0
        self._pace_decode(d)


def _ready_alone(record: WorkflowRecord, now_ms: float, dependencies: tuple[str, ...]) -> float:
    """When a call that is revealed now is ready in its workflow's standalone schedule.

    The tool delay after its last parent is what was observed.
    """
    ready, parents_done = 0.0, record.arrival_ms
    for parent in dependencies:
        ready = max(ready, record.alone.get(parent, 0.0))
        parents_done = max(parents_done, record.done_ms.get(parent, record.arrival_ms))
    return ready + max(0.0, now_ms - parents_done)
