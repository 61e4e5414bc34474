"""A whole instance as integers: every workflow, call and replica, all known from the start. Knows no simulator.

What may be decided about it, and what it means, is in models/README.md §9. It is a relaxation of what a cluster can
do: whatever a simulated run does, some decision here does no later (`hexsolve.offline` builds it so).
"""

from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import numpy.typing as npt

from hexsolve_models.objective import Ints, check_range, frozen_ints

MAX_TICK = 2**31 - 1
RATE_BLOCKS = 1024  # transfer_rate_ticks is per this many KV blocks


@dataclass(frozen=True, eq=False)
class OfflineProblem:
    """N calls of W workflows, P prefill and D decode replicas, E precedence edges; ticks are integers from 0.

    All arrays become read-only int64 copies. The *ready tick* of a call is the largest of release + ready_lag and, over
    the edges into it, finish of the call before + lag.

    Parameters
    ----------
    workflow
        [N] -> 0..W-1; every workflow has at least one call.
    release_tick
        [W], >= 0: arrival.
    reference_ticks
        [W], >= 1: denominator of the SLO scale; stretch R_w = (F_w - release_w) / reference_w.
    edge_before, edge_after, edge_lag
        [E]: edge_after is ready edge_lag >= 0 ticks after edge_before's finish or later. Within a workflow, no cycle.
    ready_lag
        [N], >= 0: ticks after the release before which the call is not ready.
    prefill_ticks
        [N, P], >= 0, -1 = not allowed: least time from ready to prefill end.
    transfer_base_ticks, transfer_rate_ticks
        [P, D], >= 0: fixed part of a KV transfer, and ticks per 1024 blocks.
    transfer_blocks
        [N], >= 0: KV blocks to transfer.
    decode_ticks
        [N, D], >= 0, -1 = not allowed: decode in a batch of one, the fastest there is.
    decode_work
        [N, D], 0..decode_ticks, -1 where decode_ticks is: least share of the replica's own time that the decode uses
        up, however it is batched. Over the calls on d it adds up to no more than the time d works.
    kv_blocks
        [N], >= 0: KV held on the decode replica from decode start on, for decode_ticks.
    kv_capacity
        [D], >= 0, in blocks.
    prefill_work
        [N, P], 0..prefill_ticks, -1 where prefill_ticks is: time for which the prefill has the replica to itself. Less
        than prefill_ticks where calls can be batched: the batch takes as long as its largest, but what its calls use
        up of the replica adds up. Default: prefill_ticks.

    Raises
    ------
    ValueError
        Naming field, index, value and what was expected.
    """

    workflow: Ints
    release_tick: Ints
    reference_ticks: Ints
    edge_before: Ints
    edge_after: Ints
    edge_lag: Ints
    ready_lag: Ints
    prefill_ticks: Ints
    transfer_base_ticks: Ints
    transfer_rate_ticks: Ints
    transfer_blocks: Ints
    decode_ticks: Ints
    decode_work: Ints
    kv_blocks: Ints
    kv_capacity: Ints
    prefill_work: Ints = None  # type: ignore[assignment]  # an array after construction

    def __post_init__(self) -> None:
        if self.prefill_work is None:
            object.__setattr__(self, "prefill_work", self.prefill_ticks)
        for field in fields(self):
            array = frozen_ints(field.name, getattr(self, field.name), len(_SHAPES[field.name]))
            object.__setattr__(self, field.name, array)
        self._check_shapes()
        self._check_ranges()
        self._check_shares()
        self._check_edges()

    @property
    def num_calls(self) -> int:
        return int(self.workflow.size)

    @property
    def num_workflows(self) -> int:
        return int(self.release_tick.size)

    @property
    def num_prefill(self) -> int:
        return int(self.prefill_ticks.shape[1])

    @property
    def num_decode(self) -> int:
        return int(self.kv_capacity.size)

    @cached_property
    def prefill_allowed(self) -> npt.NDArray[np.bool_]:
        """[N, P]: the call may prefill there."""
        return self.prefill_ticks >= 0

    @cached_property
    def decode_allowed(self) -> npt.NDArray[np.bool_]:
        """[N, D]: the call may decode there, and its KV fits the empty replica."""
        allowed: npt.NDArray[np.bool_] = (self.decode_ticks >= 0) & (self.kv_blocks[:, None] <= self.kv_capacity)
        return allowed

    def transfer(self, call: int) -> Ints:
        """[P, D] ticks from prefill end to KV at the decode replica, rounded down."""
        ticks: Ints = self.transfer_base_ticks + self.transfer_rate_ticks * self.transfer_blocks[call] // RATE_BLOCKS
        return ticks

    @cached_property
    def parents(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """By call: (call before, lag) of the edges into it."""
        return self._by_call(self.edge_after, self.edge_before)

    @cached_property
    def children(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """By call: (call after, lag) of the edges out of it."""
        return self._by_call(self.edge_before, self.edge_after)

    @cached_property
    def topological(self) -> tuple[int, ...]:
        """The calls, every one after those its edges come from; fewer than N if there is a cycle."""
        missing = np.bincount(self.edge_after, minlength=self.num_calls).tolist()
        order = [c for c, count in enumerate(missing) if not count]
        for c in order:  # grows as it goes
            for child, _ in self.children[c]:
                missing[child] -= 1
                if not missing[child]:
                    order.append(child)
        return tuple(order)

    def blocked_calls(self) -> tuple[int, ...]:
        """Calls that no decision can place. Every instance without them has a decision: one call after the other."""
        can_place = self.prefill_allowed.any(axis=1) & self.decode_allowed.any(axis=1)
        return tuple(int(c) for c in np.flatnonzero(~can_place))

    def _by_call(self, at: Ints, other: Ints) -> tuple[tuple[tuple[int, int], ...], ...]:
        found: list[list[tuple[int, int]]] = [[] for _ in range(self.num_calls)]
        for here, there, lag in zip(at.tolist(), other.tolist(), self.edge_lag.tolist(), strict=True):
            found[here].append((there, lag))
        return tuple(map(tuple, found))

    def _check_shapes(self) -> None:
        sizes = {
            "N": self.num_calls,
            "W": self.num_workflows,
            "P": self.num_prefill,
            "D": self.num_decode,
            "E": int(self.edge_before.size),
        }
        for name, axes in _SHAPES.items():
            got, want = getattr(self, name).shape, tuple(sizes[axis] for axis in axes)
            if got != want:
                raise ValueError(f"{name} has shape {got}: expected [{', '.join(axes)}] = {want}")
        if sizes["P"] < 1 or sizes["D"] < 1:
            raise ValueError(f"{sizes['P']} prefill and {sizes['D']} decode replicas: expected at least one of each")

    def _check_ranges(self) -> None:
        for name in _SHAPES:
            low = -1 if name in _MAY_BE_FORBIDDEN else int(name == "reference_ticks")
            check_range(name, getattr(self, name), low, MAX_TICK)
        check_range("workflow", self.workflow, 0, self.num_workflows - 1)
        for name in ("edge_before", "edge_after"):
            check_range(name, getattr(self, name), 0, self.num_calls - 1)
        empty = np.setdiff1d(np.arange(self.num_workflows), self.workflow)
        if empty.size:
            raise ValueError(f"workflow: no call belongs to workflow {empty[0]}: expected at least one")

    def _check_shares(self) -> None:
        for part, whole in (("prefill_work", "prefill_ticks"), ("decode_work", "decode_ticks")):
            share, ticks = getattr(self, part), getattr(self, whole)
            wrong = np.argwhere((share > ticks) | ((share < 0) != (ticks < 0)))
            if wrong.size:
                c, r = wrong[0].tolist()
                want = f"0..{ticks[c, r]}" if ticks[c, r] >= 0 else "-1"
                raise ValueError(f"{part}[{c}, {r}] = {share[c, r]}: expected {want}, as {whole} is {ticks[c, r]}")

    def _check_edges(self) -> None:
        apart = np.flatnonzero(self.workflow[self.edge_before] != self.workflow[self.edge_after])
        if apart.size:
            e = int(apart[0])
            raise ValueError(
                f"edge {e}: calls {self.edge_before[e]} and {self.edge_after[e]} are of workflows "
                f"{self.workflow[self.edge_before[e]]} and {self.workflow[self.edge_after[e]]}: expected one workflow"
            )
        if len(self.topological) < self.num_calls:
            on_cycle = np.setdiff1d(np.arange(self.num_calls), self.topological)
            raise ValueError(f"edges: calls {on_cycle[:10].tolist()} wait for one another: expected no cycle")


_SHAPES = {
    "workflow": "N",
    "release_tick": "W",
    "reference_ticks": "W",
    "edge_before": "E",
    "edge_after": "E",
    "edge_lag": "E",
    "ready_lag": "N",
    "prefill_ticks": "NP",
    "transfer_base_ticks": "PD",
    "transfer_rate_ticks": "PD",
    "transfer_blocks": "N",
    "decode_ticks": "ND",
    "decode_work": "ND",
    "kv_blocks": "N",
    "kv_capacity": "D",
    "prefill_work": "NP",
}
_MAY_BE_FORBIDDEN = ("prefill_ticks", "prefill_work", "decode_ticks", "decode_work")


@dataclass(frozen=True, eq=False)
class OfflineDecision:
    """Where and when every call is served; read-only int64 arrays over calls.

    Parameters
    ----------
    prefill, decode
        [N] replica.
    prefill_start
        [N] tick from which the prefill has its replica to itself, for prefill_work.
    decode_start
        [N] tick from which it decodes and holds its KV, for decode_ticks.
    """

    prefill: Ints
    decode: Ints
    prefill_start: Ints
    decode_start: Ints

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, frozen_ints(f"decision.{field.name}", getattr(self, field.name), 1))
