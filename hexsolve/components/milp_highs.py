"""The time-slot MILP through PuLP with HiGHS: an independent second opinion, for studies."""

from hexsolve.backends.outcome import Limits, NativeOutcome
from hexsolve.components._formulated import solve_formulated
from hexsolve.proposal import Proposal
from hexsolve_models import Decision, Problem
from hexsolve_models.formulation import Formulation

IS_NATIVE = True


def run(problem: Problem, hint: Decision | None, limits: Limits) -> Proposal:
    return solve_formulated(problem, hint, limits, "milp_slots", _run_model, reserve_ms)


def reserve_ms(left_ms: float) -> float:
    """By how much HiGHS overruns a limit out of `left_ms`: up to five times short ones (SOLVERS.md)."""
    return 0.25 * left_ms + 40.0


def _run_model(built: Formulation, start: list[int] | None, limits: Limits) -> NativeOutcome:  # type: ignore[type-arg]
    from hexsolve.backends import pulp_mip

    return pulp_mip.run(built.model, start, limits, solver="highs")


def warm_up() -> None:
    """Load PuLP and the solver."""
    from hexsolve.backends import pulp_mip

    pulp_mip.warm_up()
