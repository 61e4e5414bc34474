"""Llumnix-style dispatch for disaggregated serving: fill decode replicas up to the pace that the SLO allows.

Source: Llumnix (OSDI '24), whose dispatch by freeness is carried over to prefill and decode pools as in FIELD's
reading. Label: inspired. Decode: the highest predicted time per output token that is still below `headroom`·SLO, so
that other replicas stay free for bursts; prefill: lowest predicted time to first token. First come, first served.

Deviations: no live migration, the core of the paper, since the cluster has none; the SLO is `tpot_scale` times the
fastest replica's step alone (no source gives one; docs/policies.md has the sweep); where no replica is below it, the
fastest is taken.
"""

from dataclasses import dataclass

import numpy as np

from hexsolve.policies._checks import expect_positive, expect_share
from hexsolve.policies._dispatch import Outlook, dispatch
from hexsolve.policies.mooncake import fastest_step_ms
from hexsolve.policy import Plan
from hexsolve.snapshot import Snapshot


@dataclass(frozen=True)
class LlumnixPd:
    """`tpot_scale` > 0: the SLO over the fastest step; `headroom` in [0, 1]: share of the SLO that may be used."""

    tpot_scale: float = 1.5
    headroom: float = 0.85
    name: str = "llumnix-pd"
    replans: bool = False

    def __post_init__(self) -> None:
        expect_positive("tpot_scale", self.tpot_scale)
        expect_share("headroom", self.headroom)

    def plan(self, snapshot: Snapshot) -> Plan:
        serials = snapshot.calls["serial"][snapshot.waiting]
        return dispatch(snapshot, serials, self._choose, self.name)

    def _choose(self, outlook: Outlook) -> tuple[int, int]:
        p = int(np.argmin(outlook.free_ms + outlook.prefill_ms))
        token_ms = outlook.token_ms(p)
        below = token_ms < self.headroom * self.tpot_scale * fastest_step_ms(outlook.snapshot)
        if not below.any():
            return p, int(np.argmin(token_ms))
        return p, int(np.argmax(np.where(below, token_ms, -np.inf)))
