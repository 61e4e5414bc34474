"""CP-SAT on the full schedule: proves optimality of small epochs."""

from dataclasses import replace
from typing import Any

from hexsolve.backends.outcome import Limits, NativeOutcome
from hexsolve.components._formulated import solve_formulated
from hexsolve.proposal import Proposal
from hexsolve_models import Decision, Problem
from hexsolve_models.formulation import Formulation

IS_NATIVE = True
_RESERVE_SHARE, _RESERVE_MAX_MS, _RESERVE_MS = 0.25, 50.0, 3.0  # CP-SAT overshoots by 2-17 ms (SOLVERS of RESULTS.md)
_SMALL_LITERALS = 128
_UNITS_PER_S = 0.15  # of CP-SAT's deterministic time, on small epochs


def run(problem: Problem, hint: Decision | None, limits: Limits) -> Proposal:
    return solve_formulated(problem, hint, limits, "cpsat_full", run_model, reserve_ms)


def run_model(built: Formulation[Any], start: list[int] | None, limits: Limits) -> NativeOutcome:
    """Run a CP-SAT formulation."""
    from hexsolve.backends import cpsat

    problem = built.problem
    literals = int(problem.prefill_allowed.sum() + problem.decode_allowed.sum())
    if limits.deterministic is not None:
        limits = replace(limits, deterministic=limits.deterministic * _UNITS_PER_S)
    return cpsat.run(built.model, start, limits, has_twins=built.has_twins, is_small=literals <= _SMALL_LITERALS)


def reserve_ms(left_ms: float) -> float:
    """By how much CP-SAT may overrun a limit out of `left_ms`."""
    return min(_RESERVE_SHARE * left_ms, _RESERVE_MAX_MS) + _RESERVE_MS


def warm_up() -> None:
    """Load the library and its threads."""
    from hexsolve.backends import cpsat

    cpsat.warm_up()
