"""Which starts an optimum can use, cut into slots. Knows `Problem` and its windows; knows no solver.

Proofs in models/README.md §8.
"""

from bisect import bisect_left
from dataclasses import dataclass, fields, replace
from math import inf

import numpy as np

from hexsolve_models.bounds import NEVER
from hexsolve_models.decision import Decision
from hexsolve_models.grouped import FAR, least, ragged
from hexsolve_models.objective import Ints
from hexsolve_models.problem import RATE_BLOCKS, Problem
from hexsolve_models.windows import Options, Windows, options, time_windows

LEAST_GROWTH, MOST_GROWTH = 1.1, 3.0  # of slots, where the number of starts decides
MOST_LEVELS = 8
MOST_COLUMNS = 2_000_000  # beyond this a model would not fit memory


class Slots:
    """Consecutive slots from tick 0 on, the first of `ticks` ticks, each following one `growth` times as long.

    Lengths are rounded down; with growth there are slots up to `last`, the last one open-ended.
    """

    def __init__(self, ticks: int, growth: float = 1.0, last: int = 0) -> None:
        self.ticks, self.growth = ticks, growth
        begin, length = [0], float(ticks)
        while growth > 1.0 and begin[-1] <= last:
            begin.append(begin[-1] + int(length))
            length *= growth
        self._begin = np.array(begin, dtype=np.int64)

    @property
    def is_exact(self) -> bool:
        return self.ticks == 1 and self.growth == 1.0

    def of(self, tick: Ints) -> Ints:
        """The slot of each tick; -1 or less before tick 0."""
        return tick // self.ticks if self.growth == 1.0 else np.searchsorted(self._begin, tick, side="right") - 1

    def first(self, slot: Ints) -> Ints:
        return slot * self.ticks if self.growth == 1.0 else self._begin[slot]

    def last(self, slot: Ints) -> Ints:
        """Last tick of each slot, >= -1."""
        if self.growth == 1.0:
            return (slot + 1) * self.ticks - 1
        return np.append(self._begin, FAR)[slot + 1] - 1


WHOLE = Slots(2**40)  # one slot for all
TICKS = Slots(1)  # one for each


