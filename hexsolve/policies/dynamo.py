"""Dynamo KV router: least prefill load net of the cached overlap, then least decode load.

Source: NVIDIA Dynamo's KV router (its documentation: prefill load scale 1, overlap credit 1, temperature 0; queue
policies fcfs and weighted shortest prompt). Label: adapted. cost = prefill_scale·max(active + prompt - overlap, 0) +
decode blocks, the first term on prefill and the second on decode replicas in a disaggregated deployment.

Deviations: with `by_time` both terms are in the time that replica needs for them (projected end of prefill, projected
finish), since its tokens and blocks take unequal replicas for equal; `by_time=False` is the plain rule. The decode
replica is chosen with the prefill replica, not after it. Overlaps are those replicas really hold.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from hexsolve.errors import InputError
from hexsolve.policies._dispatch import Outlook, dispatch
from hexsolve.policy import Plan
from hexsolve.snapshot import Snapshot


@dataclass(frozen=True)
class Dynamo:
    """`queue` is the order of waiting calls: as revealed, or shortest prompt first."""

    queue: Literal["fcfs", "wspt"] = "fcfs"
    by_time: bool = True
    name: str = "dynamo"
    replans: bool = False

    def __post_init__(self) -> None:
        if self.queue not in ("fcfs", "wspt"):
            raise InputError(f"queue = {self.queue!r}: expected fcfs or wspt")

    def plan(self, snapshot: Snapshot) -> Plan:
        calls = snapshot.calls[snapshot.waiting]
        rank = calls["serial"].copy()
        if self.queue == "wspt":
            rank += (calls["input_tokens"] - calls["cached_tokens"]) << 40
        return dispatch(snapshot, rank, self._choose, self.name)

    def _choose(self, outlook: Outlook) -> tuple[int, int]:
        if self.by_time:
            p = int(np.argmin(outlook.free_ms + outlook.prefill_ms))
            return p, outlook.decode_for(p)
        new = np.maximum(outlook.loads.prefill_tokens + outlook.call["input_tokens"] - outlook.held, 0)
        p = int(np.argmin(np.where(np.isfinite(outlook.free_ms), new, np.inf)))
        return p, int(np.argmin(np.where(outlook.fits, outlook.loads.decode_blocks, np.inf)))
