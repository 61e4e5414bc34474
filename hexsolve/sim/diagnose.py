"""Words for what cannot run: input refused at the door, and calls that are stuck. Knows messages; changes nothing."""

from collections.abc import Iterable, Sequence

from hexsolve.cluster import BLOCK_TOKENS, Cluster
from hexsolve.errors import InputError
from hexsolve.sim.calls import DONE, HIDDEN, CallRun, WorkflowRun
from hexsolve.sim.decode import DecodeServer
from hexsolve.sim.options import SimOptions
from hexsolve.tables import STAGE_NAMES, WAIT_DECODE, WAIT_PREFILL
from hexsolve.workflow import Workload

_MOST_NAMED = 5


def check_input(cluster: Cluster, workload: Workload, options: SimOptions, most_tokens: int) -> None:
    """Refuse what could never end: a call larger than any decode replica, a fault of a replica that is not there."""
    for workflow in workload.workflows:
        for call in workflow.calls:
            if call.input_tokens + call.output_tokens > most_tokens:
                raise InputError(
                    f"workflow {workflow.workflow_id!r}: call {call.request_id!r}: input_tokens + output_tokens: "
                    f"expected at most {most_tokens} (no decode replica of {cluster.name!r} can hold more), "
                    f"got {call.input_tokens + call.output_tokens}"
                )
    for position, fault in enumerate(options.faults):
        count = cluster.num_prefill if fault.role == "prefill" else cluster.num_decode
        if fault.index >= count:
            raise InputError(f"faults[{position}]: index: expected 0..{count - 1} ({fault.role}), got {fault.index}")


def name_of(run: CallRun) -> str:
    """A call with its workflow, for messages."""
    return f"call {run.view.request_id!r} of workflow {run.view.workflow_id!r}"


def describe_stuck(now_ms: float, workflows: Iterable[WorkflowRun], decode: Sequence[DecodeServer]) -> str:
    """Which revealed calls cannot go on, and why."""
    stuck = [run for workflow in workflows for run in workflow.runs if run.stage not in (HIDDEN, DONE)]
    named = "; ".join(f"{name_of(run)} {_reason(run, decode)}" for run in stuck[:_MOST_NAMED])
    more = f" and {len(stuck) - _MOST_NAMED} more" if len(stuck) > _MOST_NAMED else ""
    return f"nothing can happen after {now_ms} ms, yet {len(stuck)} calls are unfinished: {named}{more}"


def _reason(run: CallRun, decode: Sequence[DecodeServer]) -> str:
    if run.stage == WAIT_PREFILL:
        if run.prefill < 0:
            return "waits for prefill and has no placement on a replica that is up"
        return f"waits at prefill replica {run.prefill}; its decode replica is unset or down"
    if run.stage == WAIT_DECODE:
        server = decode[run.decode]
        return (
            f"waits for {server.blocks_for(run)} KV blocks of {BLOCK_TOKENS} tokens at decode replica {run.decode}, "
            f"which has {server.free_blocks} of {server.capacity_blocks} free"
        )
    return f"is in stage {STAGE_NAMES[run.stage]}"
