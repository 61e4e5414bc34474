"""The front door of the simulator: one function. Knows defaults; knows nothing of events."""

from collections.abc import Mapping, Sequence
from typing import Any

from hexsolve.cluster import Cluster
from hexsolve.predict import Predictor, parse_predictor
from hexsolve.sim.options import SimOptions
from hexsolve.sim.ports import EnginePort
from hexsolve.sim.records import SimulationResult
from hexsolve.sim.simulator import Simulator
from hexsolve.workflow import Workload


def simulate(
    cluster: Cluster,
    workload: Workload,
    engine: EnginePort,
    *,
    predictor: Predictor | str = "oracle",
    prefix_reuse: bool = True,
    options: SimOptions | None = None,
    seed: int = 0,
    declared: Mapping[str, Sequence[Any]] | None = None,
) -> SimulationResult:
    """Run every workflow of `workload` to completion.

    Parameters
    ----------
    engine : EnginePort
        A fresh engine for this cluster.
    predictor : Predictor or str
        Output-length predictor, or its short name (see `parse_predictor`).
    prefix_reuse : bool
        Whether prefill replicas keep prefixes; calls that could share one compute all their tokens otherwise.
    options : SimOptions or None
        Everything else that can be chosen.
    seed : int
        Seed of the predictor, where it is given by name.
    declared : mapping or None
        What clients declare of their workflows when they arrive: workflow_id -> `events.DeclaredCall`s.

    Raises
    ------
    InputError
        If a call fits no decode replica or a fault names a replica that is not there.
    SimulationError
        If the run cannot go on; the message names the calls that are stuck and why.
    """
    if isinstance(predictor, str):
        predictor = parse_predictor(predictor, workload, seed)
    return Simulator(cluster, workload, engine, predictor, prefix_reuse, options or SimOptions(), declared or {}).run()
