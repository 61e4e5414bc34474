"""The cluster as its events tell it: the only mutable object of the engine.

Knows calls by slot, workflows, replicas and what is expected of them; knows nothing of plans' reasons, of solvers, or
of anything that has not been told. No event ever raises: what cannot be true (out of order, duplicated, unknown, not
a number, beyond every capacity) is counted in `anomalies` by name and left without effect (DESIGN §4). Arguments are
taken to be of the declared kind; `Inbox` checks that for events from outside.
"""

from collections.abc import Sequence

import numpy as np

from hexsolve.books import MAX_CLOCK_MS, Books, WorkflowRecord
from hexsolve.cluster import BLOCK_TOKENS
from hexsolve.events import DeclaredCall
from hexsolve.outlook import tails_ms
from hexsolve.tables import (
    CALL_ROW,
    DECODE,
    EMPTY,
    PREFILL,
    STAGE_NAMES,
    TRANSFER,
    UNRANKED,
    WAIT_DECODE,
    WAIT_PREFILL,
)


class ClusterState(Books):
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

    # -- workflows -----------------------------------------------------------------------------------------------------

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

    def workflow_declared(self, now_ms: float, workflow: int, calls: Sequence[DeclaredCall]) -> None:
        """What the client expects of a workflow, complete or not; replaces what it declared before."""
        record = self.workflows.get(workflow)
        if record is None:
            self._anomaly("workflow_declared", "unknown workflow")
            return
        self._advance(now_ms)
        if not all(_is_sensible(call, self._largest_tokens) for call in calls):
            self._anomaly("workflow_declared", "token counts or delays out of range")
            return
        try:
            record.tails = tails_ms(calls, self._service_alone)
        except ValueError:
            self._anomaly("workflow_declared", "duplicate or circular calls")
            return
        record.frontier = set(record.alone)
        for request_id, slot in record.slots.items():
            self._tail[slot] = record.tails.get(request_id, 0.0)
            self._rest[slot] = 0.0
        self._set_whole(record)

    def workflow_close(self, now_ms: float, workflow: int) -> None:
        """The client is done with a workflow: its calls, prefixes and standalone schedule are forgotten."""
        record = self.workflows.get(workflow)
        if record is None:
            self._anomaly("workflow_close", "unknown workflow")
            return
        now_ms = self._advance(now_ms)
        if not record.slots and not record.refused:  # what was cut short tells nothing of a whole one
            self._remainders.observe(record.workflow_class, record.reveals, record.horizon_ms)
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

    # -- calls ---------------------------------------------------------------------------------------------------------

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
            record.tails.get(request_id, 0.0),
            record.horizon_ms,
            0.0 if record.tails else self._remainders.rest_ms(record.workflow_class, kind),
        )
        if finish > record.horizon_ms:
            self._set_horizon(record, finish)
        record.reveals.append((kind, record.horizon_ms))
        if record.tails:
            record.frontier.difference_update(dependencies)
            record.frontier.add(request_id)
            self._set_whole(record)
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
        self._set_whole(record)

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

    # -- replicas ------------------------------------------------------------------------------------------------------

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

    # -- inside --------------------------------------------------------------------------------------------------------

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


def _ready_alone(record: WorkflowRecord, now_ms: float, dependencies: tuple[str, ...]) -> float:
    """When a call that is revealed now is ready in its workflow's standalone schedule.

    The tool delay after its last parent is what was observed.
    """
    ready, parents_done = 0.0, record.arrival_ms
    for parent in dependencies:
        ready = max(ready, record.alone.get(parent, 0.0))
        parents_done = max(parents_done, record.done_ms.get(parent, record.arrival_ms))
    return ready + max(0.0, now_ms - parents_done)


def _is_sensible(call: DeclaredCall, most_tokens: int) -> bool:
    lengths = (
        0 <= call.cached_prefix_tokens < call.input_tokens <= most_tokens and 1 <= call.output_tokens <= most_tokens
    )
    return lengths and 0.0 <= call.delay_ms < MAX_CLOCK_MS
