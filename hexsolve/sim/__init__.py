"""Discrete-event simulator of a prefill-decode cluster; it drives an engine through the events of a real service."""

from hexsolve.sim.alone import EngineFactory, standalone_makespans
from hexsolve.sim.kernel import SimulationError
from hexsolve.sim.metrics import attainment, mean_stretch, required_scale, stretches
from hexsolve.sim.options import Fault, SimOptions
from hexsolve.sim.ports import EnginePort, StatePort
from hexsolve.sim.records import CallRecord, Counters, Event, SimulationResult
from hexsolve.sim.run import simulate

__all__ = [
    "CallRecord",
    "Counters",
    "EngineFactory",
    "EnginePort",
    "Event",
    "Fault",
    "SimOptions",
    "SimulationError",
    "SimulationResult",
    "StatePort",
    "attainment",
    "mean_stretch",
    "required_scale",
    "simulate",
    "standalone_makespans",
    "stretches",
]
