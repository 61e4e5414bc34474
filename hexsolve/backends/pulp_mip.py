"""Runs a PuLP problem through HiGHS (in this process) or CBC (in one of its own), within limits. Knows their options,
answers and quirks; knows nothing of epochs.

What is not taken from them:
- PuLP's `status`: a timed-out incumbent is "Optimal" there, and so is an LP stopped half-way.
- HiGHS's presolve. With it 1.12 reports wrong optima of MIPs and "Solve error" (ERGO-Code/HiGHS #2808, #3043, #3073; 1
  of 400 random epochs), and it does not pay here: 16.7 s of CPU for those 400 against 14.4. Of an LP that is cut off
  with it nothing remains, neither duals nor bound.
- Dual bounds as they are, doubles within tolerances. For an LP the bound is computed from the row duals, which holds
  however far the solver got; for a MIP it is lowered by the tolerance. Where costs are whole it is rounded up then.
- CBC's "infeasible" near its time limit: preprocessing that the limit cuts short says so of feasible models.
"""

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, inf, isfinite
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, Literal

import highspy
import numpy as np
import pulp

from hexsolve.backends.outcome import Limits, ModelError, NativeOutcome
from hexsolve_models.matrix import Floats, Matrix, MatrixProblem, matrix_of

Solver = Literal["highs", "cbc"]

TOLERANCE = 1e-6  # of bounds, relative: the solvers' own tolerances on rows and whole numbers
_STOP_GAP = 0.9  # where costs are whole, an incumbent less than 1 above the bound is optimal
_GRACE_S = 1.0  # CBC is killed so long after its limit
_SURE_SHARE = 0.5  # of its time limit: what CBC calls infeasible after that may be a limit that struck
_NODES, _ITERATIONS = 1_000, 10_000  # per deterministic unit, of a MIP and of an LP

# All answers of HiGHS; those of a solver that stopped early are FEASIBLE only if there is a solution. None: invalid.
_Native = highspy.HighsModelStatus
HIGHS_STATUS: dict[Any, str | None] = {
    _Native.kNotset: None,
    _Native.kLoadError: None,
    _Native.kModelError: None,
    _Native.kPresolveError: "UNKNOWN",
    _Native.kSolveError: "UNKNOWN",
    _Native.kPostsolveError: "UNKNOWN",
    _Native.kModelEmpty: "OPTIMAL",
    _Native.kOptimal: "OPTIMAL",
    _Native.kInfeasible: "INFEASIBLE",
    _Native.kUnboundedOrInfeasible: "UNKNOWN",
    _Native.kUnbounded: None,
    _Native.kObjectiveBound: "FEASIBLE",
    _Native.kObjectiveTarget: "FEASIBLE",
    _Native.kTimeLimit: "FEASIBLE",
    _Native.kIterationLimit: "FEASIBLE",
    _Native.kUnknown: "UNKNOWN",
    _Native.kSolutionLimit: "FEASIBLE",
    _Native.kInterrupt: "FEASIBLE",
    _Native.kMemoryLimit: "FEASIBLE",
    _Native.kHighsInterrupt: "FEASIBLE",
}

# What PuLP makes of CBC's answer, and of it we.
CBC_STATUS: dict[int, str | None] = {
    pulp.LpSolutionOptimal: "OPTIMAL",
    pulp.LpSolutionIntegerFeasible: "FEASIBLE",
    pulp.LpSolutionNoSolutionFound: "UNKNOWN",
    pulp.LpSolutionInfeasible: "INFEASIBLE",
    pulp.LpSolutionUnbounded: None,
}


class SolverNotFoundError(RuntimeError):
    """There is no executable of the solver."""


@dataclass(frozen=True)
class _Answer:
    """What a solver said: status as in `NativeOutcome`, values and row duals for what they are worth, a MIP's bound."""

    status: str
    values: Floats | None = None
    duals: Floats | None = None
    bound: float = -inf
    work: float = 0.0


def run(
    model: pulp.LpProblem, hint: Sequence[float] | None, limits: Limits, *, solver: Solver = "highs"
) -> NativeOutcome:
    """Minimise `model`, starting from a value for every variable, in the order of `model.variables()`, if given.

    A model without whole variables is a linear program: its bound comes from the duals and holds even if the solver was
    cut off, when it has no values. Where every whole solution costs a whole number (`Matrix.is_whole`) the bound is
    rounded up: no whole solution costs less.

    Parameters
    ----------
    limits
        A deterministic unit is 1,000 branch-and-bound nodes; of an LP, 10,000 simplex iterations (HiGHS only).

    Raises
    ------
    ModelError
        If the solver finds the model invalid or unbounded.
    SolverNotFoundError
        If there is no CBC.
    """
    started = perf_counter()
    matrix = model.matrix if isinstance(model, MatrixProblem) else matrix_of(model)
    ask = _ask_highs if solver == "highs" else _ask_cbc
    answer = ask(model, matrix, hint, limits, started)
    return _judged(matrix, answer)


