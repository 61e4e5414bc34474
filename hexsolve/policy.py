"""What a policy is and what it returns. Knows placements; knows nothing of how any policy decides."""

from dataclasses import dataclass, field
from typing import Any, Protocol

from hexsolve.snapshot import Snapshot
from hexsolve.tables import Floats, Ints


@dataclass(frozen=True, eq=False)
class Plan:
    """Placements of every waiting call of one snapshot, as arrays by waiting position.

    Attributes
    ----------
    rows, serials, slots : int64 [n], snapshot row, call serial and state slot.
    prefill, decode : int64 [n] replica index; prefill is -1 for locked calls, both are -1 where no replica can take it.
    rank : int64 [n], local queue priority, smaller first, no two equal.
    finish_ms, start_ms : float64 [n], projected decode finish and start (inf where not placed).
    provenance : which component made the plan.
    receipt : why, in numbers (solver outcome, objective, bound ...); empty for list plans.
    """

    rows: Ints
    serials: Ints
    slots: Ints
    prefill: Ints
    decode: Ints
    rank: Ints
    finish_ms: Floats
    start_ms: Floats
    provenance: str
    receipt: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)


class Policy(Protocol):
    """`Snapshot -> Plan`. A policy sees no true output length and no unrevealed call: the snapshot has neither.

    `replans` says whether every waiting call is placed anew in each epoch (then KV arrivals are epochs too) or a call
    keeps its first placement (then ranks must stay comparable between epochs).
    """

    @property
    def name(self) -> str: ...

    @property
    def replans(self) -> bool: ...

    def plan(self, snapshot: Snapshot) -> Plan:
        """Place and order every waiting call of `snapshot`."""
        ...
