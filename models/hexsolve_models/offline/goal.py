"""What an offline decision is for: four objectives, exact. Knows ratios of workflows; knows no formulation."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Literal

from hexsolve_models.offline import referee
from hexsolve_models.offline.problem import OfflineDecision, OfflineProblem


@dataclass(frozen=True)
class Goal:
    """An objective to minimise, see models/README.md §9.3; made by the functions below.

    Attributes
    ----------
    kind : ``late_count``, ``req`` (the largest stretch among the best `level` of the workflows) or ``mean_stretch``.
    level : α of ``late_count``, >= 0; q of ``req``, 0 < q <= 1; 1 for ``mean_stretch``.
    """

    kind: Literal["late_count", "req", "mean_stretch"]
    level: Fraction = Fraction(1)

    def value(self, problem: OfflineProblem, decision: OfflineDecision) -> Fraction:
        """What the decision is worth, by the referee."""
        return self.of(referee.stretches(problem, referee.finish_ticks(problem, decision)))

    def of(self, ratios: Sequence[Fraction]) -> Fraction:
        """The objective of stretches by workflow."""
        if self.kind == "late_count":
            return Fraction(referee.late_count(ratios, self.level))
        if self.kind == "req":
            return referee.req(ratios, self.level)
        return referee.mean_stretch(ratios)

    def num_kept(self, num_workflows: int) -> int:
        """Workflows whose stretch has to count; the others may finish whenever they like."""
        if self.kind == "late_count":
            return 0
        return ceil(self.level * num_workflows) if self.kind == "req" else num_workflows


def late_count(alpha: Fraction) -> Goal:
    """Workflows with R_w > alpha >= 0."""
    if alpha < 0:
        raise ValueError(f"alpha = {alpha}: expected >= 0")
    return Goal("late_count", Fraction(alpha))


def req(q: Fraction) -> Goal:
    """The ceil(q W)-th smallest R_w, 0 < q <= 1."""
    if not 0 < q <= 1:
        raise ValueError(f"q = {q}: expected 0 < q <= 1")
    return Goal("req", Fraction(q))


MAX_STRETCH = Goal("req")
MEAN_STRETCH = Goal("mean_stretch")
