"""Mooncake Conductor: prefill where the first token is predicted first, decode on the lightest that keeps the pace.

Source: Mooncake (FAST '25) Algorithm 1. Label: adapted. Prefill: least queue + prefill, given the prefix held there.
Decode: the lightest load whose predicted time between tokens is within the SLO. First come, first served.

Deviations: nothing is rejected, since every workflow has to be finished (the rule's early rejection is left out): where
no decode replica keeps the pace, the fastest is taken; prefixes are not copied between prefill replicas, which this
cluster cannot do; load is the share of KV blocks in use; the time between tokens of the SLO is `tbt_scale` times the
fastest replica's step in a batch of one, since no source gives one (docs/policies.md has the sweep).
"""

from dataclasses import dataclass

import numpy as np

from hexsolve.policies._checks import expect_positive
from hexsolve.policies._dispatch import Outlook, dispatch
from hexsolve.policy import Plan
from hexsolve.snapshot import Snapshot


@dataclass(frozen=True)
class Mooncake:
    """`tbt_scale` > 0: time between tokens of the SLO over the fastest replica's step in a batch of one."""

    tbt_scale: float = 1.5
    name: str = "mooncake"
    replans: bool = False

    def __post_init__(self) -> None:
        expect_positive("tbt_scale", self.tbt_scale)

    def plan(self, snapshot: Snapshot) -> Plan:
        serials = snapshot.calls["serial"][snapshot.waiting]
        return dispatch(snapshot, serials, self._choose, self.name)

    def _choose(self, outlook: Outlook) -> tuple[int, int]:
        p = int(np.argmin(outlook.free_ms + outlook.prefill_ms))
        snapshot = outlook.snapshot
        token_ms = outlook.token_ms(p)
        keeps_pace = token_ms <= self.tbt_scale * fastest_step_ms(snapshot)
        if not keeps_pace.any():
            return p, int(np.argmin(token_ms))
        load = outlook.loads.decode_blocks / snapshot.decodes["capacity_blocks"]
        return p, int(np.argmin(np.where(keeps_pace, load, np.inf)))


def fastest_step_ms(snapshot: Snapshot) -> float:
    """Decode step in ms of a batch of one without context on the fastest replica."""
    return float(snapshot.tables.grid[:, 0, 0].min())
