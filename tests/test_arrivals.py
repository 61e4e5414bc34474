"""Arrival processes: rate, burstiness, prefix stability, and re-timing."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hexsolve.arrivals import (
    AZURE_CODE,
    AllAtOnce,
    Arrivals,
    GammaGaps,
    OnOff,
    Poisson,
    Replay,
    arrival_times_ms,
    fit_on_off,
    with_arrivals,
)
from hexsolve.errors import InputError
from hexsolve.workflow import Call, Workflow, Workload

PROCESSES: list[tuple[Arrivals, float]] = [
    (Poisson(20.0), 1.0),
    (GammaGaps(20.0, 0.5), 0.5),
    (GammaGaps(20.0, 3.0), 3.0),
    (OnOff(20.0, 50.0, 0.5), OnOff(20.0, 50.0, 0.5).cv),
]


@pytest.mark.parametrize(("process", "cv"), PROCESSES)
def test_rate_and_burstiness(process: Arrivals, cv: float) -> None:
    gaps_ms = np.diff(process.times_ms(200_000, np.random.default_rng(1)))
    assert gaps_ms.mean() == pytest.approx(50.0, rel=0.05)
    assert gaps_ms.std() / gaps_ms.mean() == pytest.approx(cv, rel=0.05)


def test_on_off_cv_by_hand() -> None:
    # Rate 1/s, bursts of 2, half of the time idle: gaps of mean 1 s or 1 s, equally likely. That is Poisson: CV 1.
    process = OnOff(1.0, 2.0, 0.5)
    assert process.gap_means_ms == pytest.approx((1000.0, 1000.0))
    assert process.cv == pytest.approx(1.0)
    # Bursts of 10, 90 % idle: 0.9 gaps of 1/9 s, 0.1 gaps of 9 s. E[g²] = 2 (0.9/81 + 8.1) = 16.222; CV² = 15.222.
    assert OnOff(1.0, 10.0, 0.9).cv == pytest.approx(math.sqrt(2 * (0.9 / 81 + 8.1) - 1))


@given(st.sampled_from([process for process, _ in PROCESSES] + [AllAtOnce()]), st.integers(0, 40), st.integers(0, 40))
def test_first_times_do_not_depend_on_how_many(process: Arrivals, few: int, more: int) -> None:
    few, more = sorted((few, more))
    short, long = arrival_times_ms(process, few, 3), arrival_times_ms(process, more, 3)
    assert long[:few] == short
    assert long == sorted(long)
    assert all(time >= 0 for time in long)


def test_seed_changes_the_draw() -> None:
    assert arrival_times_ms(Poisson(1.0), 5, 1) != arrival_times_ms(Poisson(1.0), 5, 2)


def test_replay_shifts_sorts_and_speeds_up() -> None:
    replay = Replay((300.0, 100.0, 200.0, 900.0), speed=2.0)
    assert arrival_times_ms(replay, 3, 0) == [0.0, 50.0, 100.0]
    with pytest.raises(InputError, match="expected at least 5 times, got 4"):
        arrival_times_ms(replay, 5, 0)


def test_with_arrivals_keeps_order_and_content() -> None:
    flows = tuple(Workflow(name, "c", 0.0, (Call("a", 1, 1),)) for name in "zyx")
    retimed = with_arrivals(Workload("w", flows), Poisson(1.0), 4)
    assert [flow.workflow_id for flow in retimed.workflows] == ["z", "y", "x"]
    assert [flow.arrival_ms for flow in retimed.workflows] == arrival_times_ms(Poisson(1.0), 3, 4)
    assert retimed.workflows[0].calls == flows[0].calls
    assert with_arrivals(retimed, AllAtOnce(), 0).digest() == Workload("w", flows).digest()


def test_fit_recovers_the_process() -> None:
    true = OnOff(5.0, 100.0, 0.8)  # gaps of 40 ms, idle gaps of 16 s: a threshold of 0.4 s tells them apart
    fitted = fit_on_off(true.times_ms(200_000, np.random.default_rng(2)), idle_gap_ms=400.0)
    assert fitted.burst_calls == pytest.approx(100.0, rel=0.1)
    assert fitted.idle_share == pytest.approx(0.8, rel=0.05)
    with pytest.raises(InputError, match="expected some gaps above"):
        fit_on_off([0.0, 1.0, 2.0])


def test_at_rate_keeps_the_burstiness() -> None:
    assert AZURE_CODE.at_rate(100.0).cv == pytest.approx(AZURE_CODE.cv)
    assert 12 < AZURE_CODE.cv < 14


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Poisson(0.0), "Poisson: rate_per_s: expected a finite number > 0, got 0.0"),
        (lambda: Poisson(math.inf), "Poisson: rate_per_s"),
        (lambda: GammaGaps(1.0, 0.0), "GammaGaps: cv"),
        (lambda: OnOff(1.0, 1.0, 0.5), "OnOff: burst_calls: expected a finite number > 1"),
        (lambda: OnOff(1.0, 2.0, 1.0), "OnOff: idle_share"),
        (lambda: Replay([0.0], speed=-1.0), "Replay: speed"),
        (lambda: Replay([math.nan]), "Replay: recorded_ms"),
    ],
)
def test_bad_parameters_are_refused(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=message):
        make()
