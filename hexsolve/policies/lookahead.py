"""Lookahead: the workflow first to which a ms more costs most, each call where it is projected to finish first.

Source: ours. HexAGenT's risk (arXiv 2605.16637 eq. 2) with what is expected of the whole workflow, declared or learned,
and without the queues: R = (elapsed + own service + rest) / whole, all standalone. A call comes first if a ms costs
most of Σ (R + wait)^(k+1), which prefers short workflows among equally stretched ones; `wait` is for what will be
waited yet. A projected wait in R, as HexAGenT has it, weighs most where little is revealed: fresh workflows come first.
"""

from dataclasses import dataclass

import numpy as np

from hexsolve.listplan import plan_in_order
from hexsolve.policies._checks import expect_positive
from hexsolve.policy import Plan
from hexsolve.snapshot import Snapshot
from hexsolve.stretch_cost import URGENCY, WAIT, ratios_if_alone


@dataclass(frozen=True)
class Lookahead:
    """`exponent` k and `wait` (in units of R), both > 0 (docs/lookahead.md has the sweep)."""

    exponent: float = URGENCY
    wait: float = WAIT
    name: str = "lookahead"
    replans: bool = True

    def __post_init__(self) -> None:
        expect_positive("exponent", self.exponent)
        expect_positive("wait", self.wait)

    def plan(self, snapshot: Snapshot) -> Plan:
        """Place and order every waiting call."""
        rows, (_, whole_ms) = snapshot.waiting, snapshot.outlook
        price = (ratios_if_alone(snapshot, rows) + self.wait) ** self.exponent / whole_ms[rows]
        order = np.lexsort((snapshot.calls["serial"][rows], -price))
        return plan_in_order(snapshot, order, provenance=self.name)
