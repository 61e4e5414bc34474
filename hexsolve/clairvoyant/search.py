"""Large neighbourhood search over fixed priorities, every trial a whole simulation. Knows schedules and objectives.

A node is a base key for every call and an offset for every workflow (`moves`). The rules give the first nodes, with and
without workflows that are sacrificed; then each objective in turn lets `moves` change its node. The blamed ones come
first: squeaky wheels (Joslin and Clements, JAIR 10, 1999) are the workflows that hold the objective up. A trial is
taken by late acceptance (Burke and Bykov, EJOR 258, 2017): if it is no worse than the present node or than that of some
trials ago. Deterministic by seed but for where a limit in seconds stops it.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

import numpy as np

from hexsolve.clairvoyant.foresight import Foresight
from hexsolve.clairvoyant.moves import Blame, Node, begin, neighbour
from hexsolve.clairvoyant.objectives import Objective
from hexsolve.clairvoyant.rules import orders, sacrifices, slack_key
from hexsolve.errors import InputError
from hexsolve.tables import Floats, Ints

_MEMORY = 15  # trials that late acceptance looks back
_COARSE, _FINE = (1.0, 0.8, 0.65), (1.1, 1.04)  # factors on what is reached, and around the best of those
_RESTART = 120  # trials of an objective without a better value before its node is the best one again

Simulate = Callable[[Node], Floats]
"""A node carried out: stretches f8[W]."""


@dataclass(frozen=True)
class Limits:
    """When to stop, whichever comes first: `seconds` of wall time, `runs` simulations; one of them has to be finite."""

    seconds: float = inf
    runs: float = inf

    def __post_init__(self) -> None:
        if not (self.seconds >= 0 and self.runs >= 0 and min(self.seconds, self.runs) < inf):
            raise InputError(f"limits: expected seconds or runs >= 0, one of them finite, got {self}")


@dataclass(frozen=True)
class Step:
    """A better value was found: `at_s` seconds and `runs` simulations after the start, by `origin`."""

    at_s: float
    runs: int
    value: float
    origin: str


@dataclass(eq=False)
class Best:
    """The best that is known for an objective; `steps` are the values on the way, the last is the best."""

    objective: Objective
    value: float = inf
    stretches: Floats = field(default_factory=lambda: np.empty(0))
    node: Node | None = None
    steps: list[Step] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Search:
    """What came of it: the best per objective by name, and how many simulations it took."""

    best: dict[str, Best]
    runs: int
    seconds: float


def find_schedules(
    ahead: Foresight,
    simulate: Simulate,
    objectives: Sequence[Objective],
    limits: Limits,
    *,
    known: Mapping[str, Floats] | None = None,
    targets: Mapping[str, float] | None = None,
    num_replicas: tuple[int, int] = (1, 1),
    seed: int = 0,
) -> Search:
    """Search until a limit, or until every objective has reached its target.

    Parameters
    ----------
    known : stretches f8[W] of runs that are there already, by what made them (policies).
    targets : lower bounds by objective; one that is reached is not searched any further.
    num_replicas : prefill and decode replicas, for moves that pin calls.
    """
    run = _Run(ahead, simulate, objectives, limits, targets or {}, num_replicas, np.random.default_rng(seed))
    for origin, stretches in (known or {}).items():
        run.note(origin, None, np.asarray(stretches, dtype=np.float64))
    run.rules()
    run.improve()
    return Search({best.objective.name: best for best in run.best}, run.runs, run.elapsed_s)


class _Run:
    """The state of one search."""

    def __init__(
        self,
        ahead: Foresight,
        simulate: Simulate,
        objectives: Sequence[Objective],
        limits: Limits,
        targets: Mapping[str, float],
        num_replicas: tuple[int, int],
        rng: np.random.Generator,
    ) -> None:
        self.ahead, self.limits, self.rng, self.num_replicas = ahead, limits, rng, num_replicas
        self._simulate = simulate
        self.best = [Best(objective) for objective in objectives]
        self.climbs = [_Climb(best, targets.get(best.objective.name, -inf)) for best in self.best]
        self.runs = 0
        self._started_s = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._started_s

    @property
    def is_over(self) -> bool:
        enough = self.elapsed_s >= self.limits.seconds or self.runs >= self.limits.runs
        return enough or all(climb.is_done for climb in self.climbs)

    def note(self, origin: str, node: Node | None, stretches: Floats) -> None:
        """Every run counts for every objective."""
        for climb in self.climbs:
            best = climb.best
            value = best.objective.value(stretches)
            if value < best.value:
                best.value, best.stretches, best.node = value, stretches, node
                best.steps.append(Step(self.elapsed_s, self.runs, value, origin))
            if node is not None:
                climb.offer(node, stretches)

    def trial(self, origin: str, node: Node) -> Floats:
        self.runs += 1
        stretches = self._simulate(node)
        self.note(origin, node, stretches)
        return stretches

    def rules(self) -> None:
        """Each order; then, for each number of workflows that may be sacrificed, slack around what is reached."""
        for name, key, unit in orders(self.ahead):
            if self.is_over:
                return
            self.trial(name, begin(self.ahead, key, unit))
        width = self.ahead.num_workflows
        for count, climb in {width - c.best.objective.num_counted(width): c for c in self.climbs}.items():
            nobody = np.empty(0, dtype=np.int64)
            for how, dropped in sacrifices(self.ahead, count) if count else (("", nobody),):
                self._line(climb, f"slack, sacrificed: {how}" if how else "slack", dropped)

    def _line(self, climb: "_Climb", origin: str, dropped: Ints) -> None:
        """The α of all due dates by itself: downwards from what is reached, then finer around the best."""
        guides: dict[float, float] = {}
        level = climb.level

        def guide_at(factor: float) -> float:
            if factor not in guides and not (self.is_over or climb.is_done):
                node = begin(self.ahead, slack_key(self.ahead, level * factor), self.ahead.reference)
                guides[factor] = climb.best.objective.guide(self.trial(origin, node.sacrifice(dropped)))
            return guides.get(factor, inf)

        best = min(_COARSE, key=guide_at)
        for step in _FINE:
            best = min((best, best * step, best / step), key=guide_at)

    def improve(self) -> None:
        """Neighbours of each objective's node in turn."""
        width = self.ahead.num_workflows
        alike = {(c.best.objective.num_counted(width), c.best.objective.focus): c for c in reversed(self.climbs)}
        climbs = [climb for climb in self.climbs if climb in alike.values()]  # of a few workflows, Req99 is the maximum
        turn = 0
        while not self.is_over:
            climb = climbs[turn % len(climbs)]
            turn += 1
            if climb.is_done or climb.node is None:
                continue
            node, origin = neighbour(self.ahead, climb.node, climb.stretches, climb.blame, self.num_replicas, self.rng)
            climb.consider(node, self.trial(origin, node))


