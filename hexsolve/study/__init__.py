"""Studies: run policies over workloads, get rows, make tables. Knows simulations and results; knows no command line."""

from hexsolve.study.certificate import Certificate, certify
from hexsolve.study.compare import Comparison
from hexsolve.study.run import EngineOptions, Run, build_engine, known_policies, run_policy, standalone_ms
from hexsolve.study.workloads import ArrivalChoice, build_workload, check_fits, parse_arrivals

__all__ = [
    "ArrivalChoice",
    "Certificate",
    "Comparison",
    "EngineOptions",
    "Run",
    "build_engine",
    "build_workload",
    "certify",
    "check_fits",
    "known_policies",
    "parse_arrivals",
    "run_policy",
    "standalone_ms",
]
