"""Generated workloads: reproducible, prefix-stable, of the right shape, and equal to what is shipped."""

import hashlib
import json
from collections import Counter

import numpy as np
import pytest

from hexsolve.arrivals import AllAtOnce
from hexsolve.errors import InputError
from hexsolve.generate import NAMES, default_arrivals, generate, generate_workflow
from hexsolve.generate.figures import LEVELS, Figures, Quantiles, Sampler, load_figures, workload_instances
from hexsolve.generate.instances import SEED, sample_size
from hexsolve.generate.templates import CACHE_BLOCK
from hexsolve.io import read_workload
from hexsolve.workflow import Workflow


def test_the_nine_names() -> None:
    assert sorted(NAMES) == sorted(
        ["text2sql", "tot-text", "tot-game24", "coding", "coding-fanout", "sharegpt", "bfcl", "lats", "mixed"]
    )


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_bytes_and_longer_begins_with_shorter(name: str) -> None:
    short, again, longer = generate(name, 4, 7), generate(name, 4, 7), generate(name, 6, 7)
    assert short.digest() == again.digest()
    assert longer.workflows[:4] == short.workflows
    assert generate(name, 4, 8).digest() != short.digest()


@pytest.mark.parametrize("name", NAMES)
def test_workflow_depends_on_seed_and_number_only(name: str) -> None:
    drawn = generate(name, 3, 5, AllAtOnce()).workflows
    assert [generate_workflow(name, 5, number) for number in (2, 1, 0)] == list(reversed(drawn))


