"""Every policy, one small file each, found by name. Knows the registry; knows no policy's reasons."""

from collections.abc import Callable
from dataclasses import dataclass

from hexsolve.epoch import EpochParams
from hexsolve.errors import InputError
from hexsolve.policies.autellix import AutellixAtlas, AutellixPlas
from hexsolve.policies.cache_aware import CacheAware
from hexsolve.policies.continuum import Continuum
from hexsolve.policies.dynamo import Dynamo
from hexsolve.policies.heft import Heft
from hexsolve.policies.hexagent import HexAgent
from hexsolve.policies.hexgen_flow import HexgenFlow
from hexsolve.policies.llumnix import LlumnixPd
from hexsolve.policies.lookahead import Lookahead
from hexsolve.policies.mdd import Mdd
from hexsolve.policies.mooncake import Mooncake
from hexsolve.policies.round_robin import RoundRobin
from hexsolve.policies.saga import Saga
from hexsolve.policies.solver import SolverPolicy
from hexsolve.policies.splitwise import Splitwise
from hexsolve.policies.srpt import Srpt
from hexsolve.policies.thunder_agent import ThunderAgent
from hexsolve.policies.workflow_atc import WorkflowAtc
from hexsolve.policies.workflow_edf import WorkflowEdf
from hexsolve.policies.workflow_fcfs import WorkflowFcfs
from hexsolve.policies.workflow_llf import WorkflowLlf
from hexsolve.policies.workflow_triage import WorkflowTriage
from hexsolve.policies.wspt import Wspt
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
            "workflow-edf",
            "adapted",
            "Jackson 1955; due dates of HexAGenT §7.2",
            "earliest due date of the workflow first, earliest projected finish",
            WorkflowEdf,
        ),
        PolicyInfo(
            "workflow-triage",
            "inspired",
            "Moore, Hodgson 1968; due dates of HexAGenT §7.2",
            "earliest due date first, workflows that cannot meet theirs behind the others",
            WorkflowTriage,
        ),
        PolicyInfo(
            "workflow-atc",
            "adapted",
            "Vepsalainen, Morton 1987; due dates of HexAGenT §7.2",
            "apparent tardiness cost: by due dates while little waits, shortest first where much does; lost ones last",
            WorkflowAtc,
        ),
        PolicyInfo(
            "autellix-plas",
            "adapted",
            "Autellix (arXiv 2502.13965) §4",
            "least attained service of the program first, in levels",
            AutellixPlas,
        ),
        PolicyInfo(
            "autellix-atlas",
            "adapted",
            "Autellix (arXiv 2502.13965) §4",
            "shortest observed critical path of the program first, in levels",
            AutellixAtlas,
        ),
        PolicyInfo(
            "hexgen-flow",
            "adapted",
            "Hexgen-Flow (arXiv 2505.05286)",
            "urgency against per-call budgets, dispatch by speed and queue",
            HexgenFlow,
        ),
        PolicyInfo(
            "cache-aware",
            "adapted",
            "SGLang gateway, cache_aware policy",
            "longest held prefix unless loads are out of balance",
            CacheAware,
        ),
        PolicyInfo(
            "dynamo",
            "adapted",
            "NVIDIA Dynamo KV router",
            "least prefill load net of overlap, least decode load",
            Dynamo,
        ),
        PolicyInfo(
            "mooncake",
            "adapted",
            "Mooncake (FAST '25) Alg. 1",
            "first token soonest, lightest decode that keeps the pace",
            Mooncake,
        ),
        PolicyInfo(
            "llumnix-pd",
            "inspired",
            "Llumnix (OSDI '24)",
            "fill decode replicas up to the pace the SLO allows",
            LlumnixPd,
        ),
        PolicyInfo(
            "splitwise",
            "adapted",
            "Splitwise (ISCA '24) §4.2",
            "shortest queue by pending tokens in both pools",
            Splitwise,
        ),
        PolicyInfo(
            "continuum",
            "adapted",
            "Continuum (arXiv 2511.02230)",
            "programs back within their pin first, then by first entry",
            Continuum,
        ),
        PolicyInfo(
            "saga",
            "inspired",
            "SAGA (arXiv 2605.00528)",
            "session affinity below a load, idle replicas steal",
            Saga,
        ),
        PolicyInfo(
            "thunder-agent",
            "inspired",
            "ThunderAgent (arXiv 2602.13692)",
            "programs admitted by working set, paused ones behind them",
            ThunderAgent,
        ),
        PolicyInfo(
            "heft",
            "adapted",
            "Topcuoglu et al. 2002 (IEEE TPDS 13:3)",
            "largest upward rank first, earliest projected finish",
            Heft,
        ),
        PolicyInfo(
            "srpt",
            "adapted",
            "Schrage 1968",
            "least remaining revealed work of the workflow first",
            Srpt,
        ),
        PolicyInfo(
            "wspt",
            "adapted",
            "Smith 1956",
            "largest 1/H_w per remaining revealed work first",
            Wspt,
        ),
        PolicyInfo(
            "mdd",
            "adapted",
            "Baker, Bertrand 1982 (J. Op. Mgmt 3:1)",
            "smallest modified due date first",
            Mdd,
        ),
        PolicyInfo(
            "hexagent",
            "faithful",
            "HexAGenT §4-5 (arXiv 2605.16637)",
            "largest projected risk first, joint prefill-decode choice",
            HexAgent,
        ),
        PolicyInfo(
            "lookahead",
            "ours",
            "docs/lookahead.md",
            "most costly delay of the whole workflow per root of prefill time first; earliest projected finish",
            Lookahead,
        ),
        PolicyInfo(
            "solver",
            "ours",
            "docs/design.md",
            "greedy plan improved by compiled search and CP-SAT within a budget, never worse by the referee",
            SolverPolicy,
        ),
        PolicyInfo(
            "solver-deadline",
            "ours",
            "docs/lookahead.md",
            "the solver in deadline mode: as many workflows as possible within twice their standalone makespan",
            lambda: SolverPolicy(
                params=EpochParams(target=2.0, margin=0.0), fallback=WorkflowAtc(), name="solver-deadline"
            ),
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
