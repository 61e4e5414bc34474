"""Runs a CP-SAT model within limits. Knows OR-Tools' parameters and answers; knows nothing of problems."""

from collections.abc import Sequence
from math import inf

from ortools.sat.python import cp_model, cp_model_helper

from hexsolve.backends.outcome import Limits, ModelError, NativeOutcome


def run(
    model: cp_model.CpModel, hint: Sequence[int] | None, limits: Limits, *, symmetry_level: int = 0
) -> NativeOutcome:
    """Solve `model`, starting from a value for every variable if `hint` is given.

    Raises
    ------
    ModelError
        If CP-SAT finds the model invalid.
    """
    if hint is not None:
        model.proto.solution_hint.vars.extend(range(len(hint)))
        model.proto.solution_hint.values.extend(hint)
    solver = cp_model.CpSolver()
    _configure(solver.parameters, limits, symmetry_level)
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
    return sum(factor * values[var] for var, factor in pairs) + _offset(model)


def _offset(model: cp_model.CpModel) -> int:
    return round(model.proto.objective.offset)  # integer objectives only: exact below 2^53


def _configure(parameters: cp_model_helper.SatParameters, limits: Limits, symmetry_level: int) -> None:
    if limits.wall_ms is not None:
        parameters.max_time_in_seconds = limits.wall_ms / 1000
    if limits.deterministic is not None:
        parameters.max_deterministic_time = limits.deterministic
    parameters.random_seed = limits.seed
    parameters.num_workers = limits.workers
    # By default Ctrl-C is swallowed during a solve, and aborts the process when solving in a thread (9.15).
    parameters.catch_sigint_signal = False
    # "Light" presolve: small models are proved optimal 2-10 times sooner (benchmarks/gate_calibration.py).
    parameters.cp_model_probing_level = 0
    parameters.max_presolve_iterations = 1
    parameters.symmetry_level = symmetry_level
    parameters.linearization_level = 0


def warm_up() -> None:
    """One trivial solve: loads the library and its threads."""
    model = cp_model.CpModel()
    model.minimize(model.new_int_var(0, 1, ""))
    run(model, [0], Limits(wall_ms=100.0, deterministic=None, seed=0, workers=1))
