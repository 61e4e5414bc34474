"""Autellix: least attained service of the program first, in levels, with promotion against starvation.

Source: Autellix (arXiv 2502.13965) §4.2 (PLAS, ATLAS, levels, anti-starvation) and §5 (load balancer). Label: adapted.
PLAS: priority = Σ service of the program's completed calls. ATLAS: the longest critical path of completed calls behind
it. Priorities are cut into K levels, first come, first served within a level; a program whose wait over service reaches
β goes to the top level. Prompts of at most 2048 tokens go anywhere, longer ones to the program's replica.

Deviations: calls are not demoted or preempted while they run; levels have geometric bounds (the paper leaves bounds and
K open, docs/policies.md has the sweep); "least loaded" is the earliest projected finish; the program's replica is the
prefill replica that holds its prefix, since decode replicas keep nothing; waiting calls are placed anew in each epoch.
PLAS estimates service that ended unseen (`_history`). ATLAS reads the path from the standalone schedule, which counts
observed service and, unlike the paper's, tool delays; like the paper's process table it keeps one value per program,
the largest.
"""

from dataclasses import dataclass, field

import numpy as np

from hexsolve.policies._checks import expect_positive
from hexsolve.policies._dispatch import home_of, plan_at_home
from hexsolve.policies._history import History
from hexsolve.policy import Plan
from hexsolve.snapshot import Snapshot
from hexsolve.tables import Floats, Ints, Records

LONG_PROMPT_TOKENS = 2048  # §5


@dataclass(frozen=True)
class Levels:
    """K levels with bounds first_ms·2^k; β = wait over service that brings a program to the top. All > 0."""

    count: int = 2
    first_ms: float = 1000.0
    beta: float = 4.0

    def __post_init__(self) -> None:
        for name in ("count", "first_ms", "beta"):
            expect_positive(name, getattr(self, name))

    def of(self, attained_ms: Floats, waited_ms: Floats) -> Ints:
        """Level of each call, 0 first."""
        bounds = self.first_ms * 2.0 ** np.arange(self.count - 1)
        level = np.searchsorted(bounds, attained_ms, side="right")
        starved = waited_ms >= self.beta * np.maximum(attained_ms, self.first_ms)
        return np.where(starved, 0, level).astype(np.int64)


@dataclass
class AutellixPlas:
    """Program-level attained service: for single-threaded programs."""

    levels: Levels = field(default_factory=Levels)
    long_prompt_tokens: int = LONG_PROMPT_TOKENS
    name: str = "autellix-plas"
    replans: bool = True
    _history: History = field(default_factory=History, repr=False, compare=False)

    def plan(self, snapshot: Snapshot) -> Plan:
        self._history.observe(snapshot)
        calls = snapshot.calls[snapshot.waiting]
        attained = self._history.attained_ms[calls["workflow"]]
        return _plan(snapshot, calls, attained, self.levels, self.long_prompt_tokens, self.name)


@dataclass(frozen=True)
class AutellixAtlas:
    """Longest observed critical path: for programs with parallel calls."""

    levels: Levels = field(default_factory=Levels)
    long_prompt_tokens: int = LONG_PROMPT_TOKENS
    name: str = "autellix-atlas"
    replans: bool = True

    def plan(self, snapshot: Snapshot) -> Plan:
        calls = snapshot.calls[snapshot.waiting]
        path = np.zeros(1 + int(calls["workflow"].max(initial=0)))
        np.maximum.at(path, calls["workflow"], calls["alone_start_ms"])
        return _plan(snapshot, calls, path[calls["workflow"]], self.levels, self.long_prompt_tokens, self.name)


def _plan(snapshot: Snapshot, calls: Records, attained_ms: Floats, levels: Levels, long_tokens: int, name: str) -> Plan:
    level = levels.of(attained_ms, snapshot.now_ms - calls["ready_ms"])
    order = np.lexsort((calls["serial"], calls["ready_ms"], level))
    home = np.where(calls["input_tokens"] > long_tokens, home_of(snapshot), -1)
    return plan_at_home(snapshot, order, home, name)
