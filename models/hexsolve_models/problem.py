"""One epoch as integers: ticks, blocks and indices. Knows nothing of seconds, snapshots, LLMs or solvers."""

from dataclasses import dataclass, fields
from functools import cached_property
from heapq import heapify, heappop, heappush
from typing import Any

import numpy as np
import numpy.typing as npt

from hexsolve_models.flat import Flat, flat
from hexsolve_models.objective import Ints, Objective, check_range, frozen_ints

MAX_TICK = 2**31 - 1
RATE_BLOCKS = 1024  # transfer_rate_ticks is per this many KV blocks


@dataclass(frozen=True, eq=False)
class Problem:
    """N waiting calls of W workflows, P prefill and D decode replicas, H held KV intervals; tick 0 is now.

    All arrays become read-only int64 copies. Every tick is below 2^31. See models/README.md §1 for the symbols.

    Parameters
    ----------
    prefill_ticks
        [N, P], >= 1; -1 = not allowed. Rows of locked calls are ignored.
    locked_decode
        [N]; -1: free call (choose prefill and decode replica). Otherwise the decode replica the call is bound to: its
        prefill is done or in progress and only its place in the decode queue is open.
    release_tick
        [N], >= 0. Free: earliest prefill start. Locked: tick its KV is at the decode replica.
    transfer_base_ticks, transfer_rate_ticks
        [P, D], >= 0: fixed part of a KV transfer, and ticks per 1024 blocks.
    transfer_blocks
        [N], >= 0: KV blocks to transfer (the prompt's).
    decode_ticks
        [N, D], >= 1; -1 = not allowed (KV does not fit, replica down).
    kv_blocks
        [N], >= 1: KV the call holds on its decode replica from decode start to decode finish.
    kv_capacity
        [D], >= 0, in blocks.
    prefill_free_tick
        [P], >= 0: end of the batch in progress.
    held_decode, held_start, held_end, held_blocks
        [H]: KV of running and in-flight calls on decode replica held_decode during [held_start, held_end). Frozen.
        Held KV may exceed the capacity; then nothing else fits there meanwhile.
    workflow
        [N] -> 0..W-1; every workflow has at least one call.
    objective
        Cost of a decision; W = objective.num_workflows.
    crowding_ticks, uncrowded_calls
        [N, D] >= 0 and [D] >= 0: a decode replica slows down with its batch. If n of the N calls decode on d in all,
        each of them takes crowding_ticks[c, d] * max(0, n - uncrowded_calls[d]) ticks longer. Default: no slow-down.
    edge_before, edge_after, edge_lag
        [E]: free call edge_after starts its prefill edge_lag >= 0 ticks after edge_before's decode finish or later.
        No cycles. Default: none.
    caps
        (objective, limit) pairs: a decision may cost at most `limit` under each. Earlier stages of a lexicographic
        solve. Their tails and weights count as in `objective`.

    Raises
    ------
    ValueError
        Naming field, index, value and what was expected.
    """

    prefill_ticks: Ints
    locked_decode: Ints
    release_tick: Ints
    transfer_base_ticks: Ints
    transfer_rate_ticks: Ints
    transfer_blocks: Ints
    decode_ticks: Ints
    kv_blocks: Ints
    kv_capacity: Ints
    prefill_free_tick: Ints
    held_decode: Ints
    held_start: Ints
    held_end: Ints
    held_blocks: Ints
    workflow: Ints
    objective: Objective
    crowding_ticks: Ints = None  # type: ignore[assignment]  # arrays after construction
    uncrowded_calls: Ints = None  # type: ignore[assignment]
    edge_before: Ints = None  # type: ignore[assignment]
    edge_after: Ints = None  # type: ignore[assignment]
    edge_lag: Ints = None  # type: ignore[assignment]
    caps: tuple[tuple[Objective, int], ...] = ()

    def __post_init__(self) -> None:
        self._fill_defaults()
        for field in fields(self):
            if field.name not in ("objective", "caps"):
                ndim = 2 if field.name in _MATRICES else 1
                object.__setattr__(self, field.name, frozen_ints(field.name, getattr(self, field.name), ndim))
        self._check_shapes()
        self._check_ranges()

    @property
    def num_calls(self) -> int:
        return int(self.kv_blocks.size)

    @property
    def num_prefill(self) -> int:
        return int(self.prefill_free_tick.size)

    @property
    def num_decode(self) -> int:
        return int(self.kv_capacity.size)

    @property
    def num_workflows(self) -> int:
        return self.objective.num_workflows

    @cached_property
    def is_free(self) -> npt.NDArray[np.bool_]:
        """[N]: the call still chooses its replicas."""
        return self.locked_decode < 0

    @cached_property
    def prefill_allowed(self) -> npt.NDArray[np.bool_]:
        """[N, P]: a free call may prefill there."""
        return (self.prefill_ticks > 0) & self.is_free[:, None]

    @cached_property
    def decode_allowed(self) -> npt.NDArray[np.bool_]:
        """[N, D]: the call may decode there and its KV fits the empty replica; a locked call only where it is bound."""
        fits = (self.decode_ticks > 0) & (self.kv_blocks[:, None] <= self.kv_capacity[None, :])
        bound_here = self.locked_decode[:, None] == np.arange(self.num_decode)[None, :]
        allowed: npt.NDArray[np.bool_] = fits & (self.is_free[:, None] | bound_here)
        return allowed

    def transfer(self, call: int) -> Ints:
        """[P, D] ticks from prefill end to KV at the decode replica, rounded up."""
        scaled = self.transfer_rate_ticks * self.transfer_blocks[call]
        ticks: Ints = self.transfer_base_ticks - (-scaled // RATE_BLOCKS)
        return ticks

    @cached_property
    def flat(self) -> Flat:
        """What compiled kernels read."""
        return flat(self)

    @cached_property
    def is_crowdable(self) -> bool:
        """Whether decode times depend on how many calls a replica gets."""
        return bool(self.crowding_ticks.any() and (self.uncrowded_calls < self.num_calls).any())

    def crowding(self, decode: Ints) -> Ints:
        """[N] extra decode ticks of each call if call c decodes on decode[c]."""
        count = np.bincount(decode, minlength=self.num_decode)
        excess = np.maximum(0, count - self.uncrowded_calls)
        ticks: Ints = self.crowding_ticks[np.arange(self.num_calls), decode] * excess[decode]
        return ticks

    @cached_property
    def topological(self) -> Ints:
        """[N] the calls, every one after those its edges come from; by index where free to choose."""
        if not self.edge_before.size:
            return np.arange(self.num_calls)
        children: dict[int, list[int]] = {}
        missing = np.bincount(self.edge_after, minlength=self.num_calls)
        for before, after in zip(self.edge_before.tolist(), self.edge_after.tolist(), strict=True):
            children.setdefault(before, []).append(after)
        ready = np.flatnonzero(missing == 0).tolist()
        heapify(ready)
        order = []
        while ready:
            order.append(heappop(ready))
            for child in children.get(order[-1], ()):
                missing[child] -= 1
                if missing[child] == 0:
                    heappush(ready, child)
        return np.array(order, dtype=np.int64)

    def __getstate__(self) -> dict[str, Any]:
        """The fields alone: what follows from them does not travel between processes."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def _fill_defaults(self) -> None:
        n, d = len(self.kv_blocks), len(self.kv_capacity)
        no_crowding: dict[str, Any] = {
            "crowding_ticks": np.zeros((n, d), dtype=np.int64),
            "uncrowded_calls": np.full(d, n, dtype=np.int64),
        }
        no_edge = np.zeros(0, dtype=np.int64)
        for name, value in (no_crowding | dict.fromkeys(("edge_before", "edge_after", "edge_lag"), no_edge)).items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    def blocked_calls(self) -> tuple[int, ...]:
        """Calls that no decision can place. The problem is infeasible if and only if there are any.

        Otherwise one call after the other along the edges, each after everything held has ended, is a feasible
        schedule, caps apart: those come with a decision that meets them.
        """
        can_prefill = self.prefill_allowed.any(axis=1) | ~self.is_free
        can_place = can_prefill & self.decode_allowed.any(axis=1)
        return tuple(int(c) for c in np.flatnonzero(~can_place))

    def _check_shapes(self) -> None:
        sizes = {
            "N": self.num_calls,
            "P": self.num_prefill,
            "D": self.num_decode,
            "H": int(self.held_decode.size),
            "E": int(self.edge_before.size),
        }
        for name, axes in _SHAPES.items():
            got, want = getattr(self, name).shape, tuple(sizes[axis] for axis in axes)
            if got != want:
                raise ValueError(f"{name} has shape {got}: expected [{', '.join(axes)}] = {want}")
        if sizes["P"] < 1 or sizes["D"] < 1:
            raise ValueError(f"{sizes['P']} prefill and {sizes['D']} decode replicas: expected at least one of each")
        for name, objective in (("objective", self.objective), *(("caps objective", cap) for cap, _ in self.caps)):
            if objective.tail_ticks.size != sizes["N"]:
                got = objective.tail_ticks.size
                raise ValueError(f"{name}.tail_ticks has {got} entries: expected {sizes['N']}, one per call")
            if objective.num_workflows != self.num_workflows:
                raise ValueError(f"{name} has {objective.num_workflows} workflows: expected {self.num_workflows}")

    def _check_ranges(self) -> None:
        for name, (low, high) in _RANGES.items():
            check_range(name, getattr(self, name), low, high)
        check_range("locked_decode", self.locked_decode, -1, self.num_decode - 1)
        check_range("held_decode", self.held_decode, 0, self.num_decode - 1)
        check_range("workflow", self.workflow, 0, self.num_workflows - 1)
        for name in ("prefill_ticks", "decode_ticks"):
            zero = np.argwhere(getattr(self, name) == 0)
            if zero.size:
                raise ValueError(f"{name}[{zero[0, 0]}, {zero[0, 1]}] = 0: expected >= 1, or -1 for not allowed")
        backwards = np.flatnonzero(self.held_end < self.held_start)
        if backwards.size:
            h = int(backwards[0])
            raise ValueError(f"held_end[{h}] = {self.held_end[h]}: expected >= held_start[{h}] = {self.held_start[h]}")
        self._check_edges()
        empty = np.setdiff1d(np.arange(self.num_workflows), self.workflow)
        if empty.size:
            raise ValueError(f"workflow: no call belongs to workflow {empty[0]}: expected at least one")

    def _check_edges(self) -> None:
        for name in ("edge_before", "edge_after"):
            check_range(name, getattr(self, name), 0, self.num_calls - 1)
        locked = np.flatnonzero(self.locked_decode[self.edge_after] >= 0)
        if locked.size:
            e = int(locked[0])
            raise ValueError(f"edge_after[{e}] = {self.edge_after[e]}: expected a free call, this one is locked")
        if self.topological.size < self.num_calls:
            on_cycle = np.setdiff1d(np.arange(self.num_calls), self.topological)
            raise ValueError(f"edges: calls {on_cycle[:10].tolist()} wait for one another: expected no cycle")


_SHAPES = {
    "prefill_ticks": "NP",
    "locked_decode": "N",
    "release_tick": "N",
    "transfer_base_ticks": "PD",
    "transfer_rate_ticks": "PD",
    "transfer_blocks": "N",
    "decode_ticks": "ND",
    "workflow": "N",
    "held_start": "H",
    "held_end": "H",
    "held_blocks": "H",
    "crowding_ticks": "ND",
    "uncrowded_calls": "D",
    "edge_before": "E",
    "edge_after": "E",
    "edge_lag": "E",
}
_MATRICES = frozenset(name for name, axes in _SHAPES.items() if len(axes) == 2)
_RANGES = {
    "prefill_ticks": (-1, MAX_TICK),
    "release_tick": (0, MAX_TICK),
    "transfer_base_ticks": (0, MAX_TICK),
    "transfer_rate_ticks": (0, MAX_TICK),
    "transfer_blocks": (0, MAX_TICK),
    "decode_ticks": (-1, MAX_TICK),
    "kv_blocks": (1, MAX_TICK),
    "kv_capacity": (0, MAX_TICK),
    "prefill_free_tick": (0, MAX_TICK),
    "held_start": (-MAX_TICK, MAX_TICK),
    "held_end": (-MAX_TICK, MAX_TICK),
    "held_blocks": (0, MAX_TICK),
    "crowding_ticks": (0, MAX_TICK),
    "uncrowded_calls": (0, MAX_TICK),
    "edge_lag": (0, MAX_TICK),
}
