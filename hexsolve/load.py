"""Load as utilisation: offered work over the capacity of a pool under ideal placement. Knows no policy and no queues.

A rate alone says little: at the paper's rates Hetero-1 with the 70B LLM is a quarter busy on ShareGPT (10/s), where all
policies look alike, and offered 30 times what it can do on LATS (40/s). ρ = 1 is where an ideal fractional placement
with full batches and every prefix hit is saturated; a real policy is earlier.

Ideal means, per pool:

* prefill: a call takes its share of a batch of calls like itself that fills the replica's `max_batch_tokens`, with its
  whole cached prefix hit: prefill_ms(k·n, k·A)/k with k = max(1, budget // n);
* decode: the replica always runs the most calls like this one that `max_running` and its KV capacity allow, B; a call
  takes output · step(B, mean context)/B, where the KV held is prompt + output and the mean context prompt + output/2.
  Exact for mixes too while KV is what limits the batch, since a/B is then linear in the KV held;
* calls are split over the replicas, unrelated machines (a GPU that is twice as fast at prefill need not be at decode or
  at long contexts), by the linear programme: minimise ρ with Σ_r y[k,r]/(w[k]·t[k,r]) = 1, Σ_k y[k,r] <= ρ·count[r].

KV transfer is left out: it is no pool, and at most overlaps with both.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from hexsolve.cluster import Cluster, Replica
from hexsolve.errors import InputError
from hexsolve.profile import call_area
from hexsolve.workflow import Call, Workload

_MAX_CALLS = 4096  # evenly spaced sample of the workload's calls that is costed
_NUM_CLASSES = 24  # calls of similar cost share one row of the linear programme

CallCost = Callable[[Call, Replica], float]  # ms of the replica's time; inf where it cannot serve the call


@dataclass(frozen=True, slots=True)
class PoolLoad:
    """Utilisation of both pools at one arrival rate; above 1 a pool cannot keep up."""

    prefill: float
    decode: float

    @property
    def binding(self) -> Literal["prefill", "decode"]:
        """The pool that saturates first."""
        return "prefill" if self.prefill >= self.decode else "decode"

    @property
    def rho(self) -> float:
        """Utilisation of the binding pool."""
        return max(self.prefill, self.decode)


def utilisation(workload: Workload, cluster: Cluster, rate_per_s: float) -> PoolLoad:
    """Utilisation of the pools when workflows like these arrive at `rate_per_s` workflows per second.

    Raises
    ------
    InputError
        If the workload is empty, the rate is not > 0, or a call fits no decode replica.
    """
    if not (np.isfinite(rate_per_s) and rate_per_s > 0):
        raise InputError(f"rate_per_s: expected a finite number > 0, got {rate_per_s!r}")
    if not workload.workflows:
        raise InputError(f"workload {workload.name!r}: expected at least one workflow, got none")
    calls = [call for workflow in workload.workflows for call in workflow.calls]
    calls_per_ms = rate_per_s / 1e3 * len(calls) / len(workload.workflows)
    sample = calls[:: -(-len(calls) // _MAX_CALLS)]
    prefill_ms = busy_ms_per_call(sample, cluster.prefill, prefill_cost_ms)
    decode_ms = busy_ms_per_call(sample, cluster.decode, decode_cost_ms)
    return PoolLoad(calls_per_ms * prefill_ms, calls_per_ms * decode_ms)


def rate_for(workload: Workload, cluster: Cluster, rho: float) -> float:
    """Workflows per second at which the binding pool's utilisation is `rho` (> 0); may exceed 1."""
    if not (np.isfinite(rho) and rho > 0):
        raise InputError(f"rho: expected a finite number > 0, got {rho!r}")
    return rho / utilisation(workload, cluster, 1.0).rho


