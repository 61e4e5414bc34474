"""A problem as the compiled kernels read it: plain read-only arrays of one memory layout, computed once per problem.

numba compiles again for every new combination of layout and read-only flags; here they are always the same.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hexsolve_models.objective import Ints

if TYPE_CHECKING:
    from hexsolve_models.problem import Problem


class Flat(NamedTuple):
    """Row-major, read-only int64 arrays; see `Problem` for the units."""

    prefill: Ints  # [N, P] ticks, -1 where not allowed
    decode: Ints  # [N, D] ticks, -1 where not allowed
    crowding: Ints  # [N, D]
    uncrowded: Ints  # [D]
    base: Ints  # [P, D]
    rate: Ints  # [P, D]
    moved: Ints  # [N]
    blocks: Ints  # [N]
    release: Ints  # [N]
    locked: Ints  # [N] decode replica or -1
    free_tick: Ints  # [P]
    capacity: Ints  # [D]
    held_from: Ints  # [D + 1] steps of replica d: held_from[d]..held_from[d + 1] - 1
    held_tick: Ints  # [S] start of a step, increasing, the first of each replica at 0, the last one empty
    held_use: Ints  # [S] blocks held from there to the next step
    wait_from: Ints  # [N + 1] edges into call c: wait_from[c]..wait_from[c + 1] - 1
    wait_for: Ints  # [E] the call it waits for
    wait_lag: Ints  # [E]


def flat(problem: "Problem") -> Flat:
    """Flatten `problem`."""
    by_child = np.argsort(problem.edge_after, kind="stable")
    return Flat(
        *map(
            read_only,
            (
                np.where(problem.prefill_allowed, problem.prefill_ticks, -1),
                np.where(problem.decode_allowed, problem.decode_ticks, -1),
                problem.crowding_ticks,
                problem.uncrowded_calls,
                problem.transfer_base_ticks,
                problem.transfer_rate_ticks,
                problem.transfer_blocks,
                problem.kv_blocks,
                problem.release_tick,
                problem.locked_decode,
                problem.prefill_free_tick,
                problem.kv_capacity,
                *_held_steps(problem),
                first_of(problem.edge_after, problem.num_calls),
                problem.edge_before[by_child],
                problem.edge_lag[by_child],
            ),
        )
    )


def first_of(owner: Ints, num_owners: int) -> Ints:
    """[num_owners + 1] where the rows of each owner begin once rows are sorted by owner, and their number."""
    first: Ints = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=num_owners))])
    return first


def _held_steps(problem: "Problem") -> tuple[Ints, Ints, Ints]:
    """Held KV on every replica as step functions: first step of each replica, ticks, uses."""
    d = np.arange(problem.num_decode)
    start, end = np.maximum(problem.held_start, 0), problem.held_end
    counts = end > start
    here, blocks = problem.held_decode[counts], problem.held_blocks[counts]
    replica = np.concatenate([d, here, here])
    tick = np.concatenate([np.zeros_like(d), start[counts], end[counts]])
    change = np.concatenate([np.zeros_like(d), blocks, -blocks])
    by_tick = np.lexsort((tick, replica))
    replica, tick = replica[by_tick], tick[by_tick]
    use = np.cumsum(change[by_tick])  # every replica's changes add up to nothing, so the next one starts from 0
    is_last = np.append((replica[1:] != replica[:-1]) | (tick[1:] != tick[:-1]), True)
    return first_of(replica[is_last], problem.num_decode), tick[is_last], use[is_last]


def read_only(array: Ints) -> Ints:
    """A row-major view, or copy, that nothing can write to: to numba always the same type."""
    view: Ints = np.ascontiguousarray(array, dtype=np.int64).view()
    view.flags.writeable = False
    return view
