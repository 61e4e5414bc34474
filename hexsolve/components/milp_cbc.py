"""The time-slot MILP through PuLP with CBC, in a process of its own: a third opinion, for studies."""

from functools import partial

from hexsolve.backends.outcome import Limits
from hexsolve.components._formulated import solve_formulated
from hexsolve.components.milp_highs import reserve_ms, run_model
from hexsolve.proposal import Proposal
from hexsolve_models import Decision, Problem

IS_NATIVE = True


def run(problem: Problem, hint: Decision | None, limits: Limits) -> Proposal:
    return solve_formulated(problem, hint, limits, "milp_slots", partial(run_model, solver="cbc"), reserve_ms)
