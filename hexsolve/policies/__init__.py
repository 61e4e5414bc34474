"""Every policy, one small file each, found by name. Knows the registry; knows no policy's reasons."""

from collections.abc import Callable
from dataclasses import dataclass

from hexsolve.errors import InputError
from hexsolve.policies.hexagent import HexAgent
from hexsolve.policies.round_robin import RoundRobin
from hexsolve.policies.solver import SolverPolicy
from hexsolve.policies.workflow_fcfs import WorkflowFcfs
from hexsolve.policies.workflow_llf import WorkflowLlf
from hexsolve.policy import Policy


@dataclass(frozen=True)
class PolicyInfo:
    """How a policy is built and where it comes from; `label` says how close to its source it is (FIELD.md §2)."""

    name: str
    label: str
    source: str
    summary: str
    build: Callable[[], Policy]


POLICIES: dict[str, PolicyInfo] = {
    info.name: info
    for info in (
        PolicyInfo(
            "round-robin",
            "faithful",
            "vLLM / SGLang default",
            "calls in order of reveal, replicas in turn",
            RoundRobin,
        ),
        PolicyInfo(
            "workflow-fcfs",
            "adapted",
            "HexAGenT §7.2 (arXiv 2605.16637)",
            "oldest workflow first, earliest projected finish",
            WorkflowFcfs,
        ),
        PolicyInfo(
            "workflow-llf",
            "adapted",
            "HexAGenT §7.2 (arXiv 2605.16637)",
            "least laxity first, earliest projected finish",
            WorkflowLlf,
        ),
        PolicyInfo(
            "hexagent",
            "faithful",
            "HexAGenT §4-5 (arXiv 2605.16637)",
            "largest projected risk first, joint prefill-decode choice",
            HexAgent,
        ),
        PolicyInfo(
            "solver",
            "ours",
            "docs/design.md",
            "hexagent's plan improved by CP-SAT within a budget, never worse by the referee",
            SolverPolicy,
        ),
    )
}


def build_policy(name: str) -> Policy:
    """A fresh policy by name.

    Raises
    ------
    InputError
        If there is no policy of that name; the message lists them.
    """
    if name not in POLICIES:
        raise InputError(f"policy = {name!r}: expected one of {', '.join(POLICIES)}")
    return POLICIES[name].build()
