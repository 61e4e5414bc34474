"""An epoch problem as the kernels of the search read it, and the schedule that they change. Knows `Problem`."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hexsolve.jit import kernel
from hexsolve.tables import Floats, Ints
from hexsolve_models import Decision, Problem
from hexsolve_models.timetable import held_segments

NEVER = 2**60
MOVED, BLOCKS, RELEASE, LOCKED, WORKFLOW, TAIL = range(6)
RELEASED, START, ARRIVAL, DECODE, FINISH = range(5)
MOVE, JOURNAL, JOURNAL_FLOW, WORK, ACCEPTED = range(5)
_CHANCE = -np.log((np.arange(1024) + 0.5) / 1024)


class Board(NamedTuple):
    """The problem as the kernel reads it. S cost stages: the objective, then the caps."""

    prefill_ticks: Ints  # [N, P], -1 where not allowed
    decode_ticks: Ints  # [N, D], -1 where not allowed
    crowding: Ints  # [N, D]
    uncrowded: Ints  # [D]
    lag: Ints  # [2, P, D] base and rate
    calls: Ints  # [N, 6] columns MOVED, BLOCKS, RELEASE, LOCKED, WORKFLOW, TAIL
    free_tick: Ints  # [P]
    capacity: Ints  # [D]
    held: Ints  # [2, D, room] ticks and blocks
    held_len: Ints  # [D]
    held_peak: Ints  # [D]
    members: Ints  # [N] calls by workflow
    members_from: Ints  # [W + 1]
    child: Ints  # [E] calls that wait for call c: child_from[c]..child_from[c + 1]
    child_from: Ints  # [N + 1]
    parent: Ints  # [2, E] call and lag, by `parent_from`
    parent_from: Ints  # [N + 1]
    slope: Floats  # [S, W, K]
    intercept: Floats
    step: Floats  # [S, 2, W] due tick and its weight
    weight: Floats  # [S, N]
    is_max: Ints  # [S]
    cap: Floats  # [S], inf for the objective
    sources: Ints  # [N, P] allowed prefill replicas, then -1
    targets: Ints  # [N, D] allowed decode replicas, then -1
    number: Ints  # [N, 2] how many
    nearest: Ints  # [N, P] decode replica with the earliest finish behind each prefill replica
    chance: Floats  # [1024] exponential quantiles


class Schedule(NamedTuple):
    """What the search changes, and the journal that takes a move back."""

    queue: Ints  # [P, N]
    queue_len: Ints  # [P]
    place: Ints  # [N] index in its queue
    prefill: Ints  # [N]
    decode: Ints  # [N]
    beside: Ints  # [D, N] calls on a decode replica
    beside_len: Ints  # [D]
    beside_at: Ints  # [N]
    kv: Ints  # [D] blocks of the calls on it
    time: Ints  # [N, 5] columns RELEASED, START, ARRIVAL, DECODE, FINISH
    last: Ints  # [W] F_w
    price: Floats  # [S, W]
    total: Floats  # [S] cost
    own: Floats  # [S] the weighted finishes in it
    touched: Ints  # [N] number of the move that last wrote a call to the journal
    touched_flow: Ints  # [W]
    journal: Ints  # [N, 6] call, then its old times
    journal_flow: Ints  # [W] workflow
    journal_last: Ints  # [W]
    journal_price: Floats  # [S, W]
    dirty_queue: Ints  # [P, 2] first and last changed index; (NEVER, -1) if clean
    dirty_decode: Ints  # [D]
    number: Ints  # [8] columns below
    random: Ints  # [2]
    profile: Ints  # [2, room + 2 N] scratch of a tight replica
    order: Ints  # [N] scratch


def board_of(problem: Problem, hint: Decision) -> Board:
    """Flatten `problem`; `hint` tells which decode replicas are crowded anyway."""
    n, objectives = problem.num_calls, [problem.objective, *(objective for objective, _ in problem.caps)]
    width = max(objective.slope.shape[1] for objective in objectives)

    def pieces(name: str) -> Floats:
        return np.stack([np.pad(getattr(o, name), ((0, 0), (0, width - o.slope.shape[1])), "edge") for o in objectives])

    held, held_len = _held(problem)
    members = np.argsort(problem.workflow, kind="stable")
    child_order = np.argsort(problem.edge_before, kind="stable")
    parent_order = np.argsort(problem.edge_after, kind="stable")
    moved, locked = problem.transfer_blocks, problem.locked_decode
    excess = np.bincount(hint.decode, minlength=problem.num_decode) + 1 - problem.uncrowded_calls
    decode = problem.decode_ticks + problem.crowding_ticks * np.maximum(0, excess)
    lag = np.stack([problem.transfer_base_ticks, problem.transfer_rate_ticks])
    board = Board(
        prefill_ticks=np.where(problem.prefill_allowed, problem.prefill_ticks, -1),
        decode_ticks=np.where(problem.decode_allowed, problem.decode_ticks, -1),
        crowding=problem.crowding_ticks.copy(),
        uncrowded=problem.uncrowded_calls.copy(),
        lag=lag,
        calls=np.stack(
            [moved, problem.kv_blocks, problem.release_tick, locked, problem.workflow, problem.objective.tail_ticks],
            axis=1,
        ),
        free_tick=problem.prefill_free_tick.copy(),
        capacity=problem.kv_capacity.copy(),
        held=held,
        held_len=held_len,
        held_peak=held[1].max(axis=1),
        members=members,
        members_from=_starts(problem.workflow, problem.num_workflows),
        child=problem.edge_after[child_order],
        child_from=_starts(problem.edge_before, n),
        parent=np.stack([problem.edge_before, problem.edge_lag])[:, parent_order],
        parent_from=_starts(problem.edge_after, n),
        slope=pieces("slope").astype(np.float64),
        intercept=pieces("intercept").astype(np.float64),
        step=np.stack([np.stack([o.due_tick, o.late_weight]) for o in objectives]).astype(np.float64),
        weight=np.stack([o.call_weight for o in objectives]).astype(np.float64),
        is_max=np.array([o.aggregate == "max" for o in objectives], dtype=np.int64),
        cap=np.array([np.inf, *(limit for _, limit in problem.caps)], dtype=np.float64),
        sources=_indices(problem.prefill_allowed),
        targets=_indices(problem.decode_allowed),
        number=np.stack([problem.prefill_allowed.sum(axis=1), problem.decode_allowed.sum(axis=1)], axis=1),
        nearest=_nearest(lag, moved, np.where(problem.decode_allowed, decode, NEVER)),
        chance=_CHANCE,
    )
    # One layout only: column-major matrices would be another type, compiled anew in the middle of serving.
    arrays: dict[str, Any] = {name: np.ascontiguousarray(array) for name, array in board._asdict().items()}
    return Board(**arrays)


def schedule_of(problem: Problem, board: Board, hint: Decision, seed: int) -> Schedule:
    n, flows, stages = problem.num_calls, problem.num_workflows, len(board.cap)
    num_prefill, num_decode = problem.num_prefill, problem.num_decode
    queue, queue_len = np.zeros((num_prefill, n), dtype=np.int64), np.zeros(num_prefill, dtype=np.int64)
    beside, beside_len = np.zeros((num_decode, n), dtype=np.int64), np.zeros(num_decode, dtype=np.int64)
    place, beside_at = np.full(n, -1, dtype=np.int64), np.zeros(n, dtype=np.int64)
    for c in hint.priority_order(problem).tolist():
        p, d = int(hint.prefill[c]), int(hint.decode[c])
        if p >= 0:
            queue[p, queue_len[p]], place[c] = c, queue_len[p]
            queue_len[p] += 1
        beside[d, beside_len[d]], beside_at[c] = c, beside_len[d]
        beside_len[d] += 1
    time = np.zeros((n, 5), dtype=np.int64)
    time[:, RELEASED] = problem.release_tick
    time[:, ARRIVAL] = problem.release_tick
    time[:, START] = np.where(problem.is_free, -1, hint.decode_start)
    kv = np.zeros(num_decode, dtype=np.int64)
    np.add.at(kv, hint.decode, problem.kv_blocks)
    return Schedule(
        queue, queue_len, place, hint.prefill.copy(), hint.decode.copy(), beside, beside_len, beside_at, kv, time,
        np.zeros(flows, dtype=np.int64), np.zeros((stages, flows)), np.zeros(stages), np.zeros(stages),
        np.zeros(n, dtype=np.int64), np.zeros(flows, dtype=np.int64), np.zeros((n, 6), dtype=np.int64),
        np.zeros(flows, dtype=np.int64), np.zeros(flows, dtype=np.int64), np.zeros((stages, flows)),
        np.tile(np.array([NEVER, -1], dtype=np.int64), (num_prefill, 1)), np.zeros(num_decode, dtype=np.int64),
        np.zeros(8, dtype=np.int64), np.array([1 + seed % 2147483562, 1 + (seed * 7919 + 12345) % 2147483398]),
        np.zeros((2, board.held.shape[2] + 2 * n + 2), dtype=np.int64), np.zeros(n, dtype=np.int64),
    )  # fmt: skip


@kernel
def _nearest(lag: Ints, moved: Ints, ticks: Ints) -> Ints:
    nearest = np.zeros((ticks.shape[0], lag.shape[1]), dtype=np.int64)
    for c in range(ticks.shape[0]):
        for p in range(lag.shape[1]):
            best = NEVER
            for d in range(ticks.shape[1]):
                finish = lag[0, p, d] + (lag[1, p, d] * moved[c] + 1023 >> 10) + ticks[c, d]
                if finish < best:
                    best = finish
                    nearest[c, p] = d
    return nearest


def _starts(owner: Ints, count: int) -> Ints:
    return np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=count))]).astype(np.int64)


def _indices(allowed: npt.NDArray[np.bool_]) -> Ints:
    """[N, R] the allowed replicas of each call, then the others, both by index."""
    return np.argsort(~allowed, axis=1, kind="stable").astype(np.int64)


def _held(problem: Problem) -> tuple[Ints, Ints]:
    segments = [held_segments(problem, d) for d in range(problem.num_decode)]
    length = np.array([len(ticks) for ticks, _ in segments], dtype=np.int64)
    held = np.zeros((2, problem.num_decode, int(length.max())), dtype=np.int64)
    for d, (ticks, use) in enumerate(segments):
        held[0, d, : length[d]], held[1, d, : length[d]] = ticks, use
    return held, length
