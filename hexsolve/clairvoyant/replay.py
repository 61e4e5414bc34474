"""A schedule that is fixed in advance, carried out in the simulator. Knows the engine's state; decides nothing itself.

A schedule gives every call of the workload a priority that never changes, perhaps a pair of replicas, and every
workflow a time before which nothing of it is begun. What it leaves open (replicas) the projection fills in, call by
call in order of priority, whenever a call is revealed.
"""

from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hexsolve.adoption import adopt
from hexsolve.clairvoyant.foresight import Foresight
from hexsolve.cluster import Cluster
from hexsolve.listplan import plan_in_order
from hexsolve.sim import SimOptions, SimulationResult, simulate
from hexsolve.state import ClusterState
from hexsolve.tables import WAIT_PREFILL, Floats, Ints
from hexsolve.workflow import Workload

_DECIDES_AFTER = frozenset({"call_ready", "call_requeued", "workflow_close", "replica_down", "replica_up"})


@dataclass(frozen=True, eq=False)
class Schedule:
    """What is decided in advance.

    Attributes
    ----------
    key : f8[N], smaller first; equal ones in order of number.
    prefill, decode : i8[N], replicas of the call; -1 (both) where it is projected to finish first.
    hold_ms : f8[W], no call of the workflow starts prefill before; inf: before all other workflows are through.
    """

    key: Floats
    prefill: Ints
    decode: Ints
    hold_ms: Floats

    @classmethod
    def by_key(cls, key: Floats, num_workflows: int, hold_ms: Floats | None = None) -> "Schedule":
        """Nothing pinned, and nothing held unless said."""
        open_ = np.full(len(key), -1, dtype=np.int64)
        return cls(key, open_, open_, np.zeros(num_workflows) if hold_ms is None else hold_ms)


def replay(
    cluster: Cluster,
    workload: Workload,
    ahead: Foresight,
    schedule: Schedule,
    *,
    prefix_reuse: bool = True,
    options: SimOptions | None = None,
) -> SimulationResult:
    """Simulate `workload` under `schedule`, with output lengths known.

    Raises
    ------
    InputError, SimulationError
        As `hexsolve.simulate`.
    """
    engine = _Follower(cluster, workload, ahead, schedule)
    return simulate(cluster, workload, engine, prefix_reuse=prefix_reuse, options=options)


class _NumberedState(ClusterState):
    """A state that knows which call of the workload each slot holds, and how many workflows are not through."""

    def __init__(self, cluster: Cluster, workload: Workload, ahead: Foresight, hold_ms: Floats) -> None:
        super().__init__(cluster)
        workflows = workload.workflows
        self._position = {workflow.workflow_id: position for position, workflow in enumerate(workflows)}
        self._number_of = [
            {call.request_id: int(first) + i for i, call in enumerate(workflow.calls)}
            for workflow, first in zip(workflows, ahead.first, strict=False)
        ]
        self._is_last = np.isinf(hold_ms)
        self._opened: dict[int, int] = {}
        self.number = np.zeros(64, dtype=np.int64)
        self.num_before_last = int(np.count_nonzero(~self._is_last))

    def workflow_open(
        self, now_ms: float, workflow_id: str, workflow_class: str = "", arrival_ms: float | None = None
    ) -> int:
        slot = super().workflow_open(now_ms, workflow_id, workflow_class, arrival_ms)
        self._opened[slot] = self._position[workflow_id]
        return slot

    def call_ready(self, now_ms: float, workflow: int, request_id: str, **told: Any) -> int:
        slot = super().call_ready(now_ms, workflow, request_id, **told)
        if slot >= len(self.number):
            self.number = np.concatenate((self.number, np.zeros(len(self.number), dtype=np.int64)))
        self.number[slot] = self._number_of[self._opened[workflow]][request_id]
        return slot

    def workflow_close(self, now_ms: float, workflow: int) -> None:
        super().workflow_close(now_ms, workflow)
        self.num_before_last -= not self._is_last[self._opened.pop(workflow)]


class _Follower:
    """An engine that looks everything up."""

    def __init__(self, cluster: Cluster, workload: Workload, ahead: Foresight, schedule: Schedule) -> None:
        self.state = _NumberedState(cluster, workload, ahead, schedule.hold_ms)
        self._schedule = schedule
        self._rank = np.empty(len(schedule.key), dtype=np.int64)
        self._rank[np.argsort(schedule.key, kind="stable")] = np.arange(len(schedule.key))
        self._not_before_ms = schedule.hold_ms[ahead.workflow]
        self._holds = bool((schedule.hold_ms > 0.0).any())
        self._next_ms = inf

    def needs_decision(self, event_kind: str) -> bool:
        """Whether something new can start after such an event."""
        return event_kind in _DECIDES_AFTER

    def next_wakeup_ms(self) -> float:
        """When the next held call may go."""
        return self._next_ms

    def decide(self, now_ms: float) -> list[int]:
        """Ranks as scheduled; replicas as scheduled, or where the call is projected to finish first."""
        snapshot = self.state.view(now_ms)
        waiting = snapshot.waiting
        self._next_ms = inf
        if not len(waiting):
            return []
        numbers = self.state.number[snapshot.calls["slot"][waiting]]
        rank = self._rank[numbers]
        order = np.argsort(rank)
        prefill, decode = self._schedule.prefill[numbers], self._schedule.decode[numbers]
        if self._holds:
            held = self._held(snapshot.calls["stage"][waiting], self._not_before_ms[numbers], now_ms)
            order = order[~held[order]]
            prefill[held] = decode[held] = -1
        return adopt(self.state, plan_in_order(snapshot, order, prefill=prefill, decode=decode, rank=rank))

    def _held(self, stage: Ints, not_before_ms: Floats, now_ms: float) -> NDArray[np.bool_]:
        """Who has to wait for the time of its workflow; notes when the first of them may go."""
        if self.state.num_before_last == 0:
            not_before_ms = np.where(np.isinf(not_before_ms), 0.0, not_before_ms)
        held: NDArray[np.bool_] = (stage == WAIT_PREFILL) & (not_before_ms > now_ms)
        self._next_ms = float(not_before_ms[held].min(initial=inf))
        return held
