"""Runs a CP-SAT model within limits. Knows OR-Tools' parameters and answers; knows nothing of problems."""

from collections.abc import Sequence
from math import inf

from ortools.sat.python import cp_model, cp_model_helper

from hexsolve.backends.outcome import Limits, ModelError, NativeOutcome


def run(
    model: cp_model.CpModel,
    hint: Sequence[int] | None,
    limits: Limits,
    *,
    has_twins: bool = False,
    is_small: bool = False,
) -> NativeOutcome:
    """Solve `model`, starting from a value for every variable if `hint` is given.

    Parameters
    ----------
    has_twins
        Interchangeable replicas: symmetry detection pays.
    is_small
        About 8 calls or fewer: strong propagation pays, and proving the hint optimal is within reach.

    Raises
    ------
    ModelError
        If CP-SAT finds the model invalid.
    """
    if hint is not None:
        model.proto.solution_hint.vars.extend(range(len(hint)))
        model.proto.solution_hint.values.extend(hint)
    solver = cp_model.CpSolver()
    _configure(solver.parameters, limits, is_small)
    solver.parameters.symmetry_level = int(has_twins)
    solver.parameters.use_strong_propagation_in_disjunctive = is_small
    status = solver.solve(model).name
    if status == "MODEL_INVALID":
        raise ModelError(model.validate() or "CP-SAT: MODEL_INVALID without a text")
    response = solver.response_proto
    values = list(response.solution) if status in ("OPTIMAL", "FEASIBLE") else None
    return NativeOutcome(
        status=status,
        values=values,
        objective=inf if values is None else _objective(model, values),
        bound=-inf if status == "INFEASIBLE" else response.inner_objective_lower_bound + _offset(model),
        deterministic_time=solver.deterministic_time,
    )


def _objective(model: cp_model.CpModel, values: Sequence[int]) -> int:
    """The exact objective; `solver.objective_value` is a double."""
    objective = model.proto.objective
    pairs = zip(objective.vars, objective.coeffs, strict=True)
    terms = (int(factor) * int(values[var]) for var, factor in pairs)
    return sum(terms) + _offset(model)


def _offset(model: cp_model.CpModel) -> int:
    return int(model.proto.objective.offset)  # a double, exact below 2^53


def _configure(parameters: cp_model_helper.SatParameters, limits: Limits, is_small: bool) -> None:
    if limits.wall_ms is not None:
        parameters.max_time_in_seconds = limits.wall_ms / 1000
    if limits.deterministic is not None:
        parameters.max_deterministic_time = limits.deterministic
        # Threads that share results as they come are not repeatable (found by a test); taking turns they are.
        parameters.interleave_search = limits.workers > 1
    parameters.random_seed = limits.seed
    parameters.num_workers = limits.workers
    # By default Ctrl-C is swallowed during a solve, and aborts the process when solving in a thread (9.15).
    parameters.catch_sigint_signal = False
    # "Light" presolve and no LP: 8 calls proved in 77 ms against 106 (2026-11-21, 2 shared cores).
    parameters.cp_model_probing_level = 0
    parameters.max_presolve_iterations = 1
    parameters.linearization_level = 0
    # With a hint from local search, of CPU time: 8 calls proved optimal within 35 ms in 47 % of 30 recorded epochs,
    # from the bound 17 %. 16 calls are rarely proved either way, and within 0.3 s the bound then reaches 93.0 % of the
    # cost from the bound, 89.2 % without. With two workers, searching from the bound was worse.
    parameters.use_objective_lb_search = limits.workers == 1 and not is_small


def warm_up() -> None:
    """One trivial solve: loads the library and its threads."""
    model = cp_model.CpModel()
    model.minimize(model.new_int_var(0, 1, ""))
    run(model, [0], Limits(wall_ms=100.0, deterministic=None, seed=0, workers=1))
