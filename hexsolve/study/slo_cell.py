"""One cell of an SLO study, and what it depends on. Knows how a cell is computed; keeps no rows.

A cell is one policy under one seed in one place (cluster, workload, load, setting). Its key is a digest of everything
its row depends on: clusters, workload, arrivals, policy and options, the sources of this package and the libraries
under it. The denominators H_w are tasks of their own, shared by all loads and policies.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

import hexsolve_models
from hexsolve.catalog import instances_dir
from hexsolve.cluster import Cluster
from hexsolve.generate import NAMES
from hexsolve.sim import SimOptions
from hexsolve.study.report import versions
from hexsolve.study.run import EngineOptions, run_policy, standalone_ms
from hexsolve.study.slo_setting import Late, Setting
from hexsolve.study.workloads import ArrivalChoice, build_workload
from hexsolve.workflow import Workload

_NOT_IN_RESULTS = ("cli", "plot.py", "plot_slo.py", "plot_gap.py", "timeline.py", "__main__.py")
_LIBRARIES = ("python", "numpy", "scipy", "numba", "ortools", "highspy", "pulp")


@dataclass(frozen=True)
class Load:
    """How often workflows arrive.

    Attributes
    ----------
    kind : ``rho`` (utilisation of the pool that binds), ``rate`` (workflows per second), ``burst`` (all at once) or
        ``recorded`` (the file's own times).
    value : ρ or rate, > 0; 0 for the others. cv : of the gaps, 1 is Poisson.
    """

    kind: Literal["rho", "rate", "burst", "recorded"]
    value: float = 0.0
    cv: float = 1.0

    @property
    def label(self) -> str:
        """Short name: ``ρ 0.7``, ``40/s``, ``burst``, ``recorded``, with the CV where it is not 1."""
        plain = {"rho": f"ρ {self.value:g}", "rate": f"{self.value:g}/s"}.get(self.kind, self.kind)
        return plain if self.cv == 1.0 else f"{plain} cv {self.cv:g}"


@dataclass(frozen=True)
class Variant:
    """A policy with its engine options, under the name that tables show."""

    label: str
    policy: str
    engine: EngineOptions


@dataclass(frozen=True)
class Place:
    """What all policies of a comparison share but the seed.

    `cluster` is as it is without the setting, `source` the name of a workload or the path of a file.
    """

    cluster: Cluster
    source: str
    workflows: int | None
    load: Load
    setting: Setting = field(default_factory=Setting)
    predictor: str = "oracle"

    @property
    def workload(self) -> str:
        """Name of the workload as tables show it."""
        return self.source if self.source in NAMES else Path(self.source).stem

    @property
    def identity(self) -> tuple[object, ...]:
        """Equal for places that are the same."""
        return self.cluster.digest(), self.source, self.workflows, self.load, self.setting.name

    @cached_property
    def world(self) -> Cluster:
        """The cluster as the setting has it."""
        return self.setting.cluster(self.cluster)

    @property
    def label(self) -> str:
        """All of it in one line."""
        return f"{self.workload} on {self.cluster.name}, {self.load.label}, {self.setting.name}"

    def build(self, seed: int) -> Workload:
        """The workload with its arrivals."""
        load = self.load
        if load.kind == "recorded":
            return build_workload(self.source, self.workflows, seed, cluster=self.cluster)
        choice = ArrivalChoice("burst") if load.kind == "burst" else ArrivalChoice("bursty", load.cv)
        if load.cv == 1.0 and load.kind != "burst":
            choice = ArrivalChoice("poisson")
        return build_workload(
            self.source,
            self.workflows,
            seed,
            cluster=self.cluster,
            arrivals=choice,
            rate_per_s=load.value if load.kind == "rate" else None,
            load=load.value if load.kind == "rho" else None,
        )


@dataclass(frozen=True)
class Alone:
    """A task: the denominators H_w of one workload on one cluster as the setting has it."""

    place: Place
    seed: int

    @cached_property
    def key(self) -> str:
        """Digest of all that the denominators depend on: not of arrivals, policies or faults."""
        place = self.place
        return digest_of(
            "alone",
            place.world.digest(),
            place.setting.prefix_reuse,
            *_workload_identity(place),
            place.load.kind == "recorded",
            self.seed,
        )

    def compute(self) -> "AloneRow":
        """Run every workflow alone; an error becomes the row's error."""
        try:
            setting, workload = self.place.setting, self.place.build(self.seed)
            alone_ms = standalone_ms(self.place.world, workload, prefix_reuse=setting.prefix_reuse).tolist()
        except Exception as error:
            return AloneRow(self.key, error=in_words(error))
        return AloneRow(self.key, alone_ms)


@dataclass(frozen=True)
class Cell:
    """A policy under a seed in a place."""

    place: Place
    variant: Variant
    seed: int

    @property
    def alone(self) -> Alone:
        """The task whose result it needs."""
        return Alone(self.place, self.seed)

    @cached_property
    def key(self) -> str:
        """Digest of all that the row depends on; labels are no part of it."""
        place, setting = self.place, msgspec.to_builtins(self.place.setting)
        del setting["name"]
        return digest_of(
            "row",
            place.cluster.digest(),
            *_workload_identity(place),
            asdict(place.load),
            setting,
            setting["predictor"] or place.predictor,
            self.seed,
            self.variant.policy,
            asdict(self.variant.engine),
        )

    @property
    def label(self) -> str:
        """All of it in one line."""
        return f"{self.variant.label}, {self.place.label}, seed {self.seed}"

    def compute(self, alone_ms: Sequence[float]) -> "Row":
        """Simulate; an error becomes the row's error. `alone_ms` f8[W] as `Alone` has them."""
        try:
            return self._simulated(np.asarray(alone_ms, dtype=np.float64))
        except Exception as error:
            return Row(self.key, error=in_words(error))

    def _simulated(self, alone_ms: np.ndarray[Any, np.dtype[np.float64]]) -> "Row":
        setting, workload = self.place.setting, self.place.build(self.seed)
        faults = setting.faults(workload.workflows[-1].arrival_ms, float(alone_ms.mean()))
        run = run_policy(
            self.place.world,
            workload,
            self.variant.policy,
            alone_ms,
            seed=self.seed,
            engine_options=self.variant.engine,
            predictor=setting.predictor or self.place.predictor,
            prefix_reuse=setting.prefix_reuse,
            sim_options=SimOptions(faults=faults),
            wrap=(lambda engine: Late(engine, setting.reaction_ms)) if setting.reaction_ms else None,
        )
        return Row(
            key=self.key,
            num_calls=run.num_calls,
            end_ms=run.end_ms,
            stretches=run.stretches.tolist(),
            outcomes=run.outcomes,
            counters=run.counters,
            anomalies=run.anomalies,
            decisions=len(run.decision_ms),
            decision_p50_ms=run.decision_percentile_ms(50),
            decision_p99_ms=run.decision_percentile_ms(99),
            cpu_s=run.cpu_s,
        )


class AloneRow(msgspec.Struct, frozen=True):
    """Denominators by workflow in workload order, ms; or why there are none."""

    key: str
    alone_ms: list[float] = []
    error: str = ""


class Row(msgspec.Struct, frozen=True):
    """What a cell came to, see `hexsolve.study.run.Run`; or its `error`.

    All but `decision_p50_ms`, `decision_p99_ms` and `cpu_s` (wall and CPU times) is the same on every run if the engine
    is deterministic.
    """

    key: str
    num_calls: int = 0
    end_ms: float = 0.0
    stretches: list[float] = []
    outcomes: dict[str, int] = {}
    counters: dict[str, int] = {}
    anomalies: dict[str, int] = {}
    decisions: int = 0
    decision_p50_ms: float = 0.0
    decision_p99_ms: float = 0.0
    cpu_s: float = 0.0
    error: str = ""


def _workload_identity(place: Place) -> tuple[object, ...]:
    if place.source in NAMES:
        return place.source, place.workflows
    return hashlib.sha256(Path(place.source).read_bytes()).hexdigest(), place.workflows


def digest_of(*content: object) -> str:
    """Key of a task: of `content` (JSON data) and of `sources_digest`."""
    text = json.dumps([*content, sources_digest()], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@cache
def sources_digest() -> str:
    """Digest of everything in the installed package that can change a row, and of the libraries' versions.

    Read once per process. Command line, plots and studies' tables are left out.
    """
    digest = hashlib.sha256()
    for folder in (Path(__file__).parent.parent, Path(str(hexsolve_models.__file__)).parent):
        for file in sorted(folder.rglob("*.py")):
            inside = file.relative_to(folder)
            if inside.parts[0] not in _NOT_IN_RESULTS and not inside.name.startswith(("slo_", "gap_")):
                digest.update(f"{inside}\0".encode() + file.read_bytes())
    for name in ("slo_cell.py", "slo_setting.py", "gap_bounds.py", "gap_bracket.py"):
        digest.update(Path(__file__).with_name(name).read_bytes())
    for figures in sorted((instances_dir() / "workloads" / "figures").iterdir(), key=lambda file: file.name):
        digest.update(figures.read_bytes())
    installed = versions()
    digest.update(json.dumps([installed[name] for name in _LIBRARIES]).encode())
    return digest.hexdigest()


def in_words(error: Exception) -> str:
    """An error as a row keeps it, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
