"""Least times hold for every batch there can be: random batches of lines and of tables, evaluated by the profile."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twin_workloads import LINE, TABLE, cluster, profile

from hexsolve.least_times import decode_floor, prefill_floor
from hexsolve.profile import PrefillLine, PrefillTable, call_area

TABLE_2D = PrefillTable(
    new_tokens=(8.0, 64.0, 200.0),
    prefix_tokens=(0.0, 50.0, 150.0),
    latency_ms=((3.0, 3.5, 5.0), (6.0, 7.5, 8.0), (14.0, 18.0, 19.0)),
)
PREFILLS = {"line": PrefillLine(2.0, 0.05, 1e-6, 3.0), "no floor": PrefillLine(2.0, 0.05, 0.0), "table": TABLE_2D}
BUDGET = 256
calls = st.lists(st.tuples(st.integers(1, 400), st.integers(0, 300)), min_size=1, max_size=8)


@pytest.mark.parametrize("name", sorted(PREFILLS))
@settings(max_examples=150, deadline=None)
@given(drawn=calls)
def test_a_batch_takes_no_less_than_its_calls_use_up(name, drawn):
    replica = cluster(speed=profile(prefill=PREFILLS[name], kappa=1.1), max_batch_tokens=BUDGET).prefill[0]
    least_new, longest = min(new for new, _ in drawn), max(new + prefix for new, prefix in drawn)
    floor = prefill_floor(replica, least_new, longest, prefixes_known=True)
    batch = [drawn[0]]
    for new, prefix in drawn[1:]:
        if sum(n for n, _ in batch) + new <= BUDGET:
            batch.append((new, prefix))
    ms = replica.profile.prefill_ms(sum(n for n, _ in batch), sum(call_area(n, p) for n, p in batch))
    times = [floor.times(new + prefix, {prefix}) for new, prefix in batch]
    assert sum(work for _, work in times) <= ms + 1e-9
    assert max(latency for latency, _ in times) <= ms + 1e-9
    assert all(0.0 <= work <= latency for latency, work in times)


@pytest.mark.parametrize("decode", [LINE, TABLE], ids=["line", "table"])
@settings(max_examples=150, deadline=None)
@given(drawn=st.lists(st.tuples(st.integers(1, 150), st.integers(1, 40)), min_size=1, max_size=12), data=st.data())
def test_a_step_takes_no_less_than_its_calls_use_up(decode, drawn, data):
    # Any members of the workload, each at any of its contexts, within the limit of running calls and the KV.
    replica = cluster(speed=profile(decode=decode, kappa=1.1), kv_capacity_tokens=480, max_running=6).decode[0]
    prompts, outputs = (np.array(column) for column in zip(*drawn, strict=True))
    floor = decode_floor(replica, prompts, outputs)
    members, held = [], 0
    for prompt, output in drawn:
        if len(members) < 6 and held + prompt + output <= 480:
            members.append(prompt + data.draw(st.integers(0, output - 1)))
            held += prompt + output
    step = replica.profile.decode_step_ms(len(members), sum(members))
    assert sum(floor.per_step + floor.per_token * context for context in members) <= step + 1e-9
    assert all(floor.elapsed[context + 1] - floor.elapsed[context] <= step + 1e-9 for context in members)


def test_the_fixed_part_of_a_step_is_shared_by_as_many_as_there_can_be():
    # 4 calls of 1 + 99 tokens, 2 at once: a step is 5.5 ms for one, 6 for two, so at least 3 each, and 0.002 per token.
    replica = cluster(max_running=2).decode[0]
    floor = decode_floor(replica, np.full(4, 1), np.full(4, 99))
    assert floor.times(1, 99) == pytest.approx((5.5 * 99 + 0.002 * 4950, 3.0 * 99 + 0.002 * 4950))
