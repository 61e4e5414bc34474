"""Cache-aware router: prefill where the longest prefix is, unless the replicas are out of balance.

Source: the SGLang gateway's `cache_aware` policy (its documentation; defaults 0.3, 64 and 1.5). Label: adapted. If the
largest load exceeds the smallest by more than `balance_abs` and by more than the factor `balance_rel`, the least loaded
replica is taken; else the one that holds the longest prefix if it matches more than `cache_threshold` of the prompt,
else the least loaded. First come, first served.

Deviations: the gateway counts requests, here load is the projected wait of the queue in ms, since replicas differ in
speed, so `balance_abs_ms` is swept (docs/policies.md); a match is what the replica really holds, not what the router's
own tree believes; decode goes to the earliest projected finish (the gateway: power of two).
"""

from dataclasses import dataclass

import numpy as np

from hexsolve.policies._checks import expect_positive, expect_share
from hexsolve.policies._dispatch import Outlook, dispatch
from hexsolve.policy import Plan
from hexsolve.snapshot import Snapshot


@dataclass(frozen=True)
class CacheAware:
    """`cache_threshold` in [0, 1]; `balance_abs_ms`, `balance_rel` > 0."""

    cache_threshold: float = 0.3
    balance_abs_ms: float = 200.0
    balance_rel: float = 1.5
    name: str = "cache-aware"
    replans: bool = False

    def __post_init__(self) -> None:
        expect_share("cache_threshold", self.cache_threshold)
        expect_positive("balance_abs_ms", self.balance_abs_ms)
        expect_positive("balance_rel", self.balance_rel)

    def plan(self, snapshot: Snapshot) -> Plan:
        serials = snapshot.calls["serial"][snapshot.waiting]
        return dispatch(snapshot, serials, self._choose, self.name)

    def _choose(self, outlook: Outlook) -> tuple[int, int]:
        load = outlook.queue_ms
        least, most = load.min(), load[np.isfinite(load)].max()
        p = int(np.argmin(outlook.free_ms + outlook.prefill_ms))
        if not (most - least > self.balance_abs_ms and most > self.balance_rel * least):
            held = np.where(np.isfinite(load), outlook.held, 0)
            if held.max() > self.cache_threshold * outlook.call["input_tokens"]:
                p = int(np.argmax(held))
        return p, outlook.decode_for(p)
