"""The mathematics of an epoch: problem, decision, objective, referee, formulations. Imports nothing from hexsolve."""

from hexsolve_models.decision import Decision
from hexsolve_models.objective import Objective, late_count, max_stretch, power, tardiness, total_stretch
from hexsolve_models.problem import Problem
from hexsolve_models.referee import cost, violations
from hexsolve_models.timetable import earliest_finish, timetable

__all__ = [
    "Decision",
    "Objective",
    "Problem",
    "cost",
    "earliest_finish",
    "late_count",
    "max_stretch",
    "power",
    "tardiness",
    "timetable",
    "total_stretch",
    "violations",
]
