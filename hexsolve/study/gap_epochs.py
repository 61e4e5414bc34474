"""Gaps of single epochs: how far each plan of a run may be from the best plan of its epoch, as its own solve proved.

Knows receipts of plans; knows nothing of whole instances. The solver runs the workload once, deterministically, and
every receipt is kept: the plan's cost by the referee, the greedy plan's, and the bound that was proved in the budget.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import msgspec
import numpy as np

from hexsolve.engine import PlacementEngine
from hexsolve.policy import Plan, Policy
from hexsolve.sim import EnginePort
from hexsolve.snapshot import Snapshot
from hexsolve.study.run import EngineOptions, run_policy, standalone_ms
from hexsolve.study.slo_cell import Cell, Place, Variant, digest_of, in_words


class EpochRow(msgspec.Struct, frozen=True):
    """Epochs in which a solver was called and a bound was proved, in order of time; or the `error`.

    Attributes
    ----------
    calls : waiting calls. cost : of the plan by the referee; greedy : of HexAGenT's; bound : no plan costs less.
    outcomes : how often what came of an epoch, those without a solve included.
    """

    key: str
    calls: list[int] = []
    cost: list[float] = []
    greedy: list[float] = []
    bound: list[float] = []
    outcomes: dict[str, int] = {}
    error: str = ""

    @property
    def gaps(self) -> list[float]:
        """(cost - bound) / cost by epoch, 0 where the plan is proved optimal."""
        return [_gap(cost, bound) for cost, bound in zip(self.cost, self.bound, strict=True)]

    @property
    def greedy_gaps(self) -> list[float]:
        """The same of the greedy plan: 0 where the heuristic is proved optimal."""
        return [_gap(cost, bound) for cost, bound in zip(self.greedy, self.bound, strict=True)]


@dataclass(frozen=True)
class Epochs:
    """A task: a run of the solver in a place under a seed with a planning budget in ms."""

    place: Place
    seed: int
    budget_ms: float

    @property
    def _cell(self) -> Cell:
        return Cell(
            self.place, Variant("solver", "solver", EngineOptions(self.budget_ms, deterministic=True)), self.seed
        )

    @cached_property
    def key(self) -> str:
        """Digest of all that the row depends on."""
        return digest_of("epochs", self._cell.key)

    def compute(self) -> EpochRow:
        """Run the solver and keep its receipts; an error becomes the row's error."""
        try:
            return self._watched()
        except Exception as error:
            return EpochRow(self.key, error=in_words(error))

    def _watched(self) -> EpochRow:
        place, workload = self.place, self.place.build(self.seed)
        reuse = place.setting.prefix_reuse
        noted: list[Noting] = []

        def note(engine: PlacementEngine) -> EnginePort:
            noted.append(Noting(engine.policy))
            engine.policy = noted[0]
            return engine

        run_policy(
            place.world,
            workload,
            "solver",
            standalone_ms(place.world, workload, prefix_reuse=reuse),
            seed=self.seed,
            engine_options=self._cell.variant.engine,
            predictor=place.setting.predictor or place.predictor,
            prefix_reuse=reuse,
            wrap=note,
        )
        return noted[0].row(self.key)


class Noting:
    """A policy that keeps what its plans' receipts say."""

    replans = True

    def __init__(self, inner: Policy) -> None:
        self._inner, self.name = inner, inner.name
        self._rows: list[tuple[int, float, float, float]] = []
        self._outcomes: Counter[str] = Counter()

    def plan(self, snapshot: Snapshot) -> Plan:
        """The inner policy's plan."""
        plan = self._inner.plan(snapshot)
        receipt = plan.receipt
        self._outcomes[str(receipt.get("outcome", "no receipt")).partition(":")[0]] += 1
        if "objective" in receipt and np.isfinite(receipt["bound"]):
            greedy = float(receipt["greedy_cost"])
            cost = min(greedy, float(receipt["objective"]))
            self._rows.append((int(receipt["calls"]), cost, greedy, float(receipt["bound"])))
        return plan

    def row(self, key: str) -> EpochRow:
        """Everything noted."""
        calls, cost, greedy, bound = ([row[i] for row in self._rows] for i in range(4))
        whole = [int(count) for count in calls]
        return EpochRow(key, whole, cost, greedy, bound, dict(sorted(self._outcomes.items())))


def _gap(cost: float, bound: float) -> float:
    return max(0.0, (cost - bound) / cost) if cost > 0 else 0.0
