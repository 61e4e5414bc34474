"""How good a plan is, certified: its cost by the referee and a bound no plan can beat. Knows plans; adopts none.

The epoch problem is that of a greedy plan (its durations, its most urgent calls): the solver's own, so that its figures
count, and the same for every other policy, so that plans for one snapshot are compared on one scale.
"""

from dataclasses import dataclass

from hexsolve.epoch import EpochParams, projected, to_problem
from hexsolve.policies.lookahead import Lookahead
from hexsolve.policy import Plan, Policy
from hexsolve.snapshot import Snapshot
from hexsolve_models import cost, violations
from hexsolve_models.bounds import lower_bound


@dataclass(frozen=True)
class Certificate:
    """Costs of one epoch, lower is better.

    Attributes
    ----------
    objective : referee cost of the plan; greedy : of the greedy plan; bound : no plan costs less.
    calls : waiting calls that the epoch problem holds.
    """

    objective: float
    greedy: float
    bound: float
    calls: int

    @property
    def gap(self) -> float:
        """Share of the objective that is not proved to be needed, 0 if the plan is proved optimal."""
        return max(0.0, (self.objective - self.bound) / self.objective) if self.objective > 0 else 0.0


def certify(
    snapshot: Snapshot, plan: Plan, params: EpochParams | None = None, base: Policy | None = None
) -> Certificate | None:
    """Cost and bound of `plan`; None if nothing waits or the plan leaves a call out that the greedy plan places.

    `base` makes the greedy plan, by default as the solver does. Where the plan's receipt holds the solver's own
    objective and bound of this problem, the better figure counts.
    """
    greedy = projected(snapshot, (base or Lookahead()).plan(snapshot))
    translated = to_problem(snapshot, greedy, params or EpochParams())
    if translated is None:
        return None
    problem, index = translated
    if (plan.decode[index.positions] < 0).any():
        return None
    decision = index.decision_of(problem, plan)
    if violations(problem, decision):
        return None
    objective = float(cost(problem, decision))
    if "objective" in plan.receipt and plan.receipt.get("outcome", "").startswith("better"):
        objective = min(objective, float(plan.receipt["objective"]))
    bound = max(float(lower_bound(problem)), float(plan.receipt.get("bound", 0)))
    return Certificate(objective, float(cost(problem, index.decision_of(problem, greedy))), bound, problem.num_calls)