@pytest.mark.parametrize("name", NAMES)
def test_shipped_sample_is_what_its_manifest_says(name: str) -> None:
    folder = workload_instances()
    entry = json.loads(folder.joinpath("manifest.json").read_bytes())[f"{name}.jsonl"]
    content = folder.joinpath(f"{name}.jsonl").read_bytes()
    assert hashlib.sha256(content).hexdigest() == entry["digest"]
    assert entry["seed"] == SEED
    assert entry["generator"] == f"hexsolve.generate.generate({name!r}, {sample_size(name)}, {SEED})"
    assert set(entry) == {"seed", "generator", "digest", "source", "licence"}
    shipped = read_workload(str(folder.joinpath(f"{name}.jsonl")))
    assert shipped.digest() == generate(name, sample_size(name), SEED).digest()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("chess", 1, 1), "name: expected one of coding"),
        (("bfcl", 0, 1), "num_workflows: expected an int >= 1, got 0"),
        (("bfcl", True, 1), "num_workflows: expected an int >= 1, got True"),
        (("bfcl", 1, -1), "seed: expected an int >= 0, got -1"),
        (("bfcl", 1, 1.5), r"seed: expected an int >= 0, got 1\.5"),
    ],
)
def test_bad_arguments_are_refused(arguments: tuple[str, int, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        generate(*arguments)


def test_default_arrivals_are_the_papers_rates() -> None:
    rates = {name: default_arrivals(name).rate_per_s for name in ("sharegpt", "bfcl", "lats", "mixed", "coding")}
    assert rates == {"sharegpt": 10.0, "bfcl": 40.0, "lats": 40.0, "mixed": 10.0, "coding": 1.0}
    arrivals = [flow.arrival_ms for flow in generate("bfcl", 2000, 1).workflows]
    assert np.mean(np.diff(arrivals)) == pytest.approx(25.0, rel=0.1)  # 40/s, standard error 2 %


def test_mixed_takes_its_sources_in_turn() -> None:
    flows = generate("mixed", 6, 3, AllAtOnce()).workflows
    assert [flow.workflow_class for flow in flows] == ["sharegpt", "bfcl", "lats"] * 2
    assert flows[4] == generate_workflow("bfcl", 3, 4)


@pytest.mark.parametrize(
    ("name", "mean_calls", "mean_prompt", "mean_output"),
    [("sharegpt", 6.66, 256, 277), ("bfcl", 10.75, 735, 34), ("lats", 159.7, 467, 73)],
)
def test_published_means_are_met_within_five_percent(
    name: str, mean_calls: float, mean_prompt: float, mean_output: float
) -> None:
    # 1,000 workflows or more: the standard error of the mean number of calls is at most 0.93/sqrt(3000) = 1.7 %.
    flows = generate(name, 1000 if name == "lats" else 3000, 11, AllAtOnce()).workflows
    calls = [call for flow in flows for call in flow.calls]
    assert len(calls) / len(flows) == pytest.approx(mean_calls, rel=0.05)
    assert np.mean([call.input_tokens for call in calls]) == pytest.approx(mean_prompt, rel=0.05)
    assert np.mean([call.output_tokens for call in calls]) == pytest.approx(mean_output, rel=0.05)
    assert all(call.cached_prefix_tokens == 0 and call.delay_ms == 0 for call in calls)


def is_chain(flow: Workflow) -> bool:
    return [call.dependencies for call in flow.calls] == [(), *((call.request_id,) for call in flow.calls[:-1])]


@pytest.mark.parametrize("name", ["sharegpt", "bfcl", "coding"])
def test_chains_are_chains(name: str) -> None:
    assert all(is_chain(flow) for flow in generate(name, 30, 2).workflows)


def test_lats_rounds_expand_value_and_join() -> None:
    for flow in generate("lats", 5, 4).workflows:
        levels = flow.levels()
        by_level: dict[int, list[str]] = {}
        for call, level in zip(flow.calls, levels, strict=True):
            by_level.setdefault(level, []).append(call.kind)
        for level, kinds in by_level.items():
            assert set(kinds) == {"expand" if level % 2 == 0 else "value"}
            assert 1 <= len(kinds) <= 9
        for position, call in enumerate(flow.calls):
            if call.kind == "value":  # each value follows its own expansion
                assert len(call.dependencies) == 1
            elif levels[position]:  # each expansion waits for every value of the round before
                assert len(call.dependencies) == len(by_level[levels[position] - 1])


def test_tot_text_prompts_follow_from_the_outputs() -> None:
    vote_text = load_figures("tot-text").constants["vote_text"]
    for flow in generate("tot-text", 20, 5).workflows:
        plans, votes, passages, finals = (flow.calls[k : k + 5] for k in (0, 5, 10, 15))
        chosen = passages[0].input_tokens - plans[0].input_tokens
        assert chosen in {plan.output_tokens for plan in plans}
        assert votes[0].input_tokens == vote_text + sum(plan.output_tokens for plan in plans)
        assert finals[0].input_tokens == vote_text + sum(p.output_tokens for p in passages) + 5 * chosen
        assert [call.cached_prefix_tokens for call in votes] == [0] + [votes[0].input_tokens - 1] * 4


def test_text2sql_stages_come_in_order() -> None:
    order = "Information Retriever, extract_keywords, generate_candidate_llama-agent, revise, unit_tester"
    for flow in generate("text2sql", 30, 6).workflows:
        kinds = [call.kind for call in flow.calls]
        counts = Counter(kinds)
        assert counts["Information Retriever"] == 4
        assert counts["generate_candidate_llama-agent"] == 2
        assert counts["unit_tester"] == 3
        assert counts["generate_unit_test"] <= 1
        assert (counts["evaluate"] > 0) == (counts["generate_unit_test"] == 1)
        assert kinds[0] == order.split(", ")[0]
        assert kinds[-1] == "unit_tester"
        levels = flow.levels()
        assert all(max(levels) == level or level + 1 in levels for level in levels)


def test_game24_proposals_alternate_with_values() -> None:
    for flow in generate("tot-game24", 30, 6).workflows:
        assert Counter(call.kind for call in flow.calls)["propose"] == 16
        for call in flow.calls:
            parents = {flow.calls[flow.index_of(name)].kind for name in call.dependencies}
            assert len(parents) <= 1
            assert call.kind == "propose" or parents == {"propose"}


@pytest.mark.parametrize("name", ["coding", "coding-fanout"])
def test_coding_prompts_grow_and_reuse_whole_blocks_of_the_last(name: str) -> None:
    limit = load_figures(name).constants["max_prompt"]
    whole = broken = 0
    for flow in generate(name, 60, 9).workflows:
        last: dict[str, int] = {}
        for call in flow.calls:
            assert call.input_tokens <= limit
            before = last.get(call.prefix_group, 0)
            assert call.input_tokens >= before
            reusable = min(before // CACHE_BLOCK * CACHE_BLOCK, call.input_tokens - 1)
            assert call.cached_prefix_tokens <= reusable
            whole += before > 0 and call.cached_prefix_tokens == reusable
            broken += call.cached_prefix_tokens < reusable
            last[call.prefix_group] = call.input_tokens
    assert 0 < broken < 0.1 * whole


def test_coding_fanout_joins_every_sub_agent() -> None:
    widths = Counter[int]()
    for flow in generate("coding-fanout", 40, 9).workflows:
        children = flow.children_indices()
        ends = [i for i, c in enumerate(flow.calls) if not children[i]]
        assert [flow.calls[i].kind for i in ends] == ["main"]
        widths[max(len(c.dependencies) for c in flow.calls)] += 1
    assert set(widths) == {1, 2, 3}


def flat(value: float, within: float, across: float) -> Quantiles:
    return Quantiles(tuple(value * level for level in LEVELS), within, across)


def test_sampler_correlations_are_those_asked_for() -> None:
    # Uniform margins: a rank correlation of r in the scores shows as 6/pi * asin(r/2) in the values.
    figures = Figures("s", "l", tables={"a": flat(1, 0.6, 0.8), "b": flat(1, 1.0, 0.5), "c": flat(1, 0.0, 0.0)})
    rows = []
    for seed in range(4000):
        draw = Sampler(figures, np.random.default_rng(seed))
        rows.append([*draw.table("a", 2), *draw.table("b", 1), *draw.table("c", 1)])
    seen = np.corrcoef(np.array(rows).T)
    spearman = 6 / np.pi * np.arcsin(np.array([0.6, 0.6**0.5 * 0.8 * 0.5, 0.0]) / 2)
    assert [seen[0, 1], seen[0, 2], seen[0, 3]] == pytest.approx(spearman.tolist(), abs=0.05)


def test_unknown_figures_are_refused() -> None:
    with pytest.raises(InputError, match="figures: expected a shipped source, got 'nope'"):
        load_figures("nope")
