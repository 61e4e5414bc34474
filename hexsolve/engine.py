"""The placement engine: tell it events, ask it for placements. Knows when to plan and what to adopt, not how to plan.

The rolling horizon of one service or simulation. Each `decide` is an epoch: snapshot, plan, adopt. A policy that takes
time plans asynchronously: the fallback's plan is adopted at once, and when the slower plan lands it is brought up to
date (`epoch.carry_over`), compared with a fresh fallback plan by the projection, and adopted only if strictly better
and only by calls that still wait. Nothing in the serving path raises; bad configuration raises in the constructor.
"""

import copy
import logging
import math
import time
from array import array
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from hexsolve.adoption import adopt, objection
from hexsolve.cluster import Cluster
from hexsolve.epoch import EpochParams, carry_over, projected, projects_better
from hexsolve.errors import InputError
from hexsolve.events import Event
from hexsolve.inbox import Inbox
from hexsolve.placement import Placement, placements
from hexsolve.policies import build_policy
from hexsolve.policies.hexagent import HexAgent
from hexsolve.policy import Plan, Policy
from hexsolve.snapshot import Snapshot
from hexsolve.state import ClusterState

logger = logging.getLogger(__name__)

LatencyModel = Callable[[float, int], float]
"""(measured wall ms, waiting calls) -> ms after which the plan lands."""

_PARAMS = EpochParams()  # of the projected cost by which a landed plan has to beat the fallback's
_ALWAYS = frozenset({"call_ready", "call_requeued", "replica_down", "replica_up"})


def no_latency(measured_ms: float, waiting: int) -> float:
    """Plans land at once."""
    return 0.0


def measured_latency(measured_ms: float, waiting: int) -> float:
    """Plans land after the wall time they took: honest, not reproducible."""
    return measured_ms


@dataclass(frozen=True)
class FixedLatency:
    """Plans land after a fixed time: reproducible. Both terms in ms, >= 0."""

    base_ms: float
    per_call_ms: float = 0.0

    def __post_init__(self) -> None:
        if not (self.base_ms >= 0 and self.per_call_ms >= 0):
            raise InputError(f"latency {self.base_ms} + {self.per_call_ms} ms per call: expected numbers >= 0")

    def __call__(self, measured_ms: float, waiting: int) -> float:
        return self.base_ms + self.per_call_ms * waiting


@dataclass
class EngineStats:
    """What the engine did. `decision_ms` is the wall time of every `decide`, without a plan made in another thread."""

    decision_ms: "array[float]" = field(default_factory=lambda: array("d"))
    landed: Counter[str] = field(default_factory=Counter)
    """Asynchronous plans by fate: adopted, fallback_better, outdated, failed, nothing_new (the fallback's own)."""
    failed: Counter[str] = field(default_factory=Counter)
    """Plans that could not be had or adopted, by ``policy: why``; the fallback decided instead."""

    def percentile_ms(self, q: float) -> float:
        """Wall time of decisions at percentile `q` (0..100); 0 if there were none."""
        return float(np.percentile(self.decision_ms, q)) if len(self.decision_ms) else 0.0


@dataclass(eq=False)
class _Pending:
    due_ms: float
    future: "Future[_Attempt]"


_Attempt = tuple[Plan | None, str]
"""A plan that can be adopted, or None and why not."""


