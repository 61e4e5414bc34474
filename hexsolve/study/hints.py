"""What clients could declare of their workflows: true structure with typical lengths. Knows workloads.

The lengths are means by (class, kind) over *other* workflows, so that a hint tells what a client can know: how many
calls of which kind, not how long this one will be.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from hexsolve.errors import InputError
from hexsolve.events import DeclaredCall
from hexsolve.workflow import Call, Workflow, Workload

Means = Mapping[tuple[str, str], tuple[float, float, float]]


def typical_lengths(history: Iterable[Workflow]) -> Means:
    """(class, kind) -> mean input tokens, output tokens and tool delay in ms."""
    sums: dict[tuple[str, str], list[float]] = {}
    for workflow in history:
        for call in workflow.calls:
            row = sums.setdefault((workflow.workflow_class, call.kind), [0.0, 0.0, 0.0, 0.0])
            for i, value in enumerate((1.0, call.input_tokens, call.output_tokens, call.delay_ms)):
                row[i] += value
    return {key: (tokens / n, outputs / n, delay / n) for key, (n, tokens, outputs, delay) in sums.items()}


def declare_truth(workload: Workload) -> dict[str, tuple[DeclaredCall, ...]]:
    """Everything as it will be: a clairvoyant reference, no hint that anybody could give."""
    return {
        workflow.workflow_id: tuple(
            DeclaredCall(
                request_id=call.request_id,
                dependencies=call.dependencies,
                input_tokens=call.input_tokens,
                output_tokens=call.output_tokens,
                delay_ms=call.delay_ms,
                cached_prefix_tokens=call.cached_prefix_tokens,
            )
            for call in workflow.calls
        )
        for workflow in workload.workflows
    }


def declare_mutually(workload: Workload, *, share: float = 1.0, seed: int = 0) -> dict[str, tuple[DeclaredCall, ...]]:
    """`declare` with the means of the other half of the same workload: no length tells of its own workflow.

    Raises
    ------
    InputError
        If `share` is out of range.
    """
    halves = workload.workflows[::2], workload.workflows[1::2]
    hints: dict[str, tuple[DeclaredCall, ...]] = {}
    for half, other in (halves, halves[::-1]):
        own = {workflow.workflow_id for workflow in half}
        told = declare(workload, typical_lengths(other), share=share, seed=seed)
        hints |= {name: calls for name, calls in told.items() if name in own}
    return hints


def declare(
    workload: Workload, means: Means, *, share: float = 1.0, seed: int = 0
) -> dict[str, tuple[DeclaredCall, ...]]:
    """The structure of `workload`, workflow_id -> declared calls, for `simulate(declared=...)`.

    Parameters
    ----------
    means : of earlier traffic (`typical_lengths`); classes and kinds it has not seen are not declared.
    share : part of the workflows that declare anything, 0..1; drawn by `seed`.

    Raises
    ------
    InputError
        If `share` is out of range.
    """
    if not 0.0 <= share <= 1.0:
        raise InputError(f"share = {share!r}: expected a number in 0..1")
    told = np.random.default_rng(seed).random(len(workload.workflows)) < share
    hints: dict[str, tuple[DeclaredCall, ...]] = {}
    for workflow, is_told in zip(workload.workflows, told.tolist(), strict=True):
        if is_told:
            calls = [_expected(call, means.get((workflow.workflow_class, call.kind))) for call in workflow.calls]
            hints[workflow.workflow_id] = tuple(call for call in calls if call is not None)
    return hints


def _expected(call: Call, mean: tuple[float, float, float] | None) -> DeclaredCall | None:
    if mean is None:
        return None
    tokens, outputs, delay_ms = mean
    return DeclaredCall(
        request_id=call.request_id,
        dependencies=call.dependencies,
        input_tokens=max(1, round(tokens)),
        output_tokens=max(1, round(outputs)),
        delay_ms=delay_ms,
    )
