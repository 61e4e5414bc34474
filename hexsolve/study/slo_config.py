"""What an SLO study runs, out of a file or a preset. Knows fields, ranges and names; runs nothing.

    name = "mine"
    policies = ["workflow-fcfs", "hexagent", "solver"]
    num_seeds = 5
    [[grids]]                       # clusters x workloads x loads; any number of grids
    clusters = ["hetero-1-llama-70b"]
    workloads = ["text2sql", "traces/mine.jsonl"]
    rho = [0.7, 1.0]
    [[settings]]                    # every grid is run in every setting; none given: as the cluster is
    name = "slow links"
    bandwidth_gb_s = 1.25

Files (clusters, workloads) are relative to the config's folder. docs/study.md lists every field.
"""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct, field

from hexsolve.catalog import load_cluster
from hexsolve.cluster import Cluster
from hexsolve.datafile import nearest, read_file
from hexsolve.errors import InputError
from hexsolve.generate import NAMES, generate
from hexsolve.predict import parse_predictor
from hexsolve.profile_file import Count, Name, Positive
from hexsolve.study.run import EngineOptions, known_policies
from hexsolve.study.slo_cell import Cell, Load, Place, Variant
from hexsolve.study.slo_setting import Setting, unknown_gpus

Options = dict[str, Any]

ENGINE: Options = {"budget_ms": 5.0, "deterministic": True}
"""Studies can be repeated bit for bit: the solver stops by work and is charged its whole budget as latency."""


class Grid(Struct, forbid_unknown_fields=True, kw_only=True):
    """Clusters x workloads x loads; a load is each of `rho`, each of `rate_per_s`, `burst` and `recorded`.

    Attributes
    ----------
    workflows : how many; None is 100 for a name and the whole file for a file.
    rho : utilisation of the pool that binds, > 0. rate_per_s : workflows per second, > 0.
    cv : coefficient of variation of the gaps for these two, > 0; 1 is Poisson.
    burst : all at once. recorded : a file's own times.
    """

    clusters: Annotated[list[Name], Meta(min_length=1)]
    workloads: Annotated[list[Name], Meta(min_length=1)]
    workflows: Count | None = None
    rho: list[Positive] = field(default_factory=list)
    rate_per_s: list[Positive] = field(default_factory=list)
    cv: Positive = 1.0
    burst: bool = False
    recorded: bool = False

    def loads(self) -> list[Load]:
        """In the order in which tables show them."""
        return [
            *(Load("rate", value, self.cv) for value in self.rate_per_s),
            *(Load("rho", value, self.cv) for value in self.rho),
            *([Load("burst")] if self.burst else []),
            *([Load("recorded")] if self.recorded else []),
        ]


class VariantRecord(Struct, forbid_unknown_fields=True, kw_only=True):
    """A policy with engine options of its own, under a label of its own."""

    label: Name
    policy: Name
    engine: Options = field(default_factory=dict)


class Study(Struct, forbid_unknown_fields=True, kw_only=True):
    """An SLO study.

    Attributes
    ----------
    policies : names from the registry. variants : the same with engine options of their own.
    reference : label of the policy that all are compared with; the first one where it does not run.
    first_seed, num_seeds : seeds of workload, arrivals and prediction errors, the same for every policy.
    predictor : see `hexsolve.predict.parse_predictor`.
    scales : SLO scales of the columns of attainment. slo : the one of the column `on time`.
    plotted : labels of the curves in plots; all if empty.
    engine : fields of `hexsolve.study.run.EngineOptions`; what is not given is as in `ENGINE`.
    """

    name: Name
    grids: Annotated[list[Grid], Meta(min_length=1)]
    policies: list[Name] = field(default_factory=list)
    variants: list[VariantRecord] = field(default_factory=list)
    reference: Name = "hexagent"
    first_seed: Annotated[int, Meta(ge=0)] = 1000
    num_seeds: Count = 5
    predictor: Name = "oracle"
    scales: list[Positive] = field(default_factory=lambda: [1.5, 2.0, 3.0, 5.0])
    slo: Positive = 2.0
    plotted: list[Name] = field(default_factory=list)
    engine: Options = field(default_factory=dict)
    settings: list[Setting] = field(default_factory=lambda: [Setting()])


def read_study(path: Path) -> Study:
    """A study file (TOML, YAML, JSON).

    Raises
    ------
    InputError
        One error that names the file, the field, what was expected and what came.
    """
    return read_file(path, Study)


def expand(study: Study, label: str, folder: Path = Path()) -> list[Cell]:
    """All cells, seeds outermost, so that the first rows tell something about every place.

    Parameters
    ----------
    label : names the study's file or preset in errors.
    folder : that files of the study are relative to.

    Raises
    ------
    InputError
        On a name that is not known, an option out of range, or a place that cannot be.
    """
    return _Expansion(study, label, folder).cells()


