"""Whole instances in hindsight: problem, judge, exact formulations, bounds. Knows no cluster and no simulator."""

from hexsolve_models.offline.problem import OfflineDecision, OfflineProblem
from hexsolve_models.offline.referee import (
    call_finishes,
    finish_ticks,
    late_count,
    max_stretch,
    mean_stretch,
    req,
    stretches,
    violations,
)

__all__ = [
    "OfflineDecision",
    "OfflineProblem",
    "call_finishes",
    "finish_ticks",
    "late_count",
    "max_stretch",
    "mean_stretch",
    "req",
    "stretches",
    "violations",
]
