"""Compiled local search over prefill queues and replicas of one epoch problem. Knows `Problem`; knows no solver."""

from hexsolve.search.anneal import Found, search

__all__ = ["Found", "search"]
