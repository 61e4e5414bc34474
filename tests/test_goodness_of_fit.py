"""Generated workloads against the real traces they were fitted to. Skipped where the traces are absent.

Bounds are set a little above what the fit reaches (figures in the comments are from 1,000 generated workflows) and far
below what a wrong generator shows: `test_bounds_reject_another_workload` proves that last part.
"""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ks_2samp

from hexsolve.arrivals import AZURE_CODE, AllAtOnce, fit_on_off
from hexsolve.generate import generate
from hexsolve.generate.figures import Quantiles, load_figures
from hexsolve.generate.fit import TRACES, fit
from hexsolve.io import read_workload
from hexsolve.workflow import Workflow

DATA = Path(os.environ.get("HEXSOLVE_DATA", Path(__file__).parents[2] / "shared" / "data")) / "traces"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"the real traces are not at {DATA}")

Flows = Sequence[Workflow]

# name -> (largest KS of tokens per kind, largest relative error of workflow means). The coding traces have few, long
# workflows, cut at a context limit: 59 with CV 0.8 (standard error 10 %) and 13 with CV 0.6 (17 %).
BOUNDS = {
    "text2sql": (0.15, 0.05),
    "tot-text": (0.15, 0.05),
    "tot-game24": (0.18, 0.06),
    "coding": (0.20, 0.15),
    "coding-fanout": (0.26, 0.22),
}
MIN_CALLS_OF_A_KIND = 30


def real_flows(name: str) -> Flows:
    flows = read_workload(DATA / TRACES[name][0]).workflows
    if name == "coding":  # the one turn with a sub-agent belongs to coding-fanout
        return [flow for flow in flows if all(call.kind == "main" for call in flow.calls)]
    return flows


@pytest.fixture(scope="module")
def drawn() -> dict[str, Flows]:
    return {name: generate(name, 400, 1, AllAtOnce()).workflows for name in BOUNDS}


def tokens(flows: Flows, field: str) -> dict[str, list[int]]:
    by_kind: dict[str, list[int]] = {}
    for flow in flows:
        for call in flow.calls:
            by_kind.setdefault(call.kind, []).append(getattr(call, field))
    return by_kind


def token_distances(real: Flows, other: Flows) -> dict[str, float]:
    """Kolmogorov-Smirnov distance of prompts and outputs per kind; 1 where a kind is missing."""
    distances = {}
    for field in ("input_tokens", "output_tokens"):
        seen, made = tokens(real, field), tokens(other, field)
        for kind, values in seen.items():
            if len(values) >= MIN_CALLS_OF_A_KIND:
                distances[f"{kind} {field}"] = float(ks_2samp(values, made[kind]).statistic) if kind in made else 1.0
    return distances


def shape(flows: Flows) -> dict[str, list[float]]:
    """Per workflow: calls, depth, width, tokens and delays in total."""
    levels = [flow.levels() for flow in flows]
    return {
        "calls": [len(flow.calls) for flow in flows],
        "depth": [max(level) + 1 for level in levels],
        "width": [max(Counter(level).values()) for level in levels],
        "prompt tokens": [sum(call.input_tokens for call in flow.calls) for flow in flows],
        "new tokens": [sum(call.input_tokens - call.cached_prefix_tokens for call in flow.calls) for flow in flows],
        "output tokens": [sum(call.output_tokens for call in flow.calls) for flow in flows],
        "delay": [sum(call.delay_ms for call in flow.calls) for flow in flows],
    }


def mean_errors(real: Flows, other: Flows) -> dict[str, float]:
    seen, made = shape(real), shape(other)
    return {key: abs(np.mean(made[key]) - np.mean(seen[key])) / max(np.mean(seen[key]), 1e-9) for key in seen}


@pytest.mark.parametrize("name", BOUNDS)
def test_tokens_per_kind_are_distributed_as_in_the_trace(name: str, drawn: dict[str, Flows]) -> None:
    too_far = {k: v for k, v in token_distances(real_flows(name), drawn[name]).items() if v > BOUNDS[name][0]}
    assert too_far == {}


@pytest.mark.parametrize("name", BOUNDS)
def test_workflow_means_are_those_of_the_trace(name: str, drawn: dict[str, Flows]) -> None:
    too_far = {k: v for k, v in mean_errors(real_flows(name), drawn[name]).items() if v > BOUNDS[name][1]}
    assert too_far == {}


