"""List planners against a slow twin, and the promises that hold whatever the numbers: ties, renumbering, limits."""

import math
from collections import Counter

import numpy as np
import pytest
from small_states import adopt, busy_state, cluster, mixed_cluster, profile, push, ready, with_slots_shuffled

from hexsolve import listplan
from hexsolve.listplan import plan_by_risk, plan_in_order
from hexsolve.state import ClusterState
from hexsolve.tables import DECODE, PREFILL, TRANSFER, WAIT_DECODE


class Twin:
    """The projection and the greedy written again, slowly: lists of spans, KV assumed ample, no pruning, no reuse.

    After every pick each waiting call is projected anew over all P×D pairs; without `all_pairs`, over the pairs whose
    KV is at its decode replica first, because a step time that is fixed when a call joins its batch can make a later
    arrival look faster.
    """

    def __init__(self, snapshot, all_pairs):
        self.s = snapshot
        self.all_pairs = all_pairs
        self.cluster = snapshot.tables.cluster
        self.free = [max(snapshot.now_ms, float(r["free_ms"])) if r["up"] else math.inf for r in snapshot.prefills]
        self.spans = [[] for _ in self.cluster.decode]  # (start, end, context)
        for d in range(self.cluster.num_decode):
            self._running(d)
        flying = [i for i, c in enumerate(snapshot.calls) if c["stage"] in (PREFILL, TRANSFER)]
        for ready_ms, row in sorted((self._arrival(row), row) for row in flying):
            d = int(snapshot.calls["decode"][row])
            self._add(d, row, ready_ms, self.finish(row, d, ready_ms))

    def _running(self, d):
        s, replica = self.s, self.s.decodes[d]
        rows = [i for i, c in enumerate(s.calls) if c["stage"] == DECODE and c["decode"] == d]
        steps = replica["steps"] + (s.now_ms - replica["last_ms"]) / replica["step_ms"] if rows else 0.0
        done = {r: steps - s.calls["step_mark"][r] for r in rows}
        mean = sum(s.calls["input_tokens"][r] + done[r] for r in rows) / max(1, len(rows))
        for r in rows:
            left = max(1.0, s.calls["predicted_tokens"][r] - done[r])
            self.spans[d].append((s.now_ms, s.now_ms + left * float(replica["step_ms"]), mean))

    def _arrival(self, row):
        call = self.s.calls[row]
        at = max(self.s.now_ms, float(call["expected_ms"]))
        if call["stage"] == PREFILL:
            at += self.transfer(row)[call["prefill"], call["decode"]]
        return at

    def transfer(self, row):
        return self.cluster.transfer_ms(int(self.s.calls["input_tokens"][row]))

    def _add(self, d, row, start, end):
        call = self.s.calls[row]
        self.spans[d].append((start, end, call["input_tokens"] + 0.5 * call["predicted_tokens"]))

    def finish(self, row, d, start):
        call = self.s.calls[row]
        others = [context for begin, end, context in self.spans[d] if begin <= start < end]
        total = sum(others) + call["input_tokens"] + 0.5 * call["predicted_tokens"]
        step = self.cluster.decode[d].profile.decode_step_ms(len(others) + 1, total)
        return start + call["predicted_tokens"] * step

    def prefill_end(self, row, p):
        call = self.s.calls[row]
        rate = self.cluster.prefill[p].profile
        n, cached = int(call["input_tokens"]), int(call["cached_tokens"])
        full, short = rate.prefill_ms(n, n * n), rate.prefill_ms(n - cached, n * n - cached * cached)
        share = min(cached, int(self.s.held_tokens[call["prefix"], p])) / cached if cached else 0.0
        return self.free[p] + full - (full - short) * share

    def best(self, row):
        """(finish, decode, prefill, prefill end, start), the least of the pairs."""
        if self.s.calls["stage"][row] == WAIT_DECODE:
            d = int(self.s.calls["decode"][row])
            return self.finish(row, d, self.s.now_ms), d, -1, 0.0, self.s.now_ms
        lag = self.transfer(row)
        options = []
        for d in range(self.cluster.num_decode):
            ends = [self.prefill_end(row, p) for p in range(self.cluster.num_prefill)]
            there = [(end + lag[p, d], p) for p, end in enumerate(ends)]
            for start, p in there if self.all_pairs else [min(there)]:
                options.append((self.finish(row, d, start), d, p, ends[p], start))
        return min(options)

    def plan(self):
        waiting = list(self.s.waiting)
        order, placed = [], {}
        while waiting:
            projected = {row: self.best(row) for row in waiting}
            risk = {
                r: (projected[r][0] - self.s.calls["arrival_ms"][r]) / self.s.calls["horizon_ms"][r] for r in waiting
            }
            row = max(waiting, key=lambda r: risk[r])
            finish, d, p, end, start = placed[row] = projected[row]
            if p >= 0:
                self.free[p] = end
            self._add(d, row, start, finish)
            order.append(row)
            waiting.remove(row)
        return order, placed


