"""Schedules by someone who has seen the whole workload: upper ends of an optimality bracket. Never an online policy.

What is found here is a simulated run like any other, so it can be done; that nobody can know so much in advance is the
point. Knows simulations and true workloads; the registry of policies does not know this package.
"""

from hexsolve.clairvoyant.foresight import Foresight, foresee
from hexsolve.clairvoyant.objectives import OBJECTIVES, Objective, parse_objective
from hexsolve.clairvoyant.replay import Schedule, replay
from hexsolve.clairvoyant.search import Best, Limits, Search, Step, find_schedules

__all__ = [
    "OBJECTIVES",
    "Best",
    "Foresight",
    "Limits",
    "Objective",
    "Schedule",
    "Search",
    "Step",
    "find_schedules",
    "foresee",
    "parse_objective",
    "replay",
]
