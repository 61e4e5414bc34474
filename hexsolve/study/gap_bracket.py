"""The bracket of one instance, and what it depends on: [certified bound, best schedule known], by objective.

Knows how a bracket is computed; keeps no rows. Bounds come first, then whatever is left of the budget goes to an exact
solve, where the instance is small enough, and to the clairvoyant search.
"""

import time
from dataclasses import asdict, dataclass
from functools import cached_property

import msgspec
import numpy as np

from hexsolve.clairvoyant import Foresight, Limits, find_schedules, foresee, parse_objective, replay
from hexsolve.clairvoyant.moves import Node
from hexsolve.offline import offline_problem
from hexsolve.sim import SimOptions, stretches
from hexsolve.study.gap_bounds import TICK_MS, BoundRecord, certified_bounds
from hexsolve.study.run import EngineOptions
from hexsolve.study.slo_cell import Cell, Place, Row, Variant, digest_of, in_words
from hexsolve.tables import Floats
from hexsolve.workflow import Workload

_EXACT_SHARE = 0.25  # of the budget that goes to exact solves of small instances at most
_SEARCH_SHARE = 0.5  # of the budget that the search has even where the bounds took longer
_NO_POLICY = Variant("", "", EngineOptions())

OBJECTIVES = ("req95", "req99", "max_stretch", "mean_stretch")


@dataclass(frozen=True)
class Effort:
    """What may be spent on a bracket.

    Attributes
    ----------
    budget_s : wall time of bounds and search together, > 0; the bounds take what they need, the search at least half.
    exact_s : seconds per objective for the exact solve of an instance of few calls, >= 0.
    runs : most simulations of the search; where that and not the budget stops it, and `exact_s` is 0, the bracket is
        the same on every run.
    seed : of search and solves.
    """

    budget_s: float = 60.0
    exact_s: float = 10.0
    runs: float = float("inf")
    seed: int = 0


class StepRecord(msgspec.Struct, frozen=True):
    """A better value, `at_s` seconds after the start and after `runs` simulations, found by `origin`."""

    at_s: float
    runs: int
    value: float
    origin: str


class BestRecord(msgspec.Struct, frozen=True):
    """The best schedule that is known for an objective."""

    value: float
    origin: str
    steps: list[StepRecord] = []


class BracketRow(msgspec.Struct, frozen=True):
    """What a bracket came to, or its `error`.

    Attributes
    ----------
    num_workflows, num_calls : of the instance. digest : SHA-256 of its workload.
    bounds, best : by objective. runs : simulations of the search.
    bounds_s, search_s : wall time of either.
    """

    key: str
    num_workflows: int = 0
    num_calls: int = 0
    digest: str = ""
    bounds: dict[str, BoundRecord] = {}
    best: dict[str, BestRecord] = {}
    runs: int = 0
    bounds_s: float = 0.0
    search_s: float = 0.0
    error: str = ""


class Instance:
    """An instance in hindsight: what bounds and search work on."""

    def __init__(self, place: Place, seed: int, alone_ms: Floats) -> None:
        self.workload: Workload = place.build(seed)
        self.place, self.alone_ms = place, alone_ms
        oracle = (place.setting.predictor or place.predictor) == "oracle"
        self.problem = offline_problem(
            self.workload,
            place.world,
            alone_ms,
            tick_ms=TICK_MS,
            prefix_reuse=place.setting.prefix_reuse,
            lengths_known=oracle and place.setting.failure is None,
        )
        self.ahead: Foresight = foresee(self.problem)

    def simulate(self, node: Node) -> Floats:
        """f8[W], stretches of a schedule carried out with known lengths."""
        last_ms = self.workload.workflows[-1].arrival_ms
        options = SimOptions(faults=self.place.setting.faults(last_ms, float(self.alone_ms.mean())))
        schedule, reuse = node.schedule(self.ahead), self.place.setting.prefix_reuse
        run = replay(self.place.world, self.workload, self.ahead, schedule, prefix_reuse=reuse, options=options)
        return stretches(run.arrival_ms, run.finish_ms, self.alone_ms)


@dataclass(frozen=True)
class Bracket:
    """A task: an instance (a place under a seed), the policies that ran on it, and what may be spent.

    Attributes
    ----------
    rows : (label, row) of every policy that did not fail.
    """

    place: Place
    seed: int
    alone_ms: tuple[float, ...]
    rows: tuple[tuple[str, Row], ...]
    effort: Effort

    @cached_property
    def key(self) -> str:
        """Digest of all that the bracket depends on: that of the policies' rows, and the effort."""
        identity = Cell(self.place, _NO_POLICY, self.seed).key
        return digest_of("bracket", identity, [row.key for _, row in self.rows], asdict(self.effort), self.alone_ms)

    def compute(self) -> BracketRow:
        """Bounds, then search; an error becomes the row's error."""
        try:
            return self._bracketed()
        except Exception as error:
            return BracketRow(self.key, error=in_words(error))

    def _bracketed(self) -> BracketRow:
        started_s = time.monotonic()
        instance = Instance(self.place, self.seed, np.array(self.alone_ms))
        exact_s = min(self.effort.exact_s, _EXACT_SHARE * self.effort.budget_s / len(OBJECTIVES))
        bounds = certified_bounds(instance.problem, OBJECTIVES, exact_s=exact_s, seed=self.effort.seed)
        bounds_s = time.monotonic() - started_s
        known = {label: np.array(row.stretches) for label, row in self.rows}
        found = find_schedules(
            instance.ahead,
            instance.simulate,
            [parse_objective(name) for name in OBJECTIVES],
            Limits(max(self.effort.budget_s - bounds_s, _SEARCH_SHARE * self.effort.budget_s), self.effort.runs),
            known=known,
            targets={name: bound.value for name, bound in bounds.items()},
            num_replicas=(self.place.world.num_prefill, self.place.world.num_decode),
            seed=self.effort.seed,
        )
        best = {
            name: BestRecord(
                value=best.value,
                origin=best.steps[-1].origin,
                steps=[StepRecord(bounds_s + step.at_s, step.runs, step.value, step.origin) for step in best.steps],
            )
            for name, best in found.best.items()
        }
        return BracketRow(
            key=self.key,
            num_workflows=len(instance.workload.workflows),
            num_calls=instance.workload.num_calls,
            digest=instance.workload.digest(),
            bounds=bounds,
            best=best,
            runs=found.runs,
            bounds_s=bounds_s,
            search_s=found.seconds,
        )
