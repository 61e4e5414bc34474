"""Where and when KV can run out at all, given time windows. Knows `Problem` and windows; knows no solver."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hexsolve_models.objective import Ints
from hexsolve_models.problem import Problem
from hexsolve_models.windows import Windows


@dataclass(frozen=True, slots=True)
class Shortage:
    """The calls that can take part in a shortage on one decode replica, and what is held there meanwhile.

    held : (start, end, blocks) of disjoint steps, within the ticks at which everything that may decode does not fit.
    """

    decode: int
    calls: list[int]
    held: list[tuple[int, int, int]]


def shortages(problem: Problem, windows: Windows, y_options: npt.NDArray[np.bool_]) -> list[Shortage]:
    """One entry per decode replica with ticks at which the calls that may decode then, and held KV, exceed capacity.

    A call may decode on d from its earliest arrival there (`alone`) until `latest`. At every other tick, whatever is
    decided fits; and a call that is nowhere near such ticks takes no room at them.

    Parameters
    ----------
    y_options
        [N, D]: the decode replicas still open.
    """
    peak = _held_peak(problem)
    in_need = np.flatnonzero(problem.kv_blocks @ y_options + peak > problem.kv_capacity)
    first, until = earliest_starts(problem, windows), np.array(windows.latest, dtype=np.int64)
    found = (_shortage(problem, until, first, d, np.flatnonzero(y_options[:, d])) for d in in_need.tolist())
    return [shortage for shortage in found if shortage is not None]


def held_in_the_way(problem: Problem) -> npt.NDArray[np.bool_]:
    """[N, D]: the call does not fit beside what is held at most, so held KV may delay its decode."""
    in_the_way: npt.NDArray[np.bool_] = problem.kv_blocks[:, None] > problem.kv_capacity - _held_peak(problem)
    return in_the_way


def earliest_starts(problem: Problem, windows: Windows) -> Ints:
    """[N, D] no decision starts the decode of a call earlier: its finish alone there less the ticks it takes alone.

    Those are the ones `standalone` counts: crowding by the calls bound to the replica is in both.
    """
    bound_here = np.bincount(problem.locked_decode[~problem.is_free], minlength=problem.num_decode)
    beside = np.maximum(0, bound_here[None, :] + problem.is_free[:, None] - problem.uncrowded_calls)
    starts: Ints = windows.alone.via_decode - problem.decode_ticks - problem.crowding_ticks * beside
    return starts


def _shortage(problem: Problem, until: Ints, first: Ints, d: int, calls: Ints) -> Shortage | None:
    steps = problem.flat
    here = slice(int(steps.held_from[d]), int(steps.held_from[d + 1]))
    first, until = first[calls, d], until[calls]
    ticks = np.unique(np.concatenate([steps.held_tick[here], first, until]))
    held = steps.held_use[here][np.searchsorted(steps.held_tick[here], ticks, side="right") - 1]
    may_decode = (first[:, None] <= ticks) & (ticks < until[:, None])  # [call, step]
    is_short = may_decode.any(axis=0) & (problem.kv_blocks[calls] @ may_decode + held > problem.kv_capacity[d])
    if not is_short.any():
        return None
    concerned = calls[may_decode[:, is_short].any(axis=1)]
    blocks = np.where(is_short, held, 0)
    changes = np.flatnonzero(np.diff(blocks, prepend=0))  # ends at 0 blocks: after the last window nothing is short
    rows = zip(ticks[changes].tolist(), ticks[changes[1:]].tolist(), blocks[changes].tolist(), strict=False)
    return Shortage(d, concerned.tolist(), [row for row in rows if row[2]])


def _held_peak(problem: Problem) -> Ints:
    steps = problem.flat
    peak: Ints = np.maximum.reduceat(steps.held_use, steps.held_from[:-1])
    return peak
