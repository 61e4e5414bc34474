"""Relaxations of an epoch that keep its queues: certified bounds, optima of small epochs. See models/README.md §11."""

from hexsolve_models.relaxations.ladder import EFFORTS, BestBound, best_bound

__all__ = ["EFFORTS", "BestBound", "best_bound"]