@pytest.mark.parametrize("name", BOUNDS)
def test_workflows_vary_as_much_as_in_the_trace(name: str, drawn: dict[str, Flows]) -> None:
    # This is what the copula is for: with all calls independent the CV of game24's output totals is 0.19, not 0.41.
    seen, made = shape(real_flows(name)), shape(drawn[name])
    for key in ("calls", "depth", "output tokens"):
        real_cv, made_cv = (float(np.std(x[key]) / np.mean(x[key])) for x in (seen, made))
        assert made_cv == pytest.approx(real_cv, rel=0.3, abs=0.03), key


@pytest.mark.parametrize("name", BOUNDS)
def test_prefix_reuse_is_that_of_the_trace(name: str, drawn: dict[str, Flows]) -> None:
    def share(flows: Flows) -> float:
        calls = [call for flow in flows for call in flow.calls]
        return sum(call.cached_prefix_tokens for call in calls) / sum(call.input_tokens for call in calls)

    assert share(drawn[name]) == pytest.approx(share(real_flows(name)), abs=0.03)


@pytest.mark.parametrize("name", ["coding", "coding-fanout"])
def test_tool_delays_are_distributed_as_in_the_trace(name: str, drawn: dict[str, Flows]) -> None:
    def delays(flows: Flows) -> list[float]:
        return [call.delay_ms for flow in flows for call in flow.calls if call.dependencies]

    assert ks_2samp(delays(real_flows(name)), delays(drawn[name])).statistic < 0.1


def test_bounds_reject_another_workload(drawn: dict[str, Flows]) -> None:
    # One fitted with the wrong trace, one with all calls 30 % longer, must break the bounds of their own name.
    assert max(token_distances(real_flows("text2sql"), drawn["tot-game24"]).values()) > BOUNDS["text2sql"][0]
    assert max(mean_errors(real_flows("coding"), drawn["coding-fanout"]).values()) > BOUNDS["coding"][1]
    for name in BOUNDS:
        stretched = {kind: [1.3 * v for v in values] for kind, values in tokens(drawn[name], "input_tokens").items()}
        real = tokens(real_flows(name), "input_tokens")
        distances = [ks_2samp(v, stretched[k]).statistic for k, v in real.items() if len(v) >= MIN_CALLS_OF_A_KIND]
        assert max(distances) > BOUNDS[name][0], name


@pytest.mark.parametrize("name", TRACES)
def test_shipped_figures_are_a_fit_to_the_trace(name: str) -> None:
    shipped, again = load_figures(name), fit(name, DATA)
    assert (shipped.source, shipped.licence) == (again.source, again.licence)
    assert shipped.counts == again.counts
    assert shipped.constants == again.constants
    assert shipped.tables.keys() == again.tables.keys()
    assert shipped.steps.keys() == again.steps.keys()
    pairs = [(shipped.tables[key], again.tables[key]) for key in shipped.tables]
    for key in shipped.steps:
        pairs += [(shipped.steps[key].prompt, again.steps[key].prompt)]
        pairs += [(shipped.steps[key].output, again.steps[key].output)]
    for old, new in pairs:
        assert_same(old, new)


def assert_same(old: Quantiles, new: Quantiles) -> None:
    assert old.values == pytest.approx(new.values, abs=0.02)
    assert (old.within, old.across) == pytest.approx(
        (new.within, new.across), abs=0.01
    )  # an eigenvalue routine's slack


def test_azure_code_arrivals_have_the_recorded_burstiness() -> None:
    flows = read_workload(DATA / "AzureLLMInferenceTrace_code.csv").workflows
    recorded_ms = np.array([flow.arrival_ms for flow in flows])
    fitted = fit_on_off(recorded_ms)
    for field in ("rate_per_s", "burst_calls", "idle_share"):
        assert getattr(AZURE_CODE, field) == pytest.approx(getattr(fitted, field), rel=1e-3)
    gaps_ms = np.diff(recorded_ms)
    assert AZURE_CODE.cv == pytest.approx(gaps_ms.std() / gaps_ms.mean(), rel=0.1)  # 12.6 against 13.2
    made_ms = np.diff(AZURE_CODE.times_ms(100_000, np.random.default_rng(3)))
    assert made_ms.std() / made_ms.mean() == pytest.approx(gaps_ms.std() / gaps_ms.mean(), rel=0.2)
    assert ks_2samp(gaps_ms, made_ms).statistic < 0.35  # 0.31; Poisson 0.52, gamma gaps 0.91


def test_azure_conversation_arrivals_are_nearly_poisson() -> None:
    flows = read_workload(DATA / "AzureLLMInferenceTrace_conv.csv").workflows
    gaps_ms = np.diff([flow.arrival_ms for flow in flows])
    assert gaps_ms.std() / gaps_ms.mean() == pytest.approx(1.1, abs=0.05)
