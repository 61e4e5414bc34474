"""What a policy can remember of calls that are gone. Knows snapshots in order of time; knows no true output length.

A snapshot shows live calls only. Every reveal is an epoch, so each call is seen at least once; when it is gone, its end
is estimated as the projected end of its decode, held between the two snapshots. What one workflow leaves in a slot is
forgotten when another one is seen there.
"""

from dataclasses import dataclass, field

import numpy as np

from hexsolve.policies._dispatch import decoded_until
from hexsolve.snapshot import Snapshot, alone_ms
from hexsolve.tables import DECODE, EMPTY, Floats, Ints, Records, record_type

_SEEN = record_type(
    [
        ("serial", "i8"),
        ("workflow", "i8"),
        ("kind", "i8"),
        ("step", "i8"),
        ("decoding", "i8"),
        ("ready_ms", "f8"),
        ("stage_ms", "f8"),
        ("service_ms", "f8"),
        ("alone_ms", "f8"),
        ("end_ms", "f8"),
    ]
)


@dataclass(frozen=True, eq=False)
class Completed:
    """Calls that went between two snapshots, in order of serial; `service_ms` and `end_ms` are estimates."""

    workflow: Ints
    kind: Ints
    step: Ints
    service_ms: Floats
    end_ms: Floats


@dataclass
class History:
    """Attained service and last completion by workflow slot.

    Attributes
    ----------
    attained_ms : float64 [workflow slots], service of the completed calls of the workflow that is there now.
    done_ms : float64 [workflow slots], end of its last completed call; nan before.
    """

    attained_ms: Floats = field(default_factory=lambda: np.zeros(64))
    done_ms: Floats = field(default_factory=lambda: np.full(64, np.nan))
    _arrival_ms: Floats = field(default_factory=lambda: np.full(64, np.nan))
    _first: Ints = field(default_factory=lambda: np.zeros(64, dtype=np.int64))
    _seen: Records = field(default_factory=lambda: np.zeros(256, dtype=_SEEN))
    _now_ms: float = -np.inf

    def observe(self, snapshot: Snapshot) -> tuple[Completed, Ints]:
        """Take in the next snapshot: calls that went since, and slots of workflows that others took the place of."""
        calls = snapshot.calls[snapshot.calls["stage"] != EMPTY]
        self._grow(int(calls["slot"].max(initial=0)), int(calls["workflow"].max(initial=0)))
        completed = self._complete(calls, snapshot.now_ms)
        replaced = self._replace(calls)
        self._note(snapshot, calls)
        return completed, replaced

    def _complete(self, calls: Records, now_ms: float) -> Completed:
        serial = np.zeros(len(self._seen), dtype=np.int64)
        serial[calls["slot"]] = calls["serial"]
        gone = self._seen[(self._seen["serial"] != 0) & (self._seen["serial"] != serial)]
        gone = gone[np.argsort(gone["serial"])]
        in_decode = gone["decoding"] == 1
        end = np.where(in_decode, np.clip(gone["end_ms"], self._now_ms, now_ms), now_ms)
        decoded = gone["service_ms"] + end - gone["stage_ms"]
        guessed = np.minimum(np.maximum(gone["service_ms"], gone["alone_ms"]), now_ms - gone["ready_ms"])
        service = np.where(in_decode, decoded, guessed)
        np.add.at(self.attained_ms, gone["workflow"], service)
        self.done_ms[gone["workflow"]] = end
        self._seen["serial"][self._seen["serial"] != serial] = 0
        return Completed(gone["workflow"], gone["kind"], gone["step"], service, end)

    def _replace(self, calls: Records) -> Ints:
        """Forget workflows whose slot another one has: another arrival, or another call that comes first."""
        slot, first = calls["workflow"], calls["step"] == 0
        other = self._arrival_ms[slot] != calls["arrival_ms"]
        other |= first & (self._first[slot] != calls["serial"])
        replaced = np.unique(slot[other])
        self._first[slot[other]] = 0
        self._first[slot[first]] = calls["serial"][first]
        known: Ints = replaced[~np.isnan(self._arrival_ms[replaced])]
        self._arrival_ms[slot] = calls["arrival_ms"]
        self.attained_ms[replaced], self.done_ms[replaced] = 0.0, np.nan
        return known

    def _note(self, snapshot: Snapshot, calls: Records) -> None:
        seen = self._seen
        slot = calls["slot"]
        for name in ("serial", "workflow", "kind", "step", "ready_ms", "stage_ms", "service_ms"):
            seen[name][slot] = calls[name]
        seen["decoding"][slot] = calls["stage"] == DECODE
        seen["alone_ms"][slot] = alone_ms(calls)
        seen["end_ms"][slot] = decoded_until(snapshot, calls)
        self._now_ms = snapshot.now_ms

    def _grow(self, slot: int, workflow: int) -> None:
        if slot >= len(self._seen):
            self._seen = np.concatenate([self._seen, np.zeros(slot + 1, dtype=_SEEN)])
        if workflow >= len(self.attained_ms):
            more = workflow + 1
            self.attained_ms = np.concatenate([self.attained_ms, np.zeros(more)])
            self.done_ms = np.concatenate([self.done_ms, np.full(more, np.nan)])
            self._arrival_ms = np.concatenate([self._arrival_ms, np.full(more, np.nan)])
            self._first = np.concatenate([self._first, np.zeros(more, dtype=np.int64)])