class _Climb:
    """One objective's walk."""

    def __init__(self, best: Best, target: float) -> None:
        self.best, self._target = best, target
        self.node: Node | None = None
        self.stretches: Floats = np.empty(0)
        self._guide = self._top_guide = inf
        self._top: tuple[Node, Floats] | None = None
        self._trials = 0
        self._begin_at_top()

    @property
    def is_done(self) -> bool:
        """Whether the bound is reached."""
        return self.best.value <= self._target

    @property
    def blame(self) -> Blame:
        """Who is to be changed."""
        objective = self.best.objective
        return Blame(objective.num_counted(len(self.stretches)), objective.focus)

    @property
    def level(self) -> float:
        """The largest stretch that counts."""
        counted = self.best.objective.num_counted(len(self.stretches))
        return float(np.sort(self.stretches)[counted - 1])

    def offer(self, node: Node, stretches: Floats) -> None:
        """A node of whatever origin; it is where this walk goes on if it is the best of all so far."""
        guide = self.best.objective.guide(stretches)
        if guide < self._top_guide:
            self._top_guide, self._top = guide, (node, stretches)
            self._begin_at_top()

    def consider(self, node: Node, stretches: Floats) -> None:
        """A neighbour of this walk's node."""
        guide = self.best.objective.guide(stretches)
        place = self._trials % _MEMORY
        self._trials += 1
        self._idle += 1
        if guide <= self._guide or guide <= self._memory[place]:
            self._move(node, stretches, guide)
        self._memory[place] = self._guide
        if self._idle >= _RESTART:
            self._begin_at_top()

    def _begin_at_top(self) -> None:
        if self._top is not None:
            self._move(*self._top, self._top_guide)
        self._memory, self._idle = [self._top_guide] * _MEMORY, 0

    def _move(self, node: Node, stretches: Floats, guide: float) -> None:
        self.node, self.stretches, self._guide = node, stretches, guide
