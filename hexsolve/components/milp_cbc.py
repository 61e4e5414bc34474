"""The time-slot MILP through PuLP with CBC, in a process of its own: a third opinion, for studies."""

from hexsolve.backends.outcome import Limits, NativeOutcome
from hexsolve.components._formulated import solve_formulated
from hexsolve.proposal import Proposal
from hexsolve_models import Decision, Problem
from hexsolve_models.formulation import Formulation

IS_NATIVE = True


def run(problem: Problem, hint: Decision | None, limits: Limits) -> Proposal:
    return solve_formulated(problem, hint, limits, "milp_slots", _run_model, reserve_ms)


def reserve_ms(left_ms: float) -> float:
    """What CBC needs besides its limit out of `left_ms`: a process, files and its own overrun."""
    return 0.25 * left_ms + 40.0


def _run_model(built: Formulation, start: list[int] | None, limits: Limits) -> NativeOutcome:  # type: ignore[type-arg]
    from hexsolve.backends import pulp_mip

    return pulp_mip.run(built.model, start, limits, solver="cbc")