def _judged(matrix: Matrix, answer: _Answer) -> NativeOutcome:
    """Of an answer what holds."""
    if matrix.is_lp:
        status = {"FEASIBLE": "UNKNOWN"}.get(answer.status, answer.status)
        values = answer.values if status == "OPTIMAL" else None
        bound = -inf if answer.duals is None else matrix.dual_bound(answer.duals)
    else:
        values = _whole(matrix, answer.values) if answer.status in ("OPTIMAL", "FEASIBLE") else None
        status = "UNKNOWN" if values is None and answer.status != "INFEASIBLE" else answer.status
        bound = matrix.offset + answer.bound - TOLERANCE * max(1.0, abs(answer.bound))
    if not isfinite(bound) or status == "INFEASIBLE":
        bound = -inf
    elif matrix.is_whole:
        bound = ceil(bound)
    if values is None:
        return NativeOutcome(status, None, inf, bound, answer.work)
    objective = matrix.objective(values)
    if matrix.is_lp or not matrix.is_whole:
        return NativeOutcome(status, values.tolist(), objective, bound, answer.work)
    return NativeOutcome(status, values.astype(np.int64).tolist(), round(objective), bound, answer.work)


def _whole(matrix: Matrix, values: Floats | None) -> Floats | None:
    """The values without the solver's tolerances; None if they do not hold without."""
    if values is None:
        return None
    rounded = np.rint(values) if matrix.is_whole else np.where(matrix.integer, np.rint(values), values)
    allowed = 1e-9 if matrix.is_whole else TOLERANCE * (1.0 + float(np.abs(rounded).max(initial=0.0)))
    return rounded if matrix.violation(rounded) <= allowed else None


class _MatrixHighs(pulp.HiGHS):  # type: ignore[misc]
    """PuLP's HiGHS with the model handed over as arrays, a start, and all answers known."""

    def __init__(self, matrix: Matrix, hint: Sequence[float] | None, **options: Any) -> None:
        super().__init__(msg=False, **options)
        self.matrix, self.hint = matrix, hint

    def buildSolverModel(self, lp: pulp.LpProblem) -> None:
        m = self.matrix
        int32 = (part.astype(np.int32) for part in (m.row_start, m.column))
        by_rows, minimise = int(highspy.MatrixFormat.kRowwise), int(highspy.ObjSense.kMinimize)
        done = lp.solverModel.passModel(
            m.num_columns, m.num_rows, m.factor.size, by_rows, minimise, 0.0, m.cost, m.lower, m.upper, m.row_lower,
            m.row_upper, *int32, m.factor, m.integer.astype(np.int32),
        )  # fmt: skip
        if done == highspy.HighsStatus.kError:
            raise ModelError(f"HiGHS refused the model: {m.num_columns} columns, {m.num_rows} rows")
        if self.hint is not None and not m.is_lp:
            start = np.asarray(self.hint, dtype=np.float64)
            lp.solverModel.setSolution(start.size, np.arange(start.size, dtype=np.int32), start)

    def callSolver(self, lp: pulp.LpProblem) -> None:
        highs = lp.solverModel
        if highs.run() == highspy.HighsStatus.kError and highs.getModelStatus() == _Native.kNotset:
            # Its threads are there already, in another number than asked for; they are the process's, not the solve's.
            highspy.Highs.resetGlobalScheduler(True)
            highs.run()

    def actualSolve(self, lp: pulp.LpProblem) -> _Answer:
        self.createAndConfigureSolver(lp)
        self.buildSolverModel(lp)
        self.callSolver(lp)
        highs = lp.solverModel
        native, info, solution = highs.getModelStatus(), highs.getInfo(), highs.getSolution()
        status = HIGHS_STATUS[native]
        if status is None:
            raise ModelError(f"HiGHS: {highs.modelStatusToString(native)}")
        if status == "FEASIBLE" and info.primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible:
            status = "UNKNOWN"
        is_lp = self.matrix.is_lp
        trusted = info.valid and native not in (_Native.kSolveError, _Native.kPresolveError, _Native.kPostsolveError)
        return _Answer(
            status,
            np.array(solution.col_value) if status in ("OPTIMAL", "FEASIBLE") else None,
            np.array(solution.row_dual) if len(solution.row_dual) == self.matrix.num_rows else None,
            info.mip_dual_bound if trusted and not is_lp else -inf,
            info.simplex_iteration_count / _ITERATIONS if is_lp else info.mip_node_count / _NODES,
        )


def _ask_highs(
    model: pulp.LpProblem, matrix: Matrix, hint: Sequence[float] | None, limits: Limits, started: float
) -> _Answer:
    options: dict[str, Any] = {"presolve": "off", "random_seed": limits.seed, "threads": limits.workers}
    if not matrix.is_lp:
        options |= {"gapRel": 0.0, "gapAbs": _STOP_GAP if matrix.is_whole else 0.0}
    if limits.deterministic is not None:
        name, unit = ("simplex_iteration_limit", _ITERATIONS) if matrix.is_lp else ("mip_max_nodes", _NODES)
        options[name] = min(int(limits.deterministic * unit), 2**31 - 1)
    if limits.wall_ms is not None:
        options["timeLimit"] = max(0.0, limits.wall_ms / 1000 - (perf_counter() - started))
    answer: _Answer = _MatrixHighs(matrix, hint, **options).actualSolve(model)
    return answer


