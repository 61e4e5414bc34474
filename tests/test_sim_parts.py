"""Kernel, prefix cache, metrics and options, each on its own."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twin_workloads import LINE, TABLE, profile

from hexsolve.decode_pace import DecodePace
from hexsolve.errors import InputError
from hexsolve.sim import Fault, SimOptions, SimulationError, attainment, mean_stretch, required_scale, stretches
from hexsolve.sim.kernel import Kernel
from hexsolve.sim.prefix_cache import PrefixCache


def test_kernel_orders_by_time_priority_and_scheduling():
    kernel, seen = Kernel(), []
    for time_ms, priority, name in [(2.0, 0, "d"), (1.0, 1, "b"), (1.0, 1, "c"), (1.0, 0, "a")]:
        kernel.at(time_ms, priority, lambda now_ms, arg: seen.append((now_ms, arg)), name)
    settled = []
    kernel.run(lambda now_ms: settled.append((now_ms, len(seen))) is not None)
    assert seen == [(1.0, "a"), (1.0, "b"), (1.0, "c"), (2.0, "d")]
    assert settled == [(1.0, 3), (2.0, 4)]


def test_kernel_settles_again_after_events_it_made_at_the_same_instant():
    kernel, seen = Kernel(), []

    def settle(now_ms):
        if len(seen) < 3:
            kernel.at(now_ms, 0, lambda now_ms, arg: seen.append(arg), len(seen))
        return False

    kernel.at(5.0, 0, lambda now_ms, arg: None, None)
    kernel.run(settle)
    assert seen == [0, 1, 2]
    assert kernel.now_ms == 5.0


@pytest.mark.parametrize("time_ms", [-1.0, float("nan")])
def test_kernel_refuses_the_past(time_ms):
    with pytest.raises(SimulationError, match=r"expected a time >= 0\.0"):
        Kernel().at(time_ms, 0, lambda now_ms, arg: None, None)


def test_prefix_cache_evicts_what_was_used_longest_ago():
    # 100 tokens: a 40, b 40; a is used, so c (40) pushes b out: 40 + 40 = 80 stay.
    cache = PrefixCache(100)
    assert cache.hold((0, "a"), 40) == (40, [])
    assert cache.hold((0, "b"), 40) == (40, [])
    assert cache.use((0, "a")) == 40
    assert cache.hold((1, "c"), 40) == (40, [(0, "b")])
    assert cache.held_tokens == 80
    assert cache.use((0, "b")) == 0
    assert cache.hold((0, "a"), 30) == (40, [])  # never shrinks
    assert cache.hold((0, "a"), 1000) == (100, [(1, "c")])  # larger than the cache: held up to its capacity


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 80), st.booleans()), max_size=60))
def test_prefix_cache_matches_a_plain_list(steps):
    cache, plain = PrefixCache(100), []  # [(key, tokens)], oldest use first
    for number, tokens, is_use in steps:
        key = (number, "g")
        held = dict(plain).get(key, 0)
        rest = [entry for entry in plain if entry[0] != key]
        if is_use:
            assert cache.use(key) == held
            plain = [*rest, (key, held)] if held else rest
            continue
        kept, evicted = cache.hold(key, tokens)
        plain, gone = [*rest, (key, max(held, tokens))], []
        while sum(entry[1] for entry in plain) > 100:
            gone.append(plain.pop(0)[0])
        assert (kept, evicted) == (max(held, tokens), gone)
        assert cache.held_tokens == sum(entry[1] for entry in plain)


@given(st.integers(1, 9), st.floats(0.0, 400.0), st.sampled_from([LINE, TABLE]))
def test_remembered_pace_is_the_profile(batch, mean_context, decode):
    speed = profile(decode)
    step_ms, slope_ms, length = DecodePace(speed).segment(batch, mean_context)
    assert step_ms == pytest.approx(speed.decode_step_ms(batch, batch * mean_context), rel=1e-9)
    for ahead in (0.0, min(length, 50.0) * 0.5, min(length, 50.0)):
        expected = speed.decode_step_ms(batch, batch * (mean_context + ahead))
        assert step_ms + slope_ms * ahead == pytest.approx(expected, rel=1e-9)


def test_required_scale_is_the_smallest_that_enough_workflows_meet():
    # 20 workflows: 95 % are 19, so Req95 is the 19th smallest; 99 % of 20 is 19.8, so all 20 are needed.
    stretch = np.arange(20, 0, -1.0)
    assert required_scale(stretch, 0.95) == 19.0
    assert required_scale(stretch, 0.99) == 20.0
    assert required_scale([7.0], 0.5) == 7.0


@given(st.lists(st.floats(1.0, 50.0), min_size=1, max_size=150), st.integers(1, 100))
def test_required_scale_by_definition(stretch, percent):
    scale = required_scale(stretch, percent / 100)
    enough = [x for x in stretch if 100 * sum(y <= x for y in stretch) >= percent * len(stretch)]
    assert scale == min(enough)
    assert attainment(stretch, [scale])[0] * 100 >= percent - 1e-6


def test_stretches_and_their_mean():
    stretch = stretches([0.0, 10.0], [20.0, 40.0], [10.0, 10.0])
    assert stretch.tolist() == [2.0, 3.0]
    assert mean_stretch(stretch) == 2.5
    assert attainment(stretch, [1.9, 2.0, 3.0]).tolist() == [0.0, 0.5, 1.0]


def test_metrics_refuse_nonsense():
    with pytest.raises(InputError, match=r"standalone_ms\[1\]"):
        stretches([0.0, 0.0], [1.0, 1.0], [1.0, 0.0])
    with pytest.raises(InputError, match="equal shapes"):
        stretches([0.0], [1.0, 1.0], [1.0])
    with pytest.raises(InputError, match="required scale"):
        required_scale([], 0.95)
    with pytest.raises(InputError, match="required scale"):
        required_scale([1.0], 0.0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("chunk_tokens", 0),
        ("growth_tokens", 0),
        ("pushback", "drop"),
        ("host_bandwidth_gb_s", 0.0),
        ("faults", ("down",)),
    ],
)
def test_options_are_checked(field, value):
    with pytest.raises(InputError, match=field):
        SimOptions(**{field: value})


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ((-1.0, "prefill", 0, "down"), "time_ms"),
        ((0.0, "router", 0, "down"), "role"),
        ((0.0, "decode", -1, "down"), "index"),
        ((0.0, "decode", 0, "sideways"), "change"),
    ],
)
def test_faults_are_checked(arguments, field):
    with pytest.raises(InputError, match=field):
        Fault(*arguments)