def prefill_cost_ms(call: Call, replica: Replica) -> float:
    """A call's share of a full batch of calls like it, its prefix hit."""
    new = call.input_tokens - call.cached_prefix_tokens
    together = max(1, replica.max_batch_tokens // new)
    area = call_area(new, call.cached_prefix_tokens)
    return replica.profile.prefill_ms(together * new, together * area) / together


def decode_cost_ms(call: Call, replica: Replica) -> float:
    """A call's share of the steps of the largest batch of calls like it; inf if it does not fit."""
    fitting = replica.kv_capacity_tokens / (call.input_tokens + call.output_tokens)
    if fitting < 1:
        return float("inf")
    batch = min(replica.max_running, int(fitting))
    context_tokens = batch * (call.input_tokens + call.output_tokens / 2)
    return call.output_tokens * replica.profile.decode_step_ms(batch, context_tokens) / batch


def busy_ms_per_call(calls: Sequence[Call], replicas: Sequence[Replica], cost: CallCost) -> float:
    """Least achievable busy time per call of the busiest replica, in ms, when calls may be split over replicas.

    Raises
    ------
    InputError
        If a call can be served by no replica.
    """
    types = Counter(_type_of(replica) for replica in replicas)
    one_of = {_type_of(replica): replica for replica in replicas}
    cost_ms = np.array([[cost(call, one_of[kind]) for kind in types] for call in calls])  # [call, replica type]
    _check_served(calls, cost_ms)
    return least_busy_ms(*_classes(cost_ms), np.array(list(types.values()), dtype=float))


def least_busy_ms(weights: NDArray[np.float64], cost_ms: NDArray[np.float64], counts: NDArray[np.float64]) -> float:
    """Optimum of the linear programme of this module.

    Parameters
    ----------
    weights : f8[K]
        Share of each call class; they add up to 1.
    cost_ms : f8[K, R]
        Busy time per call of a class on a replica type; inf where it cannot run, not inf everywhere.
    counts : f8[R]
        Replicas of each type.
    """
    num_classes, num_types = cost_ms.shape
    work_ms = weights[:, None] * cost_ms
    cheapest_ms = work_ms.min(axis=1)
    scale_ms = cheapest_ms.sum() / counts.sum()  # a lower bound: in its unit rho is at least 1
    # y[k, r] = busy time that type r spends on class k; all of class k is served if sum_r y[k, r] / work[k, r] = 1.
    # Each such row is divided by its largest coefficient, which keeps costs of very different size apart.
    served = np.repeat(np.eye(num_classes), num_types, axis=1) * (cheapest_ms[:, None] / work_ms).ravel()
    busy = np.tile(np.eye(num_types), num_classes)
    result = linprog(
        c=np.append(np.zeros(work_ms.size), 1.0),
        A_ub=np.hstack([busy, -counts[:, None]]),
        b_ub=np.zeros(num_types),
        A_eq=np.hstack([served, np.zeros((num_classes, 1))]),
        b_eq=cheapest_ms / scale_ms,
    )
    if not result.success:
        raise RuntimeError(f"the capacity programme is always feasible, but the solver says: {result.message}")
    return float(result.fun * scale_ms)


def _type_of(replica: Replica) -> tuple[object, ...]:
    """What makes two replicas interchangeable here."""
    return replica.profile, replica.kv_capacity_tokens, replica.max_batch_tokens, replica.max_running


def _check_served(calls: Sequence[Call], cost_ms: NDArray[np.float64]) -> None:
    alone = ~np.isfinite(cost_ms).any(axis=1)
    if alone.any():
        call = calls[int(np.argmax(alone))]
        tokens = call.input_tokens + call.output_tokens
        raise InputError(f"call {call.request_id!r}: expected a KV demand that fits a replica, got {tokens} tokens")


def _classes(cost_ms: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Group calls that run on the same types and cost alike: (share of each class, its mean cost per type)."""
    cheapest = np.where(np.isfinite(cost_ms), cost_ms, np.inf).min(axis=1)
    order = np.lexsort((cheapest, *np.isfinite(cost_ms).T))
    runs = [part for part in _same_types(cost_ms, order) for part in np.array_split(part, _NUM_CLASSES) if len(part)]
    weights = np.array([len(part) / len(cost_ms) for part in runs])
    return weights, np.array([cost_ms[part].mean(axis=0) for part in runs])


def _same_types(cost_ms: NDArray[np.float64], order: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Split an order of calls where the set of replica types that can run them changes."""
    possible = np.isfinite(cost_ms[order])
    changes = np.flatnonzero((possible[1:] != possible[:-1]).any(axis=1)) + 1
    return np.split(order, changes)