def _ask_cbc(
    model: pulp.LpProblem, matrix: Matrix, hint: Sequence[float] | None, limits: Limits, started: float
) -> _Answer:
    """Through files of its own folder, which goes with the call."""
    path = cbc_path()
    if isinstance(model, MatrixProblem):
        model.materialise()
    cbc = pulp.COIN_CMD(path=path, msg=False)
    with TemporaryDirectory(prefix="hexsolve-cbc-") as folder:
        mps, solution, start = (str(Path(folder, name)) for name in ("model.mps", "model.sol", "model.mst"))
        columns, column_names, row_names, _ = model.writeMPS(mps, rename=True)
        command = [path, mps]
        if hint is not None and not matrix.is_lp:
            for column, value in zip(columns, hint, strict=True):
                column.varValue = value
            cbc.writesol(start, model, columns, column_names, row_names)
            command += ["-mips", start]
        left_s = None if limits.wall_ms is None else limits.wall_ms / 1000 - (perf_counter() - started)
        if left_s is not None and left_s <= 0:
            return _Answer("UNKNOWN")
        command += _cbc_options(matrix, limits, left_s)
        command += ["-initialSolve" if matrix.is_lp else "-solve", "-printingOptions", "all", "-solution", solution]
        launched = perf_counter()
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=None if left_s is None else left_s + _GRACE_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return _Answer("UNKNOWN")
        took_s = perf_counter() - launched
        if left_s is not None and done.returncode < 0:  # CBC 2.10 can die of a signal where its time limit strikes
            return _Answer("UNKNOWN")
        if done.returncode != 0 or not Path(solution).exists():
            raise ModelError(f"CBC ended with code {done.returncode}: {(done.stdout + done.stderr)[-200:].strip()!r}")
        said = cbc.readsol_MPS(solution, model, columns, column_names, row_names)
    pulp_status, by_column, _, by_row, _, sol_status = said
    status = "INFEASIBLE" if pulp_status == pulp.LpStatusInfeasible else CBC_STATUS[sol_status]
    if status is None:
        raise ModelError("CBC: unbounded")
    if status == "INFEASIBLE" and left_s is not None and took_s > _SURE_SHARE * left_s:
        return _Answer("UNKNOWN")
    values = np.array([by_column[column.name] for column in columns])
    duals = np.array([by_row.get(name, 0.0) for name in row_names])  # 0: absent from the file
    nodes = re.search(r"^Enumerated nodes:\s+(\d+)", done.stdout, re.MULTILINE)
    bound = _cbc_bound(done.stdout)
    if status == "OPTIMAL" and not matrix.is_lp:
        bound = float(matrix.cost @ values) - (_STOP_GAP if matrix.is_whole else 0.0)
    return _Answer(status, values, duals, bound, int(nodes[1]) / _NODES if nodes else 0.0)


def _cbc_bound(log: str) -> float:
    """What the log gives, with three decimals, if CBC was cut off."""
    found = re.search(r"^Lower bound:\s+(\S+)", log, re.MULTILINE)
    return -inf if found is None else float(found[1]) - 1e-3


def _cbc_options(matrix: Matrix, limits: Limits, left_s: float | None) -> list[str]:
    seed = str(limits.seed % (2**31 - 2) + 1)  # 0 would be the time of day
    options = ["-randomSeed", seed, "-randomCbcSeed", seed]
    if not matrix.is_lp:
        options += ["-ratio", "0", "-allow", str(_STOP_GAP if matrix.is_whole else 0.0)]
    if limits.workers > 1:
        options += ["-threads", str(limits.workers)]
    if limits.deterministic is not None and not matrix.is_lp:
        options += ["-maxNodes", str(min(int(limits.deterministic * _NODES), 2**31 - 1))]
    if left_s is not None:
        options += ["-timeMode", "elapsed", "-sec", f"{left_s:.3f}"]
    return options


def cbc_path() -> str:
    """The `cbc` of the search path, or the one that PuLP brings.

    Raises
    ------
    SolverNotFoundError
        If neither can be executed.
    """
    brought = str(pulp.PULP_CBC_CMD.pulp_cbc_path)
    found = shutil.which("cbc") or shutil.which(brought)
    if found is None:
        raise SolverNotFoundError(f"CBC: no executable `cbc` on the search path, none at {brought}: install coinor-cbc")
    return found


def warm_up() -> None:
    """One trivial solve: loads HiGHS and starts its threads."""
    problem = pulp.LpProblem("warm_up")
    problem += problem.add_variable("v", 0, 1, pulp.LpInteger) + 0.0
    run(problem, None, Limits(wall_ms=100.0, deterministic=None, seed=0, workers=1))
