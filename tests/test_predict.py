"""Output-length predictors."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hexsolve.errors import InputError
from hexsolve.predict import CallView, Learned, Noisy, Oracle, parse_predictor, truth_of
from hexsolve.workflow import Call, Workflow, Workload


def view(request="c", kind="plan", workflow="w", workflow_class="sql"):
    return CallView(workflow, workflow_class, request, kind, 100, 0, "")


def workload(output_tokens=40):
    return Workload("one", (Workflow("w", "sql", 0.0, (Call("c", 100, output_tokens, kind="plan"),)),))


def test_a_view_has_no_true_length():
    assert not [name for name in CallView._fields if "output" in name]


def test_oracle_knows():
    oracle = Oracle(truth_of(workload(40)))
    assert oracle.predict(view()) == 40
    assert oracle.refine(view(), 10) == 40


def test_noisy_is_right_in_the_median_and_has_its_sigma():
    # 4001 calls of 1000 tokens at sigma 0.3: log errors have median 0 ± 0.3·1.2533/sqrt(4001) = 0.006 and spread 0.3.
    noisy = Noisy(lambda _view: 1000, 0.3, seed=5)
    lengths = sorted(noisy.predict(view(str(i))) for i in range(4001))
    assert lengths[2000] == pytest.approx(1000, rel=0.02)
    assert lengths[int(4001 * 0.8413)] == pytest.approx(1000 * 2.71828**0.3, rel=0.03)


def test_noisy_depends_on_seed_and_names_only():
    first, again, other = (Noisy(lambda _view: 500, 0.5, seed=seed) for seed in (1, 1, 2))
    forwards = [first.predict(view(str(i))) for i in range(20)]
    backwards = [again.predict(view(str(i))) for i in reversed(range(20))]
    assert forwards == backwards[::-1]
    assert forwards != [other.predict(view(str(i))) for i in range(20)]


def test_noisy_refines_without_the_truth():
    # A prediction that is reached: the median of a log-normal above its own median is exp(0.6745·sigma) times it.
    noisy = Noisy(lambda _view: 100, 1e-9, seed=0)
    assert noisy.refine(view(), 100) == 101
    truth = [100]
    wide = Noisy(lambda _view: truth[0], 0.5, seed=0)
    predicted = wide.predict(view())
    assert wide.refine(view(), predicted) == pytest.approx(predicted * 2.71828 ** (0.6745 * 0.5), rel=0.02)


@given(st.floats(0.0, 3.0), st.integers(1, 10_000), st.integers(0, 100_000))
def test_refined_is_always_more_than_generated(sigma, truth, generated):
    noisy = Noisy(lambda _view: truth, sigma)
    assert noisy.predict(view()) >= 1
    assert noisy.refine(view(), generated) > generated


def test_learned_never_sees_a_true_length_before_completion():
    # `Learned` is built without a lookup and given a view alone: the same views must bring the same answers whatever
    # the calls really take.
    learned = Learned(prior_tokens=77)
    assert learned.predict(view()) == 77
    assert {Learned().predict(view(str(length))) for length in (1, 1000, 100_000)} == {256}


def test_learned_quantile_by_group_then_class_then_all():
    learned = Learned(quantile=0.5, min_observed=3)
    for tokens in (10, 20, 30):
        learned.observe(view(kind="plan"), tokens)
    assert learned.predict(view(kind="plan")) == 20
    assert learned.predict(view(kind="other")) == 20  # its class has seen 3
    assert learned.predict(view(workflow_class="chat")) == 20  # anything has seen 3
    for tokens in (1000, 1000, 1000):
        learned.observe(view(kind="other"), tokens)
    assert learned.predict(view(kind="plan")) == 20
    assert learned.predict(view(kind="other")) == 1000


def test_learned_refines_to_the_lengths_that_are_still_possible():
    learned = Learned(quantile=0.5, min_observed=1)
    for tokens in (10, 20, 300, 400, 500):
        learned.observe(view(), tokens)
    assert learned.refine(view(), 20) == 400  # median of 300, 400, 500
    assert learned.refine(view(), 500) == 1000  # none known: twice as long


@given(st.lists(st.integers(1, 500), min_size=1, max_size=60), st.integers(1, 20), st.floats(0.05, 0.95))
def test_learned_window_is_the_latest_lengths(lengths, window, quantile):
    learned = Learned(quantile=quantile, window=window, min_observed=1)
    for tokens in lengths:
        learned.observe(view(), tokens)
    latest = sorted(lengths[-window:])
    predicted = learned.predict(view())
    share_not_above = sum(tokens <= predicted for tokens in latest) / len(latest)
    share_below = sum(tokens < predicted for tokens in latest) / len(latest)
    assert predicted in latest
    assert share_below < quantile + 1e-9 <= share_not_above + 2e-9


def test_learned_comes_close_to_its_quantile_online():
    rng = random.Random(3)
    learned, covered = Learned(quantile=0.6), 0
    for _ in range(3000):
        tokens = max(1, round(rng.lognormvariate(5, 0.8)))
        covered += tokens <= learned.predict(view())
        learned.observe(view(), tokens)
    assert covered / 3000 == pytest.approx(0.6, abs=0.04)


@pytest.mark.parametrize(
    ("text", "kind"), [("oracle", Oracle), ("noisy:0.3", Noisy), ("learned", Learned), ("learned:0.9", Learned)]
)
def test_parse(text, kind):
    assert type(parse_predictor(text, workload())) is kind


@pytest.mark.parametrize("text", ["", "oracle:1", "noisy", "noisy:x", "noisy:-1", "learned:1.5", "magic"])
def test_parse_refuses(text):
    with pytest.raises(InputError, match="predictor"):
        parse_predictor(text, workload())


@pytest.mark.parametrize("field", ["window", "min_observed", "prior_tokens"])
def test_learned_ranges(field):
    with pytest.raises(InputError, match=field):
        Learned(**{field: 0})
