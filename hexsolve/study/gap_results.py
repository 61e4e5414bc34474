"""Brackets and policies as gaps, profiles, CSV and JSON. Knows instances as they were computed; runs nothing.

Two gaps belong to every policy and objective. *Above best*: over the best schedule known, minus 1; the policy is at
least that far from optimal, since somebody did it. *Above bound*: over the certified bound, minus 1; it is at most that
far from optimal, since nobody can. The truth lies between; where the bracket closes they are the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from hexsolve.clairvoyant import OBJECTIVES
from hexsolve.study.gap_bracket import Effort
from hexsolve.study.gap_epochs import EpochRow
from hexsolve.study.gap_run import Instance, short_label
from hexsolve.study.report import versions

SCHEMA = "hexsolve.study.gap.v1"
NAMES = {"req95": "Req95", "req99": "Req99", "max_stretch": "max stretch", "mean_stretch": "mean stretch"}
"""Objectives as tables have them."""

_PROVED = 1e-3  # a bracket narrower than this share is closed: bisection of a bound stops there


@dataclass(frozen=True)
class Gap:
    """One objective of one instance.

    Attributes
    ----------
    bound, best : of the bracket; no schedule is below the one, a simulated one reached the other, by `origin`.
    values : of every policy that ran.
    resource, reason : what binds, see `BoundRecord`.
    """

    objective: str
    bound: float
    best: float
    origin: str
    values: dict[str, float]
    resource: str
    reason: str

    @property
    def width(self) -> float:
        """Width of the bracket over the bound."""
        return self.best / self.bound - 1.0

    @property
    def status(self) -> str:
        """``proved optimal`` where the bracket is closed, else ``bracket``."""
        return "proved optimal" if self.width <= _PROVED else "bracket"

    def values_of(self, policy: str) -> float:
        """The policy's own figure."""
        return self.values[policy]

    def above_best(self, policy: str) -> float:
        """The policy is at least this far from optimal."""
        return self.values[policy] / self.best - 1.0

    def above_bound(self, policy: str) -> float:
        """The policy is at most this far from optimal."""
        return self.values[policy] / self.bound - 1.0


def gaps(instance: Instance) -> dict[str, Gap]:
    """By objective; empty if there is no bracket."""
    bracket = instance.bracket
    found = {}
    for name, bound in bracket.bounds.items():
        values = {
            policy: OBJECTIVES[name].value(np.array(row.stretches))
            for policy, row in instance.rows.items()
            if not row.error
        }
        best = bracket.best[name]
        found[name] = Gap(name, bound.value, best.value, best.origin, values, bound.resource, bound.reason)
    return found


@dataclass(frozen=True)
class PlaceGaps:
    """A place over its seeds: means of what `Gap` has, in the order of the study.

    Attributes
    ----------
    instances : with a bracket. gaps : of each, by objective.
    """

    instances: tuple[Instance, ...]
    gaps: tuple[dict[str, Gap], ...]

    @property
    def label(self) -> str:
        """Workload, cluster and load in one line."""
        return short_label(self.instances[0].place)

    @property
    def policies(self) -> list[str]:
        """Those that ran on every seed."""
        return [policy for policy in self.instances[0].rows if all(policy in gap["req95"].values for gap in self.gaps)]

    def mean(self, objective: str, figure: str, policy: str | None = None) -> float:
        """Mean over seeds of an attribute of `Gap`, or of a method of it that takes a policy."""
        each = [getattr(gap[objective], figure) for gap in self.gaps]
        return fmean(each if policy is None else [value(policy) for value in each])


def by_place(instances: Sequence[Instance]) -> list[PlaceGaps]:
    """Instances with a bracket, grouped by place."""
    groups: dict[tuple[object, ...], list[Instance]] = {}
    for instance in instances:
        if not instance.bracket.error:
            groups.setdefault(instance.place.identity, []).append(instance)
    return [PlaceGaps(tuple(group), tuple(map(gaps, group))) for group in groups.values()]


