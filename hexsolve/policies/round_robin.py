"""Round robin: calls in order of reveal, prefill and decode replicas in turn.

Source: the default routing of vLLM and SGLang deployments (FIELD.md §2). Label: faithful. It projects nothing; a decode
replica that is too small for a call's KV is passed over.
"""

from dataclasses import dataclass

import numpy as np

from hexsolve.policy import Plan
from hexsolve.snapshot import Snapshot
from hexsolve.tables import WAIT_PREFILL


@dataclass(frozen=True)
class RoundRobin:
    """Turn = the call's serial number, so the policy itself has no memory."""

    name: str = "round-robin"
    replans: bool = False

    def plan(self, snapshot: Snapshot) -> Plan:
        rows = snapshot.waiting
        calls = snapshot.calls[rows]
        prefill, decode = calls["prefill"].copy(), calls["decode"].copy()
        up_prefill = np.flatnonzero(snapshot.prefills["up"])
        for i in np.flatnonzero((calls["stage"] == WAIT_PREFILL) & (prefill < 0)):
            fits = (snapshot.decodes["up"] == 1) & (snapshot.decodes["capacity_blocks"] >= calls["kv_blocks"][i])
            up_decode = np.flatnonzero(fits)
            if len(up_prefill) and len(up_decode):
                turn = int(calls["serial"][i])
                prefill[i] = up_prefill[turn % len(up_prefill)]
                decode[i] = up_decode[turn % len(up_decode)]
        prefill[calls["stage"] != WAIT_PREFILL] = -1
        unknown = np.full(len(rows), np.inf)
        return Plan(
            rows=rows,
            serials=calls["serial"],
            slots=calls["slot"],
            prefill=prefill,
            decode=decode,
            rank=calls["serial"],
            finish_ms=unknown,
            start_ms=unknown,
            provenance=self.name,
        )
