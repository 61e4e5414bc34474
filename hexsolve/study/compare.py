"""Policies over the workloads of several seeds, paired. Knows the order of runs; knows no files and no words."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from hexsolve.cluster import Cluster
from hexsolve.engine import PlacementEngine
from hexsolve.predict import parse_predictor
from hexsolve.recording import Recorder, Recording
from hexsolve.sim import EnginePort, SimOptions
from hexsolve.study.run import EngineOptions, Run, known_policies, run_policy, standalone_ms
from hexsolve.study.workloads import check_fits
from hexsolve.workflow import Workload

StartTask = Callable[[str, int], Callable[[int], None]]
"""``start(label, total)`` begins a task and returns where to report how much of it is done."""


def _in_silence(label: str, total: int) -> Callable[[int], None]:
    return lambda done: None


@dataclass(frozen=True)
class Comparison:
    """Every policy over every workload.

    Attributes
    ----------
    workloads : by seed; the seed is also that of the predictor.
    predictor : short name, see `hexsolve.predict.parse_predictor`.

    Raises
    ------
    InputError
        In the constructor, before anything runs: on an unknown policy or predictor, a call that fits no decode replica,
        or a fault of an unknown replica.
    """

    cluster: Cluster
    workloads: Mapping[int, Workload]
    policies: tuple[str, ...]
    engine: EngineOptions = field(default_factory=EngineOptions)
    options: SimOptions = field(default_factory=SimOptions)
    predictor: str = "oracle"
    prefix_reuse: bool = True

    def __post_init__(self) -> None:
        known_policies(self.policies)
        for seed, workload in self.workloads.items():
            check_fits(self.cluster, workload, self.options)
            parse_predictor(self.predictor, workload, seed)

    def run(self, *, start: StartTask = _in_silence, record: bool = False) -> tuple[list[Run], dict[str, Recording]]:
        """All runs, seed by seed, and with `record` a recording per policy of the first seed."""
        runs: list[Run] = []
        recorders: dict[str, Recorder] = {}
        for position, (seed, workload) in enumerate(self.workloads.items()):
            alone_ms = standalone_ms(self.cluster, workload, prefix_reuse=self.prefix_reuse, options=self.options)
            for policy in self.policies:
                keep = recorders if record and position == 0 else None
                label = policy if len(self.workloads) == 1 else f"{policy}, seed {seed}"
                report = start(label, len(workload.workflows))
                runs.append(
                    run_policy(
                        self.cluster,
                        workload,
                        policy,
                        alone_ms,
                        seed=seed,
                        engine_options=self.engine,
                        predictor=self.predictor,
                        prefix_reuse=self.prefix_reuse,
                        sim_options=self.options,
                        on_progress=report,
                        wrap=None if keep is None else partial(self._recorded, policy, keep),
                    )
                )
                report(len(workload.workflows))
        return runs, {policy: recorder.recording for policy, recorder in recorders.items()}

    def _recorded(self, policy: str, recorders: dict[str, Recorder], engine: PlacementEngine) -> EnginePort:
        recorders[policy] = Recorder(engine, self.cluster)
        return recorders[policy]
