"""A stand-in engine with static placements for tests of the simulator. Knows no policy and keeps no history."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from hexsolve.cluster import Cluster

Place = Callable[[int, str, str], tuple[int, int, int]]
"""(serial of reveal, workflow_id, request_id) -> (prefill replica, decode replica, rank)."""


def in_turn(cluster: Cluster) -> Place:
    """Round robin over both pools, rank = order of reveal."""
    return lambda serial, _workflow, _request: (serial % cluster.num_prefill, serial % cluster.num_decode, serial)


class FakeState:
    """The state API as far as a simulator needs it: slots are never reused."""

    def __init__(self, cluster: Cluster, place: Place) -> None:
        self.prefill: Any = []
        self.decode: Any = []
        self.rank: Any = []
        self.rank_revision = 0  # a fake rank never changes
        self.up = {("prefill", p): True for p in range(cluster.num_prefill)}
        self.up |= {("decode", d): True for d in range(cluster.num_decode)}
        self.count: Counter[str] = Counter()
        self.held: dict[tuple[int, str, int], int] = {}
        self.wanted: list[tuple[int, int, int]] = []
        self._place, self._cluster = place, cluster
        self._workflow_ids: list[str] = []

    def workflow_open(self, now_ms, workflow_id, workflow_class="", arrival_ms=None):
        self._workflow_ids.append(workflow_id)
        return len(self._workflow_ids) - 1

    def call_ready(self, now_ms, workflow_slot, request_id, **known):
        assert "output_tokens" not in known
        slot = len(self.rank)
        self.wanted.append(self._place(slot, self._workflow_ids[workflow_slot], request_id))
        self.prefill.append(-1)
        self.decode.append(-1)
        self.rank.append(-1)
        self.fresh.append(slot)
        return slot

    fresh: list[int]

    def prefill_started(self, now_ms, slot, replica_index, cached_tokens):
        self.count["prefill_started"] += 1

    def prefill_batch(self, now_ms, replica_index, expected_end_ms):
        self.count["prefill_batch"] += 1

    def prefill_done(self, now_ms, slot):
        self.count["prefill_done"] += 1

    def transfer_done(self, now_ms, slot):
        self.count["transfer_done"] += 1

    def decode_started(self, now_ms, slot):
        self.count["decode_started"] += 1

    def call_progress(self, now_ms, slot, generated_tokens, predicted_output_tokens):
        assert generated_tokens < predicted_output_tokens
        self.count["call_progress"] += 1

    def call_done(self, now_ms, slot, output_tokens):
        self.count["call_done"] += 1

    def call_requeued(self, now_ms, slot, generated_tokens):
        self.count["call_requeued"] += 1
        self.prefill[slot] = self.decode[slot] = -1
        self.fresh.append(slot)

    def prefix_held(self, workflow_slot, prefix_group, replica_index, tokens):
        self.held[workflow_slot, prefix_group, replica_index] = tokens

    def replica_down(self, now_ms, role, index):
        self.up[role, index] = False
        column = self.prefill if role == "prefill" else self.decode
        for slot, replica in enumerate(column):
            if replica == index:
                self.fresh.append(slot)

    def replica_up(self, now_ms, role, index):
        self.up[role, index] = True

    def workflow_close(self, now_ms, workflow_slot):
        self.count["workflow_close"] += 1


class FakeEngine:
    """Places every call where `place` says (the next replica that is up, if that one is down) and keeps it there."""

    def __init__(self, cluster: Cluster, place: Place | None = None) -> None:
        self.state = FakeState(cluster, place or in_turn(cluster))
        self.state.fresh = []
        self._cluster = cluster

    def decide(self, now_ms):
        state, moved = self.state, []
        fresh, state.fresh = state.fresh, []
        for slot in fresh:
            prefill, decode, rank = state.wanted[slot]
            prefill = self._next_up("prefill", prefill, self._cluster.num_prefill)
            decode = self._next_up("decode", decode, self._cluster.num_decode)
            if prefill < 0 or decode < 0:
                state.prefill[slot] = state.decode[slot] = -1
                state.fresh.append(slot)
                continue
            state.prefill[slot], state.decode[slot], state.rank[slot] = prefill, decode, rank
            moved.append(slot)
        return moved

    def next_wakeup_ms(self):
        return float("inf")

    def needs_decision(self, event_kind):
        return event_kind in ("call_ready", "call_requeued", "replica_down", "replica_up")

    def _next_up(self, role, start, count):
        for step in range(count):
            if self.state.up[role, (start + step) % count]:
                return (start + step) % count
        return -1
