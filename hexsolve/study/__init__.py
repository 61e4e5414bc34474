"""Studies: run policies over workloads, get rows, make tables. Knows simulations and results; knows no command line."""

from hexsolve.study.run import EngineOptions, Run, build_engine, run_policy, standalone_ms
from hexsolve.study.workloads import ArrivalChoice, build_workload, parse_arrivals

__all__ = [
    "ArrivalChoice",
    "EngineOptions",
    "Run",
    "build_engine",
    "build_workload",
    "parse_arrivals",
    "run_policy",
    "standalone_ms",
]