@dataclass(frozen=True)
class Detail:
    """How much of a problem a time-indexed model keeps; see `formulations.milp_slots.build`.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    slot_ticks: int | None = None
    growth: float | None = None
    max_columns: int = 4_000
    num_levels: int | None = None
    prefill_only: bool | None = None

    def __post_init__(self) -> None:
        for name in ("slot_ticks", "growth", "max_columns", "num_levels"):
            value = getattr(self, name)
            if value is not None and not 1 <= value < inf:
                raise ValueError(f"{name} = {value}: expected a number >= 1")


@dataclass(frozen=True, eq=False)
class Starts:
    """One row per (call, replica, level, interval) in which a stage of the call may start; int64 arrays of one length.

    Attributes
    ----------
    call, replica : indices; sorted by call.
    level : of crowding, see `Crowding`; 0 for prefills.
    anchor, slot : slots are counted from tick `anchor` on, the first is 0.
    low, high : the start is a tick of low..high.
    ticks : shortest duration of the stage.
    after, floor : the call's decode finishes no earlier than low + after, and no earlier than floor.
    """

    call: Ints
    replica: Ints
    level: Ints
    anchor: Ints
    slot: Ints
    low: Ints
    high: Ints
    ticks: Ints
    after: Ints
    floor: Ints

    @property
    def size(self) -> int:
        return int(self.call.size)

    @property
    def finish(self) -> Ints:
        """Earliest decode finish of the call with such a start."""
        finish: Ints = np.maximum(self.low + self.after, self.floor)
        return finish

    def rows(self, index: Ints) -> "Starts":
        return Starts(*(getattr(self, field.name)[index] for field in fields(self)))

    def num_cut(self, slots: Slots) -> int:
        """Rows of `cut(slots)`."""
        return int((slots.of(self.high - self.anchor) - slots.of(self.low - self.anchor) + 1).sum())

    def cut(self, slots: Slots) -> "Starts":
        """The same starts, every interval cut into slots that begin at its anchor."""
        row, slot = ragged(slots.of(self.low - self.anchor), slots.of(self.high - self.anchor))
        s = self.rows(row)
        low, high = np.maximum(s.anchor + slots.first(slot), s.low), np.minimum(s.anchor + slots.last(slot), s.high)
        return Starts(s.call, s.replica, s.level, s.anchor, slot, low, high, s.ticks, s.after, s.floor)


@dataclass(frozen=True, eq=False)
class Crowding:
    """By how many calls a decode replica is too full, in levels.

    lowest : for each replica the smallest excess of every level, ascending.
    most : [D] the largest excess there can be.
    """

    lowest: list[Ints]
    most: Ints

    def highest(self, d: int) -> Ints:
        """The largest excess of every level of d."""
        return np.append(self.lowest[d][1:] - 1, self.most[d])

    def level(self, d: int, excess: int) -> int:
        return max(0, int(np.searchsorted(self.lowest[d], excess, side="right")) - 1)

    @property
    def is_exact(self) -> bool:
        """Every excess has its own level."""
        return all((self.lowest[d] == self.highest(d)).all() for d in range(self.most.size))


@dataclass(frozen=True, eq=False)
class Homes:
    """One row per (call, decode replica, level) where a call may decode; int64 arrays of one length.

    delay : at least so much later than its starts say does the call finish there.
    """

    call: Ints
    replica: Ints
    level: Ints
    delay: Ints


@dataclass(frozen=True, eq=False)
class Choices:
    """The starts that some optimum no dearer than the incumbent can use, not cut yet.

    prefill, decode : of each stage; with `prefill_only`, decode has the locked calls alone, and is not cut.
    homes : with `prefill_only` and crowding, where calls decode without a start; else empty.
    kept : [N, D] decode replicas the call may still use.
    lag : [N, P, D] transfer ticks.
    """

    prefill: Starts
    decode: Starts
    homes: Homes
    prefill_only: bool
    kept: Options
    lag: Ints
    crowding: Crowding

    @property
    def span(self) -> int:
        """No stage that starts in time runs at this tick or later."""
        return max(int((starts.high + starts.ticks).max(initial=0)) for starts in (self.prefill, self.decode))

    def num_cut(self, slots: Slots) -> int:
        """Rows of both stages of `cut(slots)`, and homes."""
        return (
            self.prefill.num_cut(slots)
            + self.decode.num_cut(WHOLE if self.prefill_only else slots)
            + self.homes.call.size
        )

    def cut(self, slots: Slots) -> tuple[Starts, Starts]:
        """Prefill and decode starts in these slots."""
        return self.prefill.cut(slots), self.decode.cut(WHOLE if self.prefill_only else slots)


def fitting(problem: Problem, incumbent: Decision | None, detail: Detail) -> tuple[Choices, Slots]:
    """What may start when, and the slots: as asked for, or within `max_columns`.

    One tick per slot if that fits. Else a first slot of half a short prefill and the least growth that fits; and if
    there is no such growth, the shortest first slot with the least, or the most.

    Raises
    ------
    ValueError
        If a call cannot be placed at all, or slots that are asked for make too many columns.
    """
    blocked = problem.blocked_calls()
    if blocked:
        raise ValueError(f"calls {list(blocked[:10])} have no replica that can hold them: no model to build")
    windows = time_windows(problem, incumbent)
    if detail.slot_ticks in (None, 1) and detail.growth in (None, 1.0):
        found = choices(problem, windows, num_levels=detail.num_levels or 1, prefill_only=bool(detail.prefill_only))
        if detail.slot_ticks == 1 or found.num_cut(TICKS) <= detail.max_columns:
            found = choices(problem, windows, num_levels=detail.num_levels, prefill_only=bool(detail.prefill_only))
            if detail.slot_ticks == 1 or found.num_cut(TICKS) <= detail.max_columns:
                return _checked(found, TICKS)
    prefill_only = detail.prefill_only
    if prefill_only is None:
        prefill_only = decode_never_waits(problem) or _waits_nowhere(problem, incumbent)
    num_levels = detail.num_levels
    if num_levels is None:
        homes = max(1, int(problem.decode_allowed.sum()))
        num_levels = min(MOST_LEVELS, max(1, detail.max_columns // (4 * homes))) if prefill_only else 1
    found = choices(problem, windows, num_levels=num_levels, prefill_only=prefill_only)
    return _checked(found, _slots(found, detail))


def _slots(found: Choices, detail: Detail) -> Slots:
    def fits(ticks: int, growth: float) -> bool:
        return found.num_cut(Slots(ticks, growth, found.span)) <= detail.max_columns

    ticks, growth = detail.slot_ticks, detail.growth
    if ticks is None and growth is None:
        half = _half_a_prefill(found)
        growths = np.linspace(LEAST_GROWTH, MOST_GROWTH, 39).tolist()
        growth = growths[min(bisect_left(growths, True, key=lambda g: fits(half, g)), len(growths) - 1)]
        ticks = half if LEAST_GROWTH < growth < MOST_GROWTH else None
    rate = growth or 1.0
    ticks = ticks or 2 + bisect_left(range(2, found.span + 2), True, key=lambda t: fits(t, rate))
    return Slots(ticks, rate, found.span)


def _half_a_prefill(found: Choices) -> int:
    """Half of the first decile of the calls' quickest prefills, >= 2 ticks: shorter slots tell nothing apart."""
    _, start = np.unique(found.prefill.call, return_index=True)
    if not start.size:
        return 2
    return max(2, int(np.percentile(np.minimum.reduceat(found.prefill.ticks, start), 10)) // 2)


def _checked(found: Choices, slots: Slots) -> tuple[Choices, Slots]:
    count = found.num_cut(slots)
    if count > MOST_COLUMNS:
        raise ValueError(f"slots of {slots.ticks} ticks make {count} columns: expected at most {MOST_COLUMNS}")
    return found, slots


def _waits_nowhere(problem: Problem, incumbent: Decision | None) -> bool:
    return incumbent is not None and bool((incumbent.decode_start <= incumbent.arrival(problem)).all())


def decode_never_waits(problem: Problem) -> bool:
    """All calls together fit every replica beside what is held: decodes start on arrival."""
    asked = np.where(problem.decode_allowed, problem.kv_blocks[:, None], 0).sum(axis=0)
    held = np.maximum.reduceat(problem.flat.held_use, problem.flat.held_from[:-1])
    return bool((asked + held <= problem.kv_capacity).all())


def choices(
    problem: Problem, windows: Windows, *, num_levels: int | None = None, prefill_only: bool = False
) -> Choices:
    """Starts within the windows and, along the edges, after the earliest and before the latest of other calls.

    Parameters
    ----------
    num_levels
        Levels of crowding per decode replica; None: every excess its own, which is exact.
    prefill_only
        Leave decode starts to follow from prefill starts: each call decodes on arrival, on its best replica or, with
        crowding, where it has its home.
    """
    sources, targets = options(problem, windows, None, None)
    crowding = _crowding(problem, targets, num_levels)
    moved = problem.transfer_rate_ticks[None] * problem.transfer_blocks[:, None, None]
    lag = problem.transfer_base_ticks[None] - (-moved // RATE_BLOCKS)
    ticks = problem.decode_ticks + problem.crowding_ticks * np.array([lowest[0] for lowest in crowding.lowest])
    rest = np.where(targets[:, None, :], lag + ticks[:, None, :], NEVER).min(axis=2)  # [N, P] after the prefill
    latest = _latest(problem, windows, sources, problem.prefill_ticks + rest)
    opens = np.maximum(problem.prefill_free_tick, _opens(problem, windows)[:, None])  # [N, P]
    prefill = _prefill_starts(problem, windows, sources, opens, latest, rest)
    ready = np.where(sources[:, :, None], (opens + problem.prefill_ticks)[:, :, None] + lag, NEVER).min(axis=1)
    arrival = np.where(problem.is_free[:, None], ready, problem.release_tick[:, None])  # [N, D]
    by_home = prefill_only and problem.is_crowdable
    homes = _homes(problem, targets & by_home, sources, lag - rest[:, :, None], crowding)
    explicit, levels = targets, crowding
    if prefill_only:
        explicit, levels = targets & ~problem.is_free[:, None], _crowding(problem, targets, 1)
    decode = _decode_starts(problem, windows, explicit, arrival, latest, levels)
    if by_home:  # a delay adds to the ticks after the start, not to the earliest finish
        prefill, decode = (replace(starts, floor=np.zeros_like(starts.floor)) for starts in (prefill, decode))
    return Choices(prefill, decode, homes, prefill_only, targets, lag, crowding)


def _prefill_starts(
    problem: Problem, windows: Windows, sources: Options, opens: Ints, latest: Ints, rest: Ints
) -> Starts:
    after = problem.prefill_ticks + rest
    low, high = opens, latest[:, None] - after
    c, p = np.nonzero(sources & (low <= high))
    none = np.zeros(c.size, dtype=np.int64)
    anchor, ticks, floor = problem.prefill_free_tick[p], problem.prefill_ticks[c, p], windows.alone.via_prefill[c, p]
    return Starts(c, p, none, anchor, none, low[c, p], high[c, p], ticks, after[c, p], floor)


def _with_levels(places: Options, crowding: Crowding) -> tuple[Ints, Ints, Ints, Ints, Ints]:
    """(call, replica, level, lowest excess, highest excess) of each allowed place and level."""
    c, d = np.nonzero(places)
    levels = np.array([lowest.size for lowest in crowding.lowest])
    row, level = ragged(np.zeros_like(c), levels[d] - 1)
    c, d = c[row], d[row]
    place = (np.cumsum(levels) - levels)[d] + level
    highest = np.concatenate([crowding.highest(i) for i in range(levels.size)])
    return c, d, level, np.concatenate(crowding.lowest)[place], highest[place]


def _decode_starts(
    problem: Problem, windows: Windows, places: Options, arrival: Ints, latest: Ints, crowding: Crowding
) -> Starts:
    c, d, level, lowest, highest = _with_levels(places, crowding)
    slower, floor = problem.crowding_ticks[c, d], windows.alone.via_decode[c, d]
    ticks = problem.decode_ticks[c, d] + slower * lowest
    # Not done before `floor`, after at most decode_ticks + slower * highest ticks.
    low = np.maximum(arrival[c, d], floor - problem.decode_ticks[c, d] - slower * highest)
    high = latest[c] - ticks
    anchor = least(c, low, problem.num_calls)[c]
    starts = Starts(c, d, level, anchor, np.zeros_like(c), low, high, ticks, ticks, floor)
    return starts.rows(np.flatnonzero(low <= high))


def _homes(problem: Problem, places: Options, sources: Options, beyond: Ints, crowding: Crowding) -> Homes:
    """`beyond` [N, P, D]: transfer ticks less those that the prefill start counts for transfer and decode."""
    c, d, level, lowest, _ = _with_levels(places, crowding)
    ticks = problem.decode_ticks[c, d] + problem.crowding_ticks[c, d] * lowest
    nearest = np.where(sources[:, :, None], beyond, NEVER).min(axis=1)[c, d]
    fewest = np.array([levels[0] for levels in crowding.lowest])[d]
    delay = np.where(problem.is_free[c], nearest + ticks, problem.crowding_ticks[c, d] * (lowest - fewest))
    return Homes(c, d, level, delay)


def _opens(problem: Problem, windows: Windows) -> Ints:
    """[N] release, or when the calls it waits for are done at the earliest."""
    opens = problem.release_tick.copy()
    np.maximum.at(opens, problem.edge_after, windows.alone.finish[problem.edge_before] + problem.edge_lag)
    return opens


def _latest(problem: Problem, windows: Windows, sources: Options, after: Ints) -> Ints:
    """[N] the window's end, or early enough for the calls that wait for this one."""
    latest = np.array(windows.latest, dtype=np.int64)
    edges = list(zip(problem.edge_before.tolist(), problem.edge_after.tolist(), problem.edge_lag.tolist(), strict=True))
    place = np.argsort(problem.topological)
    for before, child, lag in sorted(edges, key=lambda edge: -place[edge[0]]):
        latest[before] = min(latest[before], latest[child] - after[child, sources[child]].min() - lag)
    return latest


def _crowding(problem: Problem, targets: Options, num_levels: int | None) -> Crowding:
    """Levels between the excess with only those calls that have no other replica, and with all that may come."""
    bound = np.maximum(1, targets[targets.sum(axis=1) == 1].sum(axis=0))  # 1: the call itself
    fewest = np.maximum(0, bound - problem.uncrowded_calls)
    most = np.maximum(fewest, targets.sum(axis=0) - problem.uncrowded_calls)
    matters = ((problem.crowding_ticks > 0) & targets).any(axis=0)
    most = np.where(matters, most, fewest)
    count = most - fewest + 1
    kept = count if num_levels is None else np.minimum(count, num_levels)
    return Crowding([low + np.arange(n) * m // n for low, n, m in zip(fewest, kept, count, strict=True)], most)
