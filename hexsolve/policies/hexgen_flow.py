"""Hexgen-Flow: dispatch by balance of speed and queue, local queues by urgency against per-call budgets.

Source: Hexgen-Flow (arXiv 2505.05286) §4 (workload-balanced dispatch, urgency-guided queues). Label: adapted. Dispatch:
max of α·T_base/T_e - (1-α)·W_e/W_base over pairs, T_e the call's own time and W_e its wait there, base values the means
over pairs. Queue: largest U = T_e(step) - (slo_call - waited) first, slo_call = what is left of the workflow's budget
times T̄(step)/(T̄(step) + Σ T̄(remaining template steps)).

Deviations: the templates' remaining times are learned from workflows that are done, by kind and step (the paper knows
the stages of text-to-SQL); the budget is `slo_scale` times revealed horizon plus learned rest; the own time is that of
the standalone schedule; pairs of prefill and decode replicas instead of single instances. α is swept
(docs/policies.md); the paper tunes it by simulation.
"""

from dataclasses import dataclass, field

import numpy as np

from hexsolve.policies._checks import expect_positive, expect_share
from hexsolve.policies._dispatch import Outlook, dispatch
from hexsolve.policies._history import Completed, History
from hexsolve.policy import Plan
from hexsolve.snapshot import Snapshot, alone_ms
from hexsolve.tables import Floats, Ints, Records

MOST_STEPS = 256  # of a workflow that are remembered


@dataclass
class Templates:
    """Mean service that follows a step of some kind, learned from workflows that are done."""

    _open: dict[int, list[tuple[tuple[int, int], float]]] = field(default_factory=dict)  # by workflow slot
    _after: dict[tuple[int, int], tuple[int, float]] = field(default_factory=dict)  # (kind, step) -> count, mean ms

    def learn(self, completed: Completed, replaced: Ints) -> None:
        """Note completed calls; a workflow is done once another one has its slot."""
        for workflow, kind, step, service_ms in zip(
            completed.workflow.tolist(),
            completed.kind.tolist(),
            completed.step.tolist(),
            completed.service_ms.tolist(),
            strict=True,
        ):
            steps = self._open.setdefault(workflow, [])
            if len(steps) < MOST_STEPS:
                steps.append(((kind, step), service_ms))
        for workflow in replaced.tolist():
            self._close(self._open.pop(workflow, []))

    def after_ms(self, calls: Records) -> Floats:
        """Mean service that follows each call in its workflow; 0 where nothing is known."""
        keys = zip(calls["kind"].tolist(), calls["step"].tolist(), strict=True)
        return np.array([self._after.get(key, (0, 0.0))[1] for key in keys])

    def _close(self, steps: list[tuple[tuple[int, int], float]]) -> None:
        rest_ms = 0.0
        for key, service_ms in reversed(steps):
            count, mean = self._after.get(key, (0, 0.0))
            self._after[key] = count + 1, mean + (rest_ms - mean) / (count + 1)
            rest_ms += service_ms


@dataclass
class HexgenFlow:
    """`alpha` in [0, 1]: weight of speed against wait in the dispatch; `slo_scale` > 0: budget over expected time."""

    alpha: float = 0.5
    slo_scale: float = 2.0
    name: str = "hexgen-flow"
    replans: bool = True
    _history: History = field(default_factory=History, repr=False, compare=False)
    _templates: Templates = field(default_factory=Templates, repr=False, compare=False)

    def __post_init__(self) -> None:
        expect_share("alpha", self.alpha)
        expect_positive("slo_scale", self.slo_scale)

    def plan(self, snapshot: Snapshot) -> Plan:
        self._templates.learn(*self._history.observe(snapshot))
        calls = snapshot.calls[snapshot.waiting]
        rank = np.empty(len(calls), dtype=np.int64)
        rank[np.lexsort((calls["serial"], -self._urgency_ms(snapshot, calls)))] = np.arange(len(calls))
        return dispatch(snapshot, rank, self._choose, self.name)

    def _urgency_ms(self, snapshot: Snapshot, calls: Records) -> Floats:
        own, after = alone_ms(calls), self._templates.after_ms(calls)
        due = calls["arrival_ms"] + self.slo_scale * (calls["horizon_ms"] + after)
        slo_call = (due - calls["ready_ms"]) * own / (own + after)
        urgency: Floats = own - (slo_call - (snapshot.now_ms - calls["ready_ms"]))
        return urgency

    def _choose(self, outlook: Outlook) -> tuple[int, int]:
        pairs = np.flatnonzero(np.isfinite(outlook.finish_ms))
        finish = outlook.finish_ms.ravel()[pairs]
        pair = outlook.snapshot.tables.pair
        ahead = outlook.prefill_ms[:, None] + pair[0] + pair[1] * outlook.call["input_tokens"]
        own = ahead.ravel()[pairs] + finish - outlook.start_ms.ravel()[pairs]
        wait = np.maximum(0.0, finish - outlook.snapshot.now_ms - own)
        score = self.alpha * own.mean() / own - (1.0 - self.alpha) * wait / max(1e-9, float(wait.mean()))
        p, d = divmod(int(pairs[np.argmax(score)]), outlook.finish_ms.shape[1])
        return p, d
