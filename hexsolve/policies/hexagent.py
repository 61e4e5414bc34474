"""HexAGenT's greedy: largest projected risk first, prefill and decode chosen together.

Source: arXiv 2605.16637 §4-5, as told in FIELD.md §1. Label: faithful. Deviations: the paper's text leaves open how
decode slows down with its batch; our projection takes the step time at the batch a call joins. Large queues sort once
above `recompute_limit` waiting calls, whose value the paper does not state.
"""

from dataclasses import dataclass

from hexsolve.listplan import plan_by_risk
from hexsolve.policy import Plan
from hexsolve.snapshot import Snapshot


@dataclass(frozen=True)
class HexAgent:
    """Greedy list plan by R = ((t - a_w) + Δ) / H_w(t) (HexAGenT eq. 2)."""

    recompute_limit: int = 128
    name: str = "hexagent"
    replans: bool = True

    def plan(self, snapshot: Snapshot) -> Plan:
        return plan_by_risk(snapshot, self.recompute_limit)