def assert_same_as_twin(snapshot, all_pairs):
    order, placed = Twin(snapshot, all_pairs).plan()
    plan = plan_by_risk(snapshot, recompute_limit=10_000)
    assert [int(r) for r in plan.rows[np.argsort(plan.rank)]] == [int(r) for r in order]
    for i, row in enumerate(plan.rows):
        finish, d, p, _, _ = placed[row]
        assert (plan.decode[i], plan.prefill[i]) == (d, p)
        assert plan.finish_ms[i] == pytest.approx(finish, abs=1e-6)


@pytest.mark.parametrize("seed", range(25))
def test_lazy_recomputation_equals_recomputing_every_pair_after_every_pick(seed):
    # Step times that do not depend on the batch: an earlier KV arrival never ends later, so both must agree exactly.
    state = busy_state(seed, mixed_cluster(batch_aware=False, kv_tokens=10**6))
    assert_same_as_twin(state.snapshot(state.clock_ms + 3.0), all_pairs=True)


@pytest.mark.parametrize("seed", range(25))
def test_lazy_recomputation_equals_the_twin_with_batch_dependent_steps(seed):
    state = busy_state(seed, mixed_cluster(kv_tokens=10**6))
    assert_same_as_twin(state.snapshot(state.clock_ms + 3.0), all_pairs=False)


def placements(plan, calls):
    """(request kind, prefill, decode, finish) of every waiting call, without its number."""
    keys = zip(calls["input_tokens"][plan.rows], calls["predicted_tokens"][plan.rows], strict=True)
    return Counter(zip(keys, plan.prefill.tolist(), plan.decode.tolist(), np.round(plan.finish_ms, 6), strict=True))


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("kv_tokens", [10**6, 3_000])
def test_renumbering_calls_does_not_change_who_goes_where(seed, kv_tokens):
    state = busy_state(seed, mixed_cluster(kv_tokens=kv_tokens))
    before, after = with_slots_shuffled(state, seed, state.clock_ms)
    first, second = plan_by_risk(before), plan_by_risk(after)
    assert sorted(first.serials[np.argsort(first.rank)]) == sorted(second.serials[np.argsort(second.rank)])
    assert placements(first, before.calls) == placements(second, after.calls)


def test_equal_calls_are_taken_in_order_of_their_slots():
    # Three equal calls revealed at once: all risks tie before the first pick and after every later one.
    state = ClusterState(cluster())
    slots = [ready(state) for _ in range(3)]
    plan = plan_by_risk(state.snapshot(0.0))
    assert plan.slots.tolist() == slots
    assert plan.rank.tolist() == [0, 1, 2]


def test_planning_twice_gives_the_same_plan():
    state = busy_state(3, mixed_cluster())
    first, second = (plan_by_risk(state.snapshot(state.clock_ms)) for _ in range(2))
    for column in ("rank", "prefill", "decode", "finish_ms", "start_ms"):
        assert np.array_equal(getattr(first, column), getattr(second, column))


def test_above_the_limit_risks_are_sorted_once():
    # One prefill replica (10 + 0.1·N ms), transfer 2 + 0.1·N ms, decode 10 ms per token whatever the batch. All arrived
    # at 0, so R = finish / H. Alone, A (1000, 1) ends at 110 + 102 + 10 = 222 and so on: every R is exactly 1 and a
    # single sort keeps slot order. Recomputing sees who suffers most from waiting: after A's 110 ms of prefill,
    # B (100, 100): H = 20 + 12 + 1000 = 1032, R = 1142/1032 = 1.11; C (100, 1): H = 42, R = 152/42 = 3.6: C before B.
    state = ClusterState(cluster())
    a, b, c = ready(state, tokens=(1000, 1)), ready(state, tokens=(100, 100)), ready(state, tokens=(100, 1))
    recomputed, sorted_once = (plan_by_risk(state.snapshot(0.0), limit) for limit in (3, 2))
    assert recomputed.slots[np.argsort(recomputed.rank)].tolist() == [a, c, b]
    assert sorted_once.slots[np.argsort(sorted_once.rank)].tolist() == [a, b, c]
    # Placed in that order all the same: prefills end at 110, 130, 150; + 102, 12, 12; + 10, 1000, 10.
    assert sorted_once.finish_ms.tolist() == pytest.approx([222.0, 1142.0, 172.0])


