"""What a simulation leaves behind. Knows rows and totals; knows nothing of how they came about."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hexsolve.workflow import Workload


class CallRecord(NamedTuple):
    """One call's way through the cluster; the times are of its last attempt, `ready_ms` of its reveal."""

    workflow_id: str
    request_id: str
    workflow: int  # index in the workload
    call: int  # index in the workflow
    prefill: int  # replica index
    decode: int
    cached_tokens: int  # prefix tokens it did not have to compute
    pushbacks: int  # times it had to leave a full decode replica
    attempts: int  # prefills begun anew after a push-back or a failure
    ready_ms: float
    prefill_start_ms: float
    prefill_end_ms: float
    transfer_end_ms: float
    decode_start_ms: float  # joined the batch (after a push-back: last time)
    done_ms: float


class Event(NamedTuple):
    """One line of the event log; `replica` is -1 where none is meant, `call` where the workflow is."""

    time_ms: float
    kind: str
    workflow: int
    call: int
    replica: int


@dataclass(slots=True)
class Counters:
    """How often each mechanism fired."""

    decisions: int = 0
    prefill_batches: int = 0
    prefill_waits: int = 0  # calls that did not start prefill at the instant of their reveal
    moves: int = 0  # calls moved to another prefill replica while they waited
    prefix_hits: int = 0
    prefix_hit_tokens: int = 0
    prefix_evictions: int = 0
    transfers: int = 0
    transfers_contended: int = 0  # slowed down by another flow
    kv_waits: int = 0  # calls that were first in a decode queue and did not fit
    growths: int = 0  # reservations that grew past the prediction
    pushbacks: int = 0  # calls that had to leave a full decode replica
    losses: int = 0  # calls that lost their prefill or KV with a replica
    decode_segments: int = 0  # jumps of the decode replicas
    events: int = 0  # events scheduled


@dataclass(frozen=True, eq=False)
class SimulationResult:
    """Outcome of one run.

    Attributes
    ----------
    workload : the workload that ran.
    arrival_ms, finish_ms : f8[W], by workflow in workload order.
    counters : how often each mechanism fired.
    prefill_busy_ms, decode_busy_ms : f8[P], f8[D], time each replica worked.
    peak_kv_blocks : i8[D], most KV blocks reserved at once.
    end_ms : time of the last completion.
    events : the event log, empty unless `SimOptions.record_events`.
    """

    workload: Workload
    arrival_ms: NDArray[np.float64]
    finish_ms: NDArray[np.float64]
    counters: Counters
    prefill_busy_ms: NDArray[np.float64]
    decode_busy_ms: NDArray[np.float64]
    peak_kv_blocks: NDArray[np.int64]
    end_ms: float
    events: list[Event] = field(repr=False)
    _rows: list[tuple[int | float, ...]] = field(repr=False)

    @property
    def num_calls(self) -> int:
        """Calls completed."""
        return len(self._rows)

    @property
    def response_ms(self) -> NDArray[np.float64]:
        """f8[W]: finish - arrival."""
        return self.finish_ms - self.arrival_ms

    def records(self) -> Iterator[CallRecord]:
        """One record per call in order of completion, made as asked for."""
        workflows = self.workload.workflows
        for row in self._rows:
            workflow = workflows[int(row[0])]
            yield CallRecord._make((workflow.workflow_id, workflow.calls[int(row[1])].request_id, *row))
