"""Splitwise: join the queue with the least pending tokens, in the prompt pool and in the token pool.

Source: Splitwise (ISCA '24) §4.2, cluster-level scheduler: join the shortest queue by pending tokens. Label: adapted.
Fast machines for prompts and others for tokens is what the cluster's pools already are. First come, first served.

Deviations: the pools are fixed, there is no mixed pool; with `by_time` a queue counts in the time that replica needs
for it and the call's own tokens, decoded as one batch (the paper's machines of one pool are equal, here they are not);
`by_time=False` is the plain rule.
"""

from dataclasses import dataclass

import numpy as np

from hexsolve.policies._dispatch import Outlook, dispatch
from hexsolve.policy import Plan
from hexsolve.snapshot import Snapshot


@dataclass(frozen=True)
class Splitwise:
    """Least pending tokens, in time or plain."""

    by_time: bool = True
    name: str = "splitwise"
    replans: bool = False

    def plan(self, snapshot: Snapshot) -> Plan:
        serials = snapshot.calls["serial"][snapshot.waiting]
        return dispatch(snapshot, serials, self._choose, self.name)

    def _choose(self, outlook: Outlook) -> tuple[int, int]:
        up = np.isfinite(outlook.free_ms)
        loads = outlook.loads
        if not self.by_time:
            p = int(np.argmin(np.where(up, loads.prefill_tokens, np.inf)))
            return p, int(np.argmin(np.where(outlook.fits, loads.decode_tokens, np.inf)))
        p = int(np.argmin(outlook.free_ms + outlook.prefill_ms))
        steps = (loads.decode_tokens + outlook.call["predicted_tokens"]) / (loads.decode_calls + 1)
        return p, int(np.argmin(steps * outlook.token_ms(p)))
