"""One policy over one workload: a row. Knows how an engine is put together and measured; draws and prints nothing."""

import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from hexsolve.cluster import Cluster
from hexsolve.datafile import nearest
from hexsolve.engine import FixedLatency, PlacementEngine, measured_latency
from hexsolve.epoch import EpochParams
from hexsolve.errors import InputError
from hexsolve.events import DeclaredCall
from hexsolve.policies import POLICIES, build_policy
from hexsolve.policies.hexagent import HexAgent
from hexsolve.policies.solver import SolverPolicy
from hexsolve.policies.workflow_atc import WorkflowAtc
from hexsolve.predict import Predictor, parse_predictor
from hexsolve.sim import (
    EnginePort,
    SimOptions,
    SimulationResult,
    attainment,
    mean_stretch,
    required_scale,
    simulate,
    standalone_makespans,
    stretches,
)
from hexsolve.study.hints import declare_mutually, declare_truth
from hexsolve.workflow import Workload

OnDecision = Callable[[float], None]
"""Told the simulated time of every decision."""


@dataclass(frozen=True)
class EngineOptions:
    """How an engine is wired.

    Attributes
    ----------
    budget_ms : planning budget of a policy that solves, > 0.
    epoch_ms : least simulated time between the starts of two such plans, >= 0.
    deterministic : solve under a work limit and charge exactly `budget_ms`, so that a run can be repeated bit for bit;
        otherwise solve under a wall limit and charge the wall time it took.
    declared : share 0..1 of workflows that declare their structure with typical lengths (`study.hints`).
    clairvoyant : all workflows declare all calls as they will be, lengths included: a reference, no policy.
    exponent, urgency, target : of the solver's objective (`hexsolve.epoch.EpochParams`); None: the policy's own. With a
        target `workflow-atc` for it decides while the solver plans.
    """

    budget_ms: float = 50.0
    epoch_ms: float = 0.0
    deterministic: bool = False
    declared: float = 0.0
    clairvoyant: bool = False
    exponent: int | None = None
    urgency: float | None = None
    target: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.budget_ms < np.inf:
            raise InputError(f"budget_ms = {self.budget_ms!r}: expected a finite number > 0")
        if not 0 <= self.epoch_ms < np.inf:
            raise InputError(f"epoch_ms = {self.epoch_ms!r}: expected a finite number >= 0")
        if not 0 <= self.declared <= 1:
            raise InputError(f"declared = {self.declared!r}: expected a share in 0..1")
        self.tuned(EpochParams())

    @property
    def deterministic_limit(self) -> float | None:
        """The work limit in nominal seconds; None under a wall limit."""
        return self.budget_ms / 1e3 if self.deterministic else None

    def tuned(self, params: EpochParams) -> EpochParams:
        """`params` with what these options say of the objective."""
        return replace(
            params,
            exponent=params.exponent if self.exponent is None else self.exponent,
            urgency=params.urgency if self.urgency is None else self.urgency,
            target=params.target if self.target is None else self.target,
        )


class _WatchedEngine(PlacementEngine):
    """Tells `on_decision` the time of every decision."""

    on_decision: OnDecision | None = None

    def decide(self, now_ms: float) -> list[int]:
        if self.on_decision is not None:
            self.on_decision(now_ms)
        return super().decide(now_ms)


def build_engine(
    cluster: Cluster, policy: str, options: EngineOptions | None = None, *, on_decision: OnDecision | None = None
) -> PlacementEngine:
    """An engine for simulation: list policies decide at once, the solver plans while its fallback decides.

    Raises
    ------
    InputError
        On an unknown policy.
    """
    options = options or EngineOptions()
    built = build_policy(policy)
    if isinstance(built, SolverPolicy):
        solver = replace(
            built,
            budget_ms=options.budget_ms,
            deterministic=options.deterministic_limit,
            params=options.tuned(built.params),
            fallback=built.fallback if options.target is None else WorkflowAtc(options.target),
        )
        latency = FixedLatency(options.budget_ms) if options.deterministic else measured_latency
        engine = _WatchedEngine(cluster, solver, latency=latency, epoch_ms=options.epoch_ms)
    else:
        engine = _WatchedEngine(cluster, built)
    engine.on_decision = on_decision
    return engine


def standalone_ms(
    cluster: Cluster, workload: Workload, *, prefix_reuse: bool = True, options: SimOptions | None = None
) -> NDArray[np.float64]:
    """f8[W]: H_w, each workflow alone on the cluster under HexAGenT's greedy with known lengths and no faults.

    One denominator for every policy, so that stretches can be compared (HexAGenT §7).
    """
    faultless = replace(options or SimOptions(), faults=(), record_events=False)
    return standalone_makespans(cluster, workload, _alone_engine, prefix_reuse=prefix_reuse, options=faultless)


def _alone_engine(cluster: Cluster) -> EnginePort:
    return PlacementEngine(cluster, HexAgent(), rehearse=False)