class _Expansion:
    """Names into things, each error with its field in front."""

    def __init__(self, study: Study, label: str, folder: Path) -> None:
        self.study, self.label, self.folder = study, label, folder
        self.clusters: dict[str, Cluster] = {}

    def cells(self) -> list[Cell]:
        variants = self._variants()
        places = self._places()
        self._check_settings()
        seeds = range(self.study.first_seed, self.study.first_seed + self.study.num_seeds)
        return [Cell(place, variant, seed) for seed in seeds for place in places for variant in variants]

    def _fail(self, where: str, what: object) -> InputError:
        return InputError(f"{self.label}: {where}: {what}")

    # -- policies ----------------------------------------------------------------------------------------------------

    def _variants(self) -> list[Variant]:
        study = self.study
        if not study.policies and not study.variants:
            raise self._fail("policies", "expected at least one policy or variant, got none")
        shared = self._engine(study.engine, "engine")
        try:
            names = known_policies(study.policies) if study.policies else ()
        except InputError as error:
            raise self._fail("policies", error) from None
        variants = [Variant(name, name, shared) for name in names]
        for position, record in enumerate(study.variants):
            where = f"variants[{position}]"
            try:
                known_policies([record.policy])
            except InputError as error:
                raise self._fail(f"{where}.policy", error) from None
            if record.label in {variant.label for variant in variants}:
                raise self._fail(f"{where}.label", f"expected a label of its own, got {record.label!r} twice")
            engine = self._engine(study.engine | record.engine, f"{where}.engine")
            variants.append(Variant(record.label, record.policy, engine))
        labels = [variant.label for variant in variants]
        for position, name in enumerate(study.plotted):
            if name not in labels:
                raise self._fail(f"plotted[{position}]", f"{name!r} does not run; {nearest(name, labels)}")
        return variants

    def _engine(self, options: Mapping[str, Any], where: str) -> EngineOptions:
        known = [known.name for known in fields(EngineOptions)]
        for name in options:
            if name not in known:
                raise self._fail(where, f"unknown key {name!r}: {nearest(name, known)}")
        try:
            return msgspec.convert(ENGINE | dict(options), EngineOptions)
        except (msgspec.ValidationError, InputError) as error:
            raise self._fail(where, error) from None

    # -- places ------------------------------------------------------------------------------------------------------

    def _places(self) -> list[Place]:
        found: dict[tuple[object, ...], Place] = {}
        for number, grid in enumerate(self.study.grids):
            loads = grid.loads()
            if not loads:
                raise self._fail(f"grids[{number}]", "expected a load: rho, rate_per_s, burst or recorded, got none")
            sources = [
                self._source(name, f"grids[{number}].workloads[{position}]", recorded=grid.recorded)
                for position, name in enumerate(grid.workloads)
            ]
            for position, name in enumerate(grid.clusters):
                cluster = self._cluster(name, f"grids[{number}].clusters[{position}]")
                for place in self._in_settings(cluster, sources, grid.workflows, loads):
                    found.setdefault(place.identity, place)
        return list(found.values())

    def _in_settings(
        self, cluster: Cluster, sources: list[str], workflows: int | None, loads: list[Load]
    ) -> Iterator[Place]:
        for number, setting in enumerate(self.study.settings):
            self._check_world(setting, cluster, f"settings[{number}]")
            for source in sources:
                for load in loads:
                    yield Place(cluster, source, workflows, load, setting, self.study.predictor)

    def _cluster(self, name: str, where: str) -> Cluster:
        if name not in self.clusters:
            beside = self.folder / name
            try:
                self.clusters[name] = load_cluster(beside if beside.is_file() else name)
            except InputError as error:
                raise self._fail(where, error) from None
        return self.clusters[name]

    def _source(self, name: str, where: str, *, recorded: bool) -> str:
        if name in NAMES:
            if recorded:
                raise self._fail(where, f"expected a file, which alone records arrivals, got the name {name!r}")
            return name
        beside = self.folder / name
        if not beside.is_file():
            raise self._fail(where, f"expected a file or a name, got {name!r}; {nearest(name, NAMES)}")
        return str(beside)

    # -- settings ----------------------------------------------------------------------------------------------------

    def _check_settings(self) -> None:
        self._check_predictor(self.study.predictor, "predictor")
        names = [setting.name for setting in self.study.settings]
        if not names:
            raise self._fail("settings", "expected at least one setting or no such key, got an empty list")
        for number, setting in enumerate(self.study.settings):
            where = f"settings[{number}]"
            if setting.name in names[:number]:
                raise self._fail(f"{where}.name", f"expected a name of its own, got {setting.name!r} twice")
            if setting.predictor is not None:
                self._check_predictor(setting.predictor, f"{where}.predictor")
            unknown = unknown_gpus(setting, self.clusters)
            if unknown:
                raise self._fail(f"{where}.gpu_speed", f"expected GPU types of the clusters, got {unknown[0]!r}")

    def _check_predictor(self, name: str, where: str) -> None:
        try:
            parse_predictor(name, generate("bfcl", 1, 0))
        except InputError as error:
            raise self._fail(where, error) from None

    def _check_world(self, setting: Setting, cluster: Cluster, where: str) -> None:
        try:
            setting.cluster(cluster)
        except InputError as error:
            raise self._fail(where, error) from None
        if setting.failure is not None:
            pool = cluster.prefill if setting.failure.role == "prefill" else cluster.decode
            if setting.failure.index >= len(pool):
                expected = f"expected 0..{len(pool) - 1} ({setting.failure.role} of {cluster.name!r})"
                raise self._fail(f"{where}.failure.index", f"{expected}, got {setting.failure.index}")
