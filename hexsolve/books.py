"""What the engine knows, in tables: calls by slot, workflows, replicas, and how far running work must be by now.

Knows how facts are stored, read and brought forward in time; knows nothing of events (`state`) or of plans' reasons.
"""

import heapq
from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np

from hexsolve.cluster import BLOCK_TOKENS, Cluster
from hexsolve.decode_pace import DecodePace
from hexsolve.errors import InputError
from hexsolve.events import DeclaredCall
from hexsolve.remainder import Remainders
from hexsolve.snapshot import Snapshot
from hexsolve.standalone import place_alone
from hexsolve.tables import (
    CALL_DTYPE,
    DECODE,
    DECODE_DTYPE,
    EMPTY,
    PREFILL,
    PREFILL_DTYPE,
    TRANSFER,
    WAIT_DECODE,
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
    tails: dict[str, float] = field(default_factory=dict)  # declared calls -> rest of the workflow after them, ms
    frontier: set[str] = field(default_factory=set)  # revealed calls without revealed children, if tails are known
    reveals: list[tuple[str, float]] = field(default_factory=list)  # kind of each call, horizon once it was revealed


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


class Books:
    """The tables behind a `ClusterState`, which alone changes them.

    Parameters
    ----------
    cluster : the replicas and links.
    clock_ms : time of creation.

    Raises
    ------
    InputError
        If `clock_ms` is no time.
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
        self._remainders = Remainders()
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

    # -- questions -----------------------------------------------------------------------------------------------------

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

    def calls_on(self, role: str, index: int) -> list[int]:
        """Slots of calls in service on a replica: in prefill there, or with their KV there or on its way."""
        high = self._calls.high
        stage = self.stage[:high]
        if role == "prefill":
            served = (stage == PREFILL) | (stage == TRANSFER)
            return [int(s) for s in np.flatnonzero(served & (self.prefill[:high] == index))]
        served = (stage == PREFILL) | (stage == TRANSFER) | (stage == WAIT_DECODE) | (stage == DECODE)
        return [int(s) for s in np.flatnonzero(served & (self.decode[:high] == index))]

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

    # -- tables --------------------------------------------------------------------------------------------------------

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
        self._tail, self._whole = cells(table["tail_ms"]), cells(table["whole_ms"])
        self._rest = cells(table["rest_ms"])
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

    # -- book-keeping --------------------------------------------------------------------------------------------------

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
            self._horizon[slot] = self._whole[slot] = horizon_ms

    def _set_whole(self, record: WorkflowRecord) -> None:
        """Expected makespan of the whole workflow: what is revealed, or a revealed call and its tail."""
        if not record.tails:
            return
        ends = (record.alone[name] + record.tails.get(name, 0.0) for name in record.frontier)
        whole_ms = max(record.horizon_ms, max(ends, default=0.0))
        for slot in record.slots.values():
            self._whole[slot] = whole_ms

    def _service_alone(self, call: DeclaredCall) -> float:
        """Standalone time of a declared call in ms: fastest prefill, decode and transfer, each by itself."""
        tokens, cached = call.input_tokens, call.cached_prefix_tokens
        area = tokens * tokens - cached * cached
        prefill = min(prefill_ms(tokens - cached, area) for prefill_ms in self._prefill_times)
        context = tokens + 0.5 * call.output_tokens
        decode = min(pace.segment(1, context)[0] for pace in self._paces) * call.output_tokens
        lag = min(min(row) for row in self._latency_ms) + tokens * min(min(row) for row in self._token_ms)
        return float(prefill + lag + decode)

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
