"""Each workflow alone on an empty cluster: the denominators H_w of stretch. Knows nothing of load."""

from collections.abc import Callable, Hashable

import numpy as np
from numpy.typing import NDArray

from hexsolve.cluster import Cluster
from hexsolve.sim.options import SimOptions
from hexsolve.sim.ports import EnginePort
from hexsolve.sim.run import simulate
from hexsolve.workflow import Workflow, Workload

EngineFactory = Callable[[Cluster], EnginePort]


def standalone_makespans(
    cluster: Cluster,
    workload: Workload,
    engine_factory: EngineFactory,
    *,
    prefix_reuse: bool = True,
    options: SimOptions | None = None,
) -> NDArray[np.float64]:
    """Makespan of every workflow run alone at time 0 with known output lengths (HexAGenT §7: SLO = α·H_w).

    Workflows that are the same in structure (tokens, dependencies, delays, kinds) are run once.

    Parameters
    ----------
    engine_factory : callable
        Makes a fresh engine for the cluster; use one factory for all policies that are to be compared.
    prefix_reuse, options : bool, SimOptions
        As for `simulate`; use those of the run to be measured, without its faults.

    Returns
    -------
    f8[W] in ms, by workflow in workload order.
    """
    known: dict[Hashable, float] = {}
    makespans = np.empty(len(workload.workflows))
    for index, workflow in enumerate(workload.workflows):
        key = _structure(workflow)
        if key not in known:
            alone = Workload("alone", (_at_time_zero(workflow),))
            result = simulate(cluster, alone, engine_factory(cluster), prefix_reuse=prefix_reuse, options=options)
            known[key] = result.end_ms
        makespans[index] = known[key]
    return makespans


def _at_time_zero(workflow: Workflow) -> Workflow:
    return Workflow(workflow.workflow_id, workflow.workflow_class, 0.0, workflow.calls)


def _structure(workflow: Workflow) -> Hashable:
    """Everything about a workflow but its names and arrival; prefix groups by order of first use."""
    groups: dict[str, int] = {}
    return (
        workflow.workflow_class,
        tuple(
            (
                call.input_tokens,
                call.output_tokens,
                parents,
                call.delay_ms,
                call.kind,
                call.cached_prefix_tokens,
                groups.setdefault(call.prefix_group, len(groups)),
            )
            for call, parents in zip(workflow.calls, workflow.parent_indices(), strict=True)
        ),
    )
