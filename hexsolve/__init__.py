"""hexsolve: solver-based placement engine for agentic LLM workflows. Public names are re-exported here.

Names load their modules on first use (PEP 562), so `import hexsolve` is quick and loads no solver and no plotting.
"""

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hexsolve import events
    from hexsolve.catalog import load_cluster
    from hexsolve.cluster import Cluster, Replica
    from hexsolve.engine import FixedLatency, PlacementEngine
    from hexsolve.epoch import EpochParams
    from hexsolve.errors import InputError
    from hexsolve.generate import generate as generate_workload
    from hexsolve.io import read_workload, write_workload
    from hexsolve.placement import Placement
    from hexsolve.policies import build_policy
    from hexsolve.policies.hexagent import HexAgent
    from hexsolve.policies.solver import SolverPolicy
    from hexsolve.policy import Plan, Policy
    from hexsolve.profile import Profile
    from hexsolve.sim import SimOptions, SimulationResult, simulate
    from hexsolve.snapshot import Snapshot
    from hexsolve.workflow import Call, Workflow, Workload

__version__ = "0.1.0"

__all__ = [
    "Call",
    "Cluster",
    "EpochParams",
    "FixedLatency",
    "HexAgent",
    "InputError",
    "Placement",
    "PlacementEngine",
    "Plan",
    "Policy",
    "Profile",
    "Replica",
    "SimOptions",
    "SimulationResult",
    "Snapshot",
    "SolverPolicy",
    "Workflow",
    "Workload",
    "__version__",
    "build_policy",
    "events",
    "generate_workload",
    "load_cluster",
    "read_workload",
    "simulate",
    "write_workload",
]

_MODULES = {
    "hexsolve.catalog": ("load_cluster",),
    "hexsolve.cluster": ("Cluster", "Replica"),
    "hexsolve.engine": ("FixedLatency", "PlacementEngine"),
    "hexsolve.epoch": ("EpochParams",),
    "hexsolve.errors": ("InputError",),
    "hexsolve.io": ("read_workload", "write_workload"),
    "hexsolve.placement": ("Placement",),
    "hexsolve.policies": ("build_policy",),
    "hexsolve.policies.hexagent": ("HexAgent",),
    "hexsolve.policies.solver": ("SolverPolicy",),
    "hexsolve.policy": ("Plan", "Policy"),
    "hexsolve.profile": ("Profile",),
    "hexsolve.sim": ("SimOptions", "SimulationResult", "simulate"),
    "hexsolve.snapshot": ("Snapshot",),
    "hexsolve.workflow": ("Call", "Workflow", "Workload"),
}
_HOME = {name: (module, name) for module, names in _MODULES.items() for name in names}
_HOME["generate_workload"] = ("hexsolve.generate", "generate")  # `hexsolve.generate` is the package

logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name == "events":
        return importlib.import_module("hexsolve.events")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOME[name]
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
