"""From a formulation and a back-end to a component. Knows neither."""

from collections.abc import Callable
from dataclasses import replace
from math import inf, nan
from time import perf_counter
from typing import Any

from hexsolve.backends.outcome import Limits, NativeOutcome
from hexsolve.proposal import Proposal
from hexsolve_models import Decision, Problem, formulations
from hexsolve_models.formulation import Formulation, NumberRangeError
from hexsolve_models.restriction import NoPartError

_LEAST_MS = 1.0  # below this no solver does anything

Build = Callable[..., Formulation[Any]]
RunModel = Callable[[Formulation[Any], list[int] | None, Limits], NativeOutcome]


def solve_formulated(
    problem: Problem,
    hint: Decision | None,
    limits: Limits,
    formulation: str,
    run_model: RunModel,
    reserve_ms: Callable[[float], float],
    **options: Any,
) -> Proposal:
    """Build the model, run it in what is left of the time, and decode its answer.

    `reserve_ms` (of the time left) is by how much the solver is known to overrun its own limit.
    """
    started = perf_counter()
    try:
        built = formulations.load(formulation).build(problem, hint, **options)
        start = None if hint is None else built.encode(hint)
    except (NumberRangeError, NoPartError) as error:
        return Proposal(detail=str(error))
    build_ms = 1e3 * (perf_counter() - started)
    left_ms = None
    if limits.wall_ms is not None:
        left_ms = limits.wall_ms - build_ms
        left_ms -= reserve_ms(left_ms)
        if left_ms < _LEAST_MS:
            detail = f"{left_ms:.1f} ms would be left after building for {build_ms:.1f} ms"
            return Proposal(detail=detail, build_ms=build_ms)
    outcome = run_model(built, start, replace(limits, wall_ms=left_ms))
    decision = None if outcome.values is None else built.decode(outcome.values)
    if not built.is_exact:  # what a part of the choices costs, or bounds, says nothing of the problem
        outcome = replace(outcome, objective=nan, bound=-inf)
    return Proposal(
        decision,
        claimed=nan if decision is None else outcome.objective,
        bound=outcome.bound,
        status=outcome.status,
        detail=outcome.status if built.is_exact else f"{outcome.status} in a part of the choices",
        work=outcome.deterministic_time,
        build_ms=build_ms,
    )