@dataclass(frozen=True, eq=False)
class Run:
    """A row: what one policy made of one workload.

    Attributes
    ----------
    policy, cluster, workload, seed : what ran.
    stretches : f8[W], by workflow in workload order.
    decision_ms : f8[decisions], wall time of each.
    outcomes : outcomes of the solver's epochs, and the fates of its plans as ``plan adopted`` and so on.
    counters : how often each mechanism of the simulator fired.
    anomalies : events the engine could not use; empty unless something is wrong.
    cpu_s : CPU time of the simulation, planning included, the denominators H_w not.
    """

    policy: str
    cluster: str
    workload: str
    seed: int
    num_calls: int
    end_ms: float
    stretches: NDArray[np.float64] = field(repr=False)
    decision_ms: NDArray[np.float64] = field(repr=False)
    outcomes: dict[str, int]
    counters: dict[str, int]
    anomalies: dict[str, int]
    cpu_s: float

    @property
    def num_workflows(self) -> int:
        """Workflows that ran."""
        return len(self.stretches)

    @property
    def req95(self) -> float:
        """Smallest SLO scale met by 95 % of the workflows."""
        return required_scale(self.stretches, 0.95)

    @property
    def req99(self) -> float:
        """Smallest SLO scale met by 99 % of the workflows."""
        return required_scale(self.stretches, 0.99)

    @property
    def mean_stretch(self) -> float:
        """Average stretch."""
        return mean_stretch(self.stretches)

    @property
    def calls_per_cpu_s(self) -> float:
        """Simulated calls per CPU-second."""
        return self.num_calls / max(self.cpu_s, 1e-9)

    def attainment(self, scale: float) -> float:
        """Share of workflows that finish within `scale` times H_w."""
        return float(attainment(self.stretches, [scale])[0])

    def decision_percentile_ms(self, q: float) -> float:
        """Wall time of decisions at percentile `q` (0..100); 0 if there were none."""
        return float(np.percentile(self.decision_ms, q)) if len(self.decision_ms) else 0.0


def run_policy(
    cluster: Cluster,
    workload: Workload,
    policy: str,
    alone_ms: NDArray[np.float64],
    *,
    seed: int = 0,
    engine_options: EngineOptions | None = None,
    predictor: Predictor | str = "oracle",
    prefix_reuse: bool = True,
    sim_options: SimOptions | None = None,
    on_progress: Callable[[int], None] | None = None,
    wrap: Callable[[PlacementEngine], EnginePort] | None = None,
) -> Run:
    """Simulate one policy.

    Parameters
    ----------
    alone_ms : f8[W], see `standalone_ms`.
    seed : seed of the predictor; the workload is already made.
    on_progress : told the number of finished workflows, at most ten times a second of wall time.
    wrap : stands between simulator and engine, such as `hexsolve.timeline.Recorder`.

    Raises
    ------
    InputError
        On an unknown policy, a call that fits no decode replica, or a fault of an unknown replica.
    SimulationError
        If the run cannot go on.
    """
    engine = build_engine(cluster, policy, engine_options)
    assert isinstance(engine, _WatchedEngine)
    if on_progress is not None:
        engine.on_decision = _progress_of(workload, engine, on_progress)
    if isinstance(predictor, str):
        predictor = parse_predictor(predictor, workload, seed)
    port: EnginePort = engine if wrap is None else wrap(engine)
    started_s = time.process_time()
    result = simulate(
        cluster,
        workload,
        port,
        predictor=predictor,
        prefix_reuse=prefix_reuse,
        options=sim_options,
        seed=seed,
        declared=_declared(workload, engine_options or EngineOptions(), seed),
    )
    return _row(cluster, policy, seed, engine, result, alone_ms, time.process_time() - started_s)


def _declared(workload: Workload, options: EngineOptions, seed: int) -> dict[str, tuple[DeclaredCall, ...]] | None:
    if options.clairvoyant:
        return declare_truth(workload)
    return declare_mutually(workload, share=options.declared, seed=seed) if options.declared else None


def _progress_of(workload: Workload, engine: PlacementEngine, on_progress: Callable[[int], None]) -> OnDecision:
    """Workflows that have arrived and are no longer open are finished."""
    arrivals = [workflow.arrival_ms for workflow in workload.workflows]
    last_s = time.monotonic()

    def on_decision(now_ms: float) -> None:
        nonlocal last_s
        if time.monotonic() - last_s > 0.1:
            last_s = time.monotonic()
            on_progress(max(0, bisect_right(arrivals, now_ms) - len(engine.state.workflows)))

    return on_decision


def _row(
    cluster: Cluster,
    policy: str,
    seed: int,
    engine: PlacementEngine,
    result: SimulationResult,
    alone_ms: NDArray[np.float64],
    cpu_s: float,
) -> Run:
    outcomes: Counter[str] = Counter(getattr(engine.policy, "outcomes", {}))
    outcomes.update({f"plan {fate}": count for fate, count in engine.stats.landed.items()})
    return Run(
        policy=policy,
        cluster=cluster.name,
        workload=result.workload.name,
        seed=seed,
        num_calls=result.num_calls,
        end_ms=result.end_ms,
        stretches=stretches(result.arrival_ms, result.finish_ms, alone_ms),
        decision_ms=np.array(engine.stats.decision_ms),
        outcomes=dict(sorted(outcomes.items())),
        counters=asdict(result.counters),
        anomalies=dict(sorted(engine.state.anomalies.items())),
        cpu_s=cpu_s,
    )


def known_policies(names: Sequence[str]) -> tuple[str, ...]:
    """The names, if every one is a policy and none comes twice.

    Raises
    ------
    InputError
        Naming the one that is not, the nearest that is, and all there are.
    """
    for position, name in enumerate(names):
        if name not in POLICIES:
            raise InputError(f"policy {name!r}: no such policy; {nearest(name, tuple(POLICIES))}")
        if name in names[:position]:
            raise InputError(f"policy {name!r}: expected once, got twice")
    if not names:
        raise InputError(f"policy: expected at least one of {', '.join(POLICIES)}, got none")
    return tuple(names)
