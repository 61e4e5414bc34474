"""Synthetic workloads: templates with figures fitted to real traces, and the paper's four from published means."""

from hexsolve.generate.workloads import NAMES, default_arrivals, generate, generate_workflow

__all__ = ["NAMES", "default_arrivals", "generate", "generate_workflow"]