def profile(places: Sequence[PlaceGaps], objective: str, ratios: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Performance profiles (Dolan and Moré, Mathematical Programming 91, 2002), by policy.

    Share of all instances on which the policy is within each of `ratios` of the best schedule known; a policy that did
    not run on an instance is within none.
    """
    flat = [gap[objective] for place in places for gap in place.gaps]
    policies = dict.fromkeys(policy for gap in flat for policy in gap.values)
    found = {}
    for policy in policies:
        mine = np.array([gap.values.get(policy, np.inf) / gap.best for gap in flat])
        found[policy] = (mine[:, None] <= ratios * (1 + 1e-12)).mean(axis=0)
    return found


# -- epochs -----------------------------------------------------------------------------------------------------------


def epoch_figures(rows: Sequence[EpochRow]) -> dict[str, float]:
    """Epochs of several runs together: how many, how often the heuristic and the plan were proved optimal, gaps.

    Empty if no epoch was solved.
    """
    gap = np.array([gap for row in rows for gap in row.gaps])
    greedy = np.array([gap for row in rows for gap in row.greedy_gaps])
    if not len(gap):
        return {}
    figures: dict[str, float] = {
        "epochs": len(gap),
        "greedy_proved_optimal": float((greedy <= 0.0).mean()),
        "plan_proved_optimal": float((gap <= 0.0).mean()),
    }
    for name, values in (("greedy_gap", greedy), ("plan_gap", gap)):
        figures |= {f"{name}_p{q}": float(np.percentile(values, q)) for q in (50, 90, 99)}
    return figures


def epochs_of(instances: Sequence[Instance]) -> list[EpochRow]:
    """What was measured of single epochs."""
    return [instance.epochs for instance in instances if instance.epochs is not None and not instance.epochs.error]


# -- rows and JSON ----------------------------------------------------------------------------------------------------


def flat_gaps(instances: Sequence[Instance]) -> list[dict[str, Any]]:
    """One flat record per instance, objective and policy, the same columns in every one."""
    return [
        {
            "cluster": instance.place.cluster.name,
            "workload": instance.place.workload,
            "load": instance.place.load.label,
            "seed": instance.seed,
            "workflows": instance.bracket.num_workflows,
            "calls": instance.bracket.num_calls,
            "objective": name,
            "policy": policy,
            "value": value,
            "best_known": gap.best,
            "bound": gap.bound,
            "above_best": gap.above_best(policy),
            "above_bound": gap.above_bound(policy),
            "resource": gap.resource,
            "status": gap.status,
        }
        for instance in instances
        for name, gap in gaps(instance).items()
        for policy, value in gap.values.items()
    ]


def document(name: str, effort: Effort, instances: Sequence[Instance]) -> dict[str, Any]:
    """Everything as JSON data, schema `SCHEMA`."""
    places = by_place(instances)
    ratios = np.round(np.concatenate([np.arange(1.0, 2.0, 0.02), np.geomspace(2.0, 10.0, 20)]), 4)
    return {
        "schema": SCHEMA,
        "name": name,
        "effort": asdict(effort),
        "versions": versions(),
        "instances": [_instance_record(instance) for instance in instances],
        "places": [_place_record(place) for place in places],
        "profiles": {
            "ratios": ratios.tolist(),
            **{name: {p: curve.tolist() for p, curve in profile(places, name, ratios).items()} for name in NAMES},
        },
        "epochs": epoch_figures(epochs_of(instances)),
    }


def _instance_record(instance: Instance) -> dict[str, Any]:
    place, bracket = instance.place, instance.bracket
    return {
        "cluster": place.cluster.name,
        "cluster_sha256": place.world.digest(),
        "workload": place.workload,
        "workload_sha256": bracket.digest,
        "load": asdict(place.load) | {"label": place.load.label},
        "seed": instance.seed,
        "num_workflows": bracket.num_workflows,
        "num_calls": bracket.num_calls,
        "objectives": {name: _gap_record(instance, gap) for name, gap in gaps(instance).items()},
        "runs": bracket.runs,
        "bounds_s": bracket.bounds_s,
        "search_s": bracket.search_s,
        "epochs": None if instance.epochs is None else msgspec.to_builtins(instance.epochs),
        "errors": instance.errors,
    }


def _gap_record(instance: Instance, gap: Gap) -> dict[str, Any]:
    bound, best = (
        msgspec.to_builtins(part[gap.objective]) for part in (instance.bracket.bounds, instance.bracket.best)
    )
    return {
        "bound": bound,
        "best_known": best,
        "width": gap.width,
        "status": gap.status,
        "policies": {
            policy: {"value": value, "above_best": gap.above_best(policy), "above_bound": gap.above_bound(policy)}
            for policy, value in gap.values.items()
        },
    }


def _place_record(place: PlaceGaps) -> Mapping[str, Any]:
    first = place.instances[0].place
    return {
        "cluster": first.cluster.name,
        "workload": first.workload,
        "load": first.load.label,
        "seeds": [instance.seed for instance in place.instances],
        "objectives": {
            name: {figure: place.mean(name, figure) for figure in ("bound", "best", "width")}
            | {
                "policies": {
                    policy: {figure: place.mean(name, figure, policy) for figure in ("above_best", "above_bound")}
                    for policy in place.policies
                }
            }
            for name in NAMES
        },
    }
