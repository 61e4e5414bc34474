"""HexAGenT's greedy on what is known of whole workflows: largest marginal cost first, joint choice of the pair.

Source: ours. The list plan of HexAGenT (arXiv 2605.16637 §4-5) with another order: R counts the expected rest of the
workflow and its expected whole makespan, and a call comes first if a ms more of it costs most of Σ R^8, which prefers
short workflows among equally stretched ones. Without any hint it is HexAGenT's own order.
"""

from dataclasses import dataclass

from hexsolve.listplan import plan_by_marginal_cost, plan_by_risk
from hexsolve.policy import Plan
from hexsolve.snapshot import Snapshot


@dataclass(frozen=True)
class Lookahead:
    """Greedy by marginal cost where somebody has declared anything; `exponent` k > 0 of R^k / H."""

    exponent: float = 7.0
    name: str = "lookahead"
    replans: bool = True

    def plan(self, snapshot: Snapshot) -> Plan:
        """Place and order every waiting call."""
        if not snapshot.has_outlook:
            return plan_by_risk(snapshot)
        return plan_by_marginal_cost(snapshot, self.exponent)
