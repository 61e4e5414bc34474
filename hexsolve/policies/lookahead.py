"""Lookahead: the workflow first to which a ms more costs most for the prefill it takes, each call where it ends first.

Source: ours. HexAGenT's risk (arXiv 2605.16637 eq. 2) with what is expected of the whole workflow, declared or learned,
and without the queues: R = (elapsed + own service + rest) / whole, all standalone. A ms costs (R + wait)^k / whole of
Σ (R + wait)^(k+1); `wait` is for what will be waited yet. A projected wait in R, as HexAGenT has it, weighs most where
little is revealed: fresh workflows come first. The cost is divided by a power of the call's prefill time where the most
of its prefix is held: the generalised cμ rule (van Mieghem, Ann. Appl. Probab. 5, 1995) has the power 1, which is best
for means; less keeps the tails.
"""

from dataclasses import dataclass

import numpy as np

from hexsolve.listplan import plan_in_order
from hexsolve.policies._checks import expect_positive, expect_share
from hexsolve.policy import Plan
from hexsolve.snapshot import Snapshot, prefill_times
from hexsolve.stretch_cost import URGENCY, WAIT, ratios_if_alone


@dataclass(frozen=True)
class Lookahead:
    """`exponent` k and `wait` (in units of R), both > 0; `shortness`, power of the prefill time, in [0, 1].

    docs/lookahead.md has the sweeps.
    """

    exponent: float = URGENCY
    wait: float = WAIT
    shortness: float = 0.5
    name: str = "lookahead"
    replans: bool = True

    def __post_init__(self) -> None:
        expect_positive("exponent", self.exponent)
        expect_positive("wait", self.wait)
        expect_share("shortness", self.shortness)

    def plan(self, snapshot: Snapshot) -> Plan:
        """Place and order every waiting call."""
        rows, (_, whole_ms) = snapshot.waiting, snapshot.outlook
        # Not below 1 ms: fully reused prompts are all short. Where no replica is up, all are infinite: price 0.
        prefill_ms = np.maximum(1.0, prefill_times(snapshot, rows).min(axis=1))
        price = (ratios_if_alone(snapshot, rows) + self.wait) ** self.exponent / whole_ms[rows]
        price /= prefill_ms**self.shortness
        order = np.lexsort((snapshot.calls["serial"][rows], -price))
        return plan_in_order(snapshot, order, provenance=self.name)
