"""Continuum: programs that come back while their KV is pinned go first, then by the program's first entry.

Source: Continuum (arXiv 2511.02230). Label: adapted. After a call the program's KV is pinned for τ* = argmax over τ of
P(tool <= τ)·(η·queue delay + rebuild) - τ; the next call of a program that is back within τ* goes before all others,
the others by the time their program first came. Calls go to the program's replica.

Deviations: nothing is pinned in fact (prefix caches evict by last use and take no orders), so the pin orders queues
only; tool times and queue delays are learned by call kind from what snapshots show, the end of a call that ended unseen
being estimated (`_history`); rebuild is the prefill time that the held prefix saves; waiting calls are placed anew in
each epoch. η is swept (docs/policies.md).
"""

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hexsolve.policies._checks import expect_positive
from hexsolve.policies._dispatch import home_of, plan_at_home
from hexsolve.policies._history import History
from hexsolve.policy import Plan
from hexsolve.snapshot import Snapshot
from hexsolve.tables import Floats, Records

WINDOW = 128  # tool times remembered per kind of call, the latest ones
_DELAY_STEP = 0.05  # weight of the newest wait in the mean queue delay


def best_pin_ms(tool_ms: Floats, gain_ms: float) -> float:
    """τ*: argmax of P(tool <= τ)·gain - τ over the seen tool times and 0 (no pin), in ms; the smallest at a tie."""
    candidates = np.sort(np.append(tool_ms, 0.0))
    share = np.searchsorted(np.sort(tool_ms), candidates, side="right") / max(1, len(tool_ms))
    return float(candidates[np.argmax(share * gain_ms - candidates)])


@dataclass
class Continuum:
    """`eta` > 0 weighs the queue delay that a pinned program is spared."""

    eta: float = 1.0
    name: str = "continuum"
    replans: bool = True
    _history: History = field(default_factory=History, repr=False, compare=False)
    _tool_ms: dict[int, deque[float]] = field(default_factory=dict, repr=False, compare=False)  # by kind
    _pinned: dict[int, bool] = field(default_factory=dict, repr=False, compare=False)  # by serial of waiting calls
    _delay_ms: float = field(default=0.0, repr=False, compare=False)

    def __post_init__(self) -> None:
        expect_positive("eta", self.eta)

    def plan(self, snapshot: Snapshot) -> Plan:
        self._history.observe(snapshot)
        rows = snapshot.waiting
        calls = snapshot.calls[rows]
        saved = snapshot.prefill_ms[rows].mean(axis=1)
        pinned = self._pins(snapshot, calls, saved[:, 0] - saved[:, 1])
        order = np.lexsort((calls["serial"], calls["arrival_ms"], ~pinned))
        return plan_at_home(snapshot, order, home_of(snapshot), self.name)

    def _pins(self, snapshot: Snapshot, calls: Records, rebuild_ms: Floats) -> NDArray[np.bool_]:
        """Whether each waiting call came back in time; decided when it is first seen, in order of reveal."""
        pinned, kept = np.zeros(len(calls), dtype=bool), {}
        for i in np.argsort(calls["serial"]).tolist():
            serial = int(calls["serial"][i])
            known = self._pinned.get(serial)
            kept[serial] = pinned[i] = self._decide(calls[i], float(rebuild_ms[i])) if known is None else known
        waits = [snapshot.now_ms - float(calls["ready_ms"][i]) for i in np.flatnonzero(~pinned)]
        if waits:
            self._delay_ms += _DELAY_STEP * (float(np.mean(waits)) - self._delay_ms)
        self._pinned = kept
        return pinned

    def _decide(self, call: "np.void", rebuild_ms: float) -> bool:
        away_ms = float(call["revealed_ms"]) - float(self._history.done_ms[call["workflow"]])
        if not away_ms >= 0.0:  # the program's first call, or one that was revealed beside others
            return False
        seen = self._tool_ms.setdefault(int(call["kind"]), deque(maxlen=WINDOW))
        pin_ms = best_pin_ms(np.array(seen), self.eta * self._delay_ms + rebuild_ms)
        seen.append(away_ms)
        return away_ms <= pin_ms
