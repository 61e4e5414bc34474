"""Solver libraries in one process, in any order; and what importing hexsolve does not load."""

import os
import subprocess
import sys
from itertools import permutations
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOLVES_ALL = """
import warnings
warnings.simplefilter("ignore")
import {0}
import {1}
import {2}
from ortools.sat.python import cp_model
model = cp_model.CpModel()
x = model.new_int_var(0, 5, "x")
model.maximize(x)
solver = cp_model.CpSolver()
solver.solve(model)
assert solver.value(x) == 5
import highspy
highs = highspy.Highs()
highs.setOptionValue("output_flag", False)
y = highs.addVariable(0, 4)
highs.maximize(y)
assert highs.val(y) == 4
import pulp
assert "HiGHS" in pulp.listSolvers(onlyAvailable=True), pulp.listSolvers(onlyAvailable=True)
problem = pulp.LpProblem("p", pulp.LpMaximize)
z = pulp.LpVariable("z", 0, 3, cat="Integer")
problem += z
problem.solve(pulp.HiGHS(msg=False))
assert z.value() == 3
"""


def run(code):
    path = os.pathsep.join([str(ROOT), str(ROOT / "models")])
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("order", list(permutations(("ortools.sat.python.cp_model", "pulp", "highspy"))))
def test_solvers_share_a_process_in_any_order(order):
    run(SOLVES_ALL.format(*order))


def test_importing_hexsolve_loads_no_solver_no_plots_and_no_compiler():
    heavy = ("ortools", "pulp", "highspy", "matplotlib", "numba", "numpy", "scipy", "click", "rich", "networkx")
    loaded = run(f"import sys, hexsolve; print([m for m in {heavy} if m in sys.modules])")
    assert loaded.strip() == "[]"


def test_an_engine_without_solver_loads_no_solver_and_no_plots():
    heavy = ("ortools", "pulp", "highspy", "matplotlib", "click", "rich")
    code = f"""
import sys, hexsolve
engine = hexsolve.PlacementEngine(hexsolve.load_cluster("demo"), "hexagent", rehearse=False)
engine.tell(hexsolve.events.WorkflowOpen(now_ms=0.0, workflow_id="w"))
print([m for m in {heavy} if m in sys.modules])
"""
    assert run(code).strip() == "[]"


def test_importing_hexsolve_is_quick():
    seconds = float(run("import time; t = time.perf_counter(); import hexsolve; print(time.perf_counter() - t)"))
    assert seconds < 0.5