def test_the_largest_projected_risk_goes_first():
    # Two equal calls, 532 ms alone each; one workflow is 500 ms old: R = (500 + 532)/532 against 532/532.
    state = ClusterState(cluster())
    young = state.workflow_open(500.0, "young")
    old = state.workflow_open(500.0, "old", arrival_ms=0.0)
    first = ready(state, 500.0, workflow=young)
    second = ready(state, 500.0, workflow=old)
    state._horizon[old] = state._horizon[young]  # not counting the 500 ms as the delay of a tool
    plan = plan_by_risk(state.snapshot(500.0))
    assert plan.slots[np.argsort(plan.rank)].tolist() == [second, first]


def test_a_fixed_placement_is_kept_unless_a_replica_of_it_is_down_or_too_small():
    on = cluster((profile(), profile()), (profile(), profile()), kv_tokens=(16_000, 320))
    state = ClusterState(on)
    small, large = ready(state, tokens=(100, 50)), ready(state, tokens=(1000, 50))
    assert (small, large) == (0, 1)
    fixed = {"prefill": np.array([1, 1]), "decode": np.array([1, 1])}
    plan = plan_in_order(state.snapshot(0.0), np.array([0, 1]), **fixed)
    assert (plan.prefill[0], plan.decode[0]) == (1, 1)
    assert plan.decode[1] == 0  # 1050 tokens never fit 320
    state.replica_down(0.0, "prefill", 1)
    plan = plan_in_order(state.snapshot(0.0), np.array([0, 1]), **fixed)
    assert plan.prefill.tolist() == [0, 0]


@pytest.mark.parametrize("half", [{"prefill": np.array([0])}, {"decode": np.array([0])}])
def test_half_a_fixed_placement_is_no_placement(half):
    state = ClusterState(mixed_cluster())
    ready(state)
    free = plan_in_order(state.snapshot(0.0), np.array([0]))
    plan = plan_in_order(state.snapshot(0.0), np.array([0]), **half)
    assert (plan.prefill[0], plan.decode[0]) == (free.prefill[0], free.decode[0])


def test_other_number_types_do_not_compile_the_kernels_again():
    state = busy_state(1, mixed_cluster())
    snapshot = state.snapshot(state.clock_ms)
    n = len(snapshot.waiting)
    order = np.arange(n)
    expected = plan_in_order(snapshot, order)

    before = [len(getattr(kernel, "signatures", ())) for kernel in (listplan.place_in_order, listplan._plan_by_risk)]
    odd = np.full((n, 2), -1, dtype=np.int32)
    plan = plan_in_order(snapshot, order.astype(np.int32), prefill=odd[:, 0], decode=odd[:, 1])
    plan_by_risk(snapshot, np.int32(128))
    after = [len(getattr(kernel, "signatures", ())) for kernel in (listplan.place_in_order, listplan._plan_by_risk)]
    assert np.array_equal(plan.finish_ms, expected.finish_ms)
    assert after == before


def test_a_call_that_no_replica_up_can_take_is_left_without_placement():
    state = ClusterState(cluster())
    ready(state)
    state.replica_down(0.0, "decode", 0)
    plan = plan_by_risk(state.snapshot(0.0))
    assert (plan.prefill[0], plan.decode[0]) == (-1, -1)
    assert math.isinf(plan.finish_ms[0])


def test_a_locked_call_on_a_replica_that_is_down_is_left_without_placement():
    state = ClusterState(cluster())
    slot = ready(state)
    adopt(state, plan_by_risk(state.snapshot(0.0)))
    push(state, slot, 0.0, "wait")
    state.replica_down(0.0, "decode", 0)
    assert plan_by_risk(state.snapshot(0.0)).decode.tolist() == [-1]


def test_nothing_waits():
    plan = plan_by_risk(ClusterState(cluster()).snapshot(0.0))
    assert len(plan) == 0