class PlacementEngine:
    """Ask/tell placement of LLM calls.

    Parameters
    ----------
    cluster : replicas and links.
    policy : a policy or its name; the default is the epoch solver over a greedy plan.
    fallback : decides while `policy` plans; default the policy's own, if it has one, else HexAGenT's greedy.
    latency : when a plan lands, given its measured wall time. `no_latency` (default) plans in the call itself, which is
        the synchronous mode for serving with a budget; any other model plans asynchronously.
    epoch_ms : least time between the starts of two asynchronous plans, >= 0.
    threaded : asynchronous plans run in a background thread and land when they are done (live service) instead of being
        computed at once and landing by `latency` (simulation).

    rehearse : plan a few made-up calls now, so that kernels are compiled and solvers loaded before the first decision.

    Raises
    ------
    InputError
        On an unknown policy or a number out of range.
    """

    def __init__(
        self,
        cluster: Cluster,
        policy: Policy | str = "solver",
        *,
        fallback: Policy | None = None,
        latency: LatencyModel = no_latency,
        epoch_ms: float = 0.0,
        threaded: bool = False,
        rehearse: bool = True,
        clock_ms: float = 0.0,
    ) -> None:
        if not epoch_ms >= 0:
            raise InputError(f"epoch_ms = {epoch_ms!r}: expected a number >= 0")
        self.state = ClusterState(cluster, clock_ms=clock_ms)
        self._inbox = Inbox(self.state)
        self.policy = build_policy(policy) if isinstance(policy, str) else policy
        self.fallback = fallback or getattr(self.policy, "fallback", None) or HexAgent()
        self.stats = EngineStats()
        self._latency = latency
        self._synchronous = latency is no_latency and not threaded
        self._epoch_ms = epoch_ms
        self._pool = ThreadPoolExecutor(1, "hexsolve-planner") if threaded else None
        self._pending: _Pending | None = None
        self._next_epoch_ms = -math.inf
        self._wanted = False
        self._launched_revision = -1
        self._closed = False
        self._plan: Plan | None = None
        if rehearse:
            for rehearsed in (self.fallback, self.policy):
                _rehearse(cluster, rehearsed)

    def tell(self, event: Event) -> None:
        """Take one event. Never raises: what cannot be true is counted in `state.anomalies` (see `Inbox`)."""
        self._inbox.tell(event)

    # -- asking ------------------------------------------------------------------------------------------------------

    def needs_decision(self, event_kind: str) -> bool:
        """Whether an event of this kind (its method name on the state) opens an epoch."""
        return event_kind in _ALWAYS or (event_kind == "transfer_done" and self.policy.replans)

    def next_wakeup_ms(self) -> float:
        """When `decide` should be called even without an event: a plan lands or an epoch is due; inf if never."""
        if self._pending is not None:
            return self._pending.due_ms
        return self._next_epoch_ms if self._wanted else math.inf

    def decide(self, now_ms: float) -> list[int]:
        """One epoch; returns the slots of calls whose replicas changed. Ranks are in `state.rank`."""
        started = time.perf_counter()
        if self._synchronous:
            snapshot = self.state.view(now_ms)
            plan = self._counted(self.policy, _attempt(self.policy, snapshot))
            self._plan = self._fallback_plan(snapshot) if plan is None else plan
            changed = adopt(self.state, self._plan)
        else:
            changed = self._decide_asynchronously(now_ms)
        self.stats.decision_ms.append(1e3 * (time.perf_counter() - started))
        return changed

    def place(self, now_ms: float) -> list[Placement]:
        """One epoch; returns the placement of every waiting call, most urgent first."""
        self.decide(now_ms)
        return placements(self.state, self._plan) if self._plan is not None else []

    def close(self) -> None:
        """Stop background threads and processes; a plan in the making is dropped, decisions go on without them."""
        self._pending = None
        self._closed = True
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        getattr(self.policy, "close", _nothing)()

    # -- inside ------------------------------------------------------------------------------------------------------

    def _decide_asynchronously(self, now_ms: float) -> list[int]:
        snapshot = self.state.view(now_ms)
        plan = projected(snapshot, self._fallback_plan(snapshot))
        landed = self._landed(now_ms)
        if landed is not None:
            fate, plan = _better(snapshot, plan, landed, getattr(self.policy, "params", _PARAMS))
            self.stats.landed[fate] += 1
        self._plan = plan
        changed = adopt(self.state, plan)
        # If nothing has happened since the last launch the same plan would come again, endlessly if it lands at once.
        self._wanted = len(plan) > 1 and not self._closed and self.state.revision != self._launched_revision
        if self._wanted and self._pending is None and now_ms >= self._next_epoch_ms:
            self._launch(now_ms)
        return changed

    def _launch(self, now_ms: float) -> None:
        snapshot = self.state.snapshot(now_ms)
        self._next_epoch_ms = now_ms + self._epoch_ms
        self._wanted = False
        self._launched_revision = snapshot.revision
        if self._pool is not None:
            self._pending = _Pending(math.inf, self._pool.submit(_attempt, self.policy, snapshot))
            return
        started = time.perf_counter()
        future: Future[_Attempt] = Future()
        future.set_result(_attempt(self.policy, snapshot))
        measured_ms = 1e3 * (time.perf_counter() - started)
        self._pending = _Pending(now_ms + self._latency(measured_ms, len(snapshot.waiting)), future)

    def _landed(self, now_ms: float) -> Plan | None:
        pending = self._pending
        if pending is None or not pending.future.done() or (self._pool is None and now_ms < pending.due_ms):
            return None
        self._pending = None
        plan = self._counted(self.policy, pending.future.result())
        if plan is None:
            self.stats.landed["failed"] += 1
        return plan

    def _fallback_plan(self, snapshot: Snapshot) -> Plan:
        """The fallback's plan; HexAGenT's greedy, which always has one, should a caller's own fallback fail."""
        plan = self._counted(self.fallback, _attempt(self.fallback, snapshot))
        return HexAgent().plan(snapshot) if plan is None else plan

    def _counted(self, policy: Policy, attempt: _Attempt) -> Plan | None:
        plan, why = attempt
        if plan is None:
            self.stats.failed[f"{policy.name}: {why}"] += 1
        return plan


def _better(snapshot: Snapshot, plan: Plan, landed: Plan, params: EpochParams) -> tuple[str, Plan]:
    """The fate of a landed plan, and the plan to adopt: the landed one, brought up to date, only if strictly better."""
    if landed.provenance == plan.provenance:
        return "nothing_new", plan
    updated = carry_over(snapshot, plan, landed) if len(plan) else None
    if updated is None:
        return "outdated", plan
    if projects_better(snapshot, updated, plan, params):
        return "adopted", updated
    return "fallback_better", plan


def _attempt(policy: Policy, snapshot: Snapshot) -> _Attempt:
    try:
        plan = policy.plan(snapshot)
        why = objection(snapshot, plan)
    except Exception as error:  # the serving path never fails because a policy does
        logger.exception("policy %s failed", policy.name)
        return None, type(error).__name__
    return (None, why) if why else (plan, "")


def _rehearse(cluster: Cluster, policy: Policy) -> None:
    """Let `policy` load what it needs, and a copy of it plan three made-up calls."""
    getattr(policy, "warm_up", _nothing)()
    state = ClusterState(cluster)
    for i in range(3):
        workflow = state.workflow_open(0.0, str(i))
        state.call_ready(0.0, workflow, "", input_tokens=64, predicted_output_tokens=8)
    rehearsed = copy.deepcopy(policy)
    for _ in range(2):  # the second time an earlier plan is carried over
        _attempt(rehearsed, state.snapshot(0.0))
    getattr(rehearsed, "close", _nothing)()


def _nothing() -> None:
    """A policy without `warm_up` has nothing to load."""
