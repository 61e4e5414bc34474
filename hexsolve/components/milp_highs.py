"""The time-slot MILP through PuLP with HiGHS: an independent second opinion, for studies."""

from typing import Literal

from hexsolve.backends.outcome import Limits, NativeOutcome
from hexsolve.components._formulated import solve_formulated
from hexsolve.proposal import Proposal
from hexsolve_models import Decision, Problem
from hexsolve_models.formulation import Formulation

IS_NATIVE = True


def run(problem: Problem, hint: Decision | None, limits: Limits) -> Proposal:
    return solve_formulated(problem, hint, limits, "milp_slots", run_model, reserve_ms)


def reserve_ms(left_ms: float) -> float:
    """By how much HiGHS overruns a limit out of `left_ms`: up to five times short ones (SOLVERS.md).

    Enough for the process and the files of CBC too.
    """
    return 0.25 * left_ms + 40.0


def run_model(
    built: Formulation,  # type: ignore[type-arg]
    start: list[int] | None,
    limits: Limits,
    solver: Literal["highs", "cbc"] = "highs",
) -> NativeOutcome:
    """Run the model in a solver that PuLP knows."""
    from hexsolve.backends import pulp_mip

    return pulp_mip.run(built.model, start, limits, solver=solver)


def warm_up() -> None:
    """Load PuLP and the solver."""
    from hexsolve.backends import pulp_mip

    pulp_mip.warm_up()
