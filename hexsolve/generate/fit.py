"""Fit the shipped figures to the real traces. Knows statistics and the templates' steps; the traces are not shipped."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import rankdata

from hexsolve.generate.figures import LEVELS, Figures, Quantiles, Step
from hexsolve.io import read_workload
from hexsolve.workflow import Call, Workflow

Samples = list[list[float]]  # per workflow, the values seen in it
Flows = Sequence[Workflow]

_MIN_TOGETHER = 8  # workflows that must have both variables before their correlation is believed
_FACTOR_ROUNDS = 50

TRACES: dict[str, tuple[str, str, str]] = {
    "text2sql": ("text2sql.jsonl", "Relaxed-System-Lab/Text2SQL-Serving-System cde83ba4", "Apache-2.0"),
    "tot-text": ("tot_text.jsonl", "princeton-nlp/tree-of-thought-llm ab400345", "MIT (c) 2023 Shunyu Yao"),
    "tot-game24": ("tot_game24.jsonl", "princeton-nlp/tree-of-thought-llm ab400345", "MIT (c) 2023 Shunyu Yao"),
    "coding": ("claudecode_chain.jsonl", "callanjfox/kv-cache-tester 94f6046d", "Apache-2.0"),
    "coding-fanout": ("claudecode_fanout.jsonl", "callanjfox/kv-cache-tester 94f6046d", "Apache-2.0"),
}


def fit(name: str, traces: Path) -> Figures:
    """The figures of one source, from the trace file in the folder `traces`.

    Raises
    ------
    InputError
        If the trace cannot be read.
    """
    file, source, licence = TRACES[name]
    flows = read_workload(traces / file, "trace").workflows
    parts = _FITS[name](flows)
    return Figures(source, licence, **parts)  # type: ignore[arg-type]


def quantiles(samples: Samples, within: float = 0.0, across: float = 0.0) -> Quantiles:
    """Quantiles at `LEVELS` of all values, kept to two decimals."""
    values = np.quantile(np.concatenate([np.asarray(s, dtype=float) for s in samples if s]), LEVELS)
    return Quantiles(tuple(np.round(values, 2).tolist()), round(within, 3) + 0.0, round(across, 3) + 0.0)


def correlated(variables: dict[str, Samples]) -> dict[str, Quantiles]:
    """Quantiles of each variable with the copula's correlations, from normal scores.

    `within`: mean product of the scores of two values of one workflow (1 if a workflow has one value).
    `across`: loading on the common factor of the workflow means, by principal-axis factoring.
    """
    scores = {name: _normal_scores(samples) for name, samples in variables.items()}
    loadings = _loadings(np.array([_row_means(rows) for rows in scores.values()]))
    fitted = {}
    for (name, samples), loading in zip(variables.items(), loadings, strict=True):
        fitted[name] = quantiles(samples, _within(scores[name]), loading)
    return fitted


def _normal_scores(samples: Samples) -> list[NDArray[np.float64]]:
    """The samples with each value replaced by the normal score of its rank; unit variance."""
    flat = np.concatenate([np.asarray(s, dtype=float) for s in samples])
    scores = ndtri((rankdata(flat) - 0.5) / len(flat))
    spread = scores.std()
    scores = scores / spread if spread > 0 else scores
    ends = np.cumsum([len(s) for s in samples])[:-1]
    return list(np.split(scores, ends))


def _within(rows: list[NDArray[np.float64]]) -> float:
    products = [a * b for row in rows for a, b in combinations(row, 2)]
    return float(np.clip(np.mean(products), 0, 1)) if products else 1.0


def _row_means(rows: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.array([row.mean() if len(row) else np.nan for row in rows])


def _loadings(means: NDArray[np.float64]) -> list[float]:
    """Loadings on one common factor of the rows [variable, workflow] (nan: no value), each in -0.95..0.95."""
    masked = np.ma.masked_invalid(means)
    together = (~masked.mask).astype(int) @ (~masked.mask).astype(int).T
    correlation = np.ma.corrcoef(masked).filled(0.0)  # type: ignore[no-untyped-call]
    correlation = np.where(together >= _MIN_TOGETHER, np.nan_to_num(correlation), 0.0)
    loading = np.full(len(means), 0.5)
    for _ in range(_FACTOR_ROUNDS):
        np.fill_diagonal(correlation, loading**2)
        values, vectors = np.linalg.eigh(correlation)
        loading = np.clip(np.sqrt(max(values[-1], 0.0)) * vectors[:, -1], -0.95, 0.95)
    heaviest = loading[np.argmax(np.abs(loading))]
    return [float(x) for x in loading * np.sign(heaviest)]


def _steps(
    flows: Flows, step_of: Callable[[Workflow], list[str]], tables: dict[str, Samples] | None = None
) -> dict[str, object]:
    """Steps of the calls and the given tables, fitted together."""
    variables: dict[str, Samples] = defaultdict(lambda: [[] for _ in flows])
    for number, flow in enumerate(flows):
        for call, step in zip(flow.calls, step_of(flow), strict=True):
            variables[f"prompt {step}"][number].append(call.input_tokens)
            variables[f"output {step}"][number].append(call.output_tokens)
    fitted = correlated({**dict(sorted(variables.items())), **(tables or {})})
    steps = sorted({name.split(" ", 1)[1] for name in variables})
    return {
        "steps": {step: Step(fitted[f"prompt {step}"], fitted[f"output {step}"]) for step in steps},
        "tables": {name: fitted[name] for name in tables or {}},
    }


def _counts(values: Iterable[int | str]) -> dict[str, int]:
    """How often each value was seen, in ascending order (numbers as numbers)."""
    seen = Counter(values)
    return {str(value): seen[value] for value in sorted(seen, key=lambda v: (isinstance(v, str), v))}


def _kind_count(flow: Workflow, kind: str) -> int:
    return sum(call.kind == kind for call in flow.calls)


# --- text-to-SQL -----------------------------------------------------------------------------------------------------

_NUMBERED = ("Information Retriever", "unit_tester", "generate_candidate_llama-agent")


def _text2sql_steps(flow: Workflow) -> list[str]:
    seen: Counter[str] = Counter()
    steps = []
    for call in flow.calls:
        steps.append(f"{call.kind}#{seen[call.kind] if call.kind in _NUMBERED else 0}")
        seen[call.kind] += 1
    return steps


def _fit_text2sql(flows: Flows) -> dict[str, object]:
    tested = [flow for flow in flows if _kind_count(flow, "generate_unit_test")]
    counts = {kind: _counts(_kind_count(f, kind) for f in flows) for kind in ("extract_keywords", "revise")}
    counts["generate_unit_test"] = _counts(_kind_count(f, "generate_unit_test") for f in flows)
    counts["evaluate"] = _counts(_kind_count(f, "evaluate") for f in tested)
    pairs = [[c.input_tokens for c in f.calls if c.kind.startswith("generate_candidate")] for f in flows]
    difference = float(np.median([first - second for first, second in pairs]))
    constants = {"candidate_prompt_difference": difference}
    return _steps(flows, _text2sql_steps) | {"counts": counts, "constants": constants}


# --- Tree of Thought -------------------------------------------------------------------------------------------------


def _round_steps(flow: Workflow) -> list[str]:
    """Kind and round, a round being a stage of proposals or samples with the votes or values after it."""
    rounds, steps, previous = -1, [], None
    for call in flow.calls:
        if call.kind in ("sample", "propose") and call.dependencies != previous:
            rounds, previous = rounds + 1, call.dependencies
        steps.append(f"{call.kind}#{rounds}")
    return steps


def _fit_tot_text(flows: Flows) -> dict[str, object]:
    residuals, ranks = [], []
    for flow in flows:
        plans, vote, passage = flow.calls[:5], flow.calls[5], flow.calls[10]
        outputs = sorted(plan.output_tokens for plan in plans)
        residuals.append(vote.input_tokens - sum(outputs))
        ranks.append(outputs.index(passage.input_tokens - plans[0].input_tokens))
    constants = {"vote_text": float(np.median(residuals))}
    return _steps(flows, _round_steps) | {"counts": {"chosen_rank": _counts(ranks)}, "constants": constants}


def _fit_tot_game24(flows: Flows) -> dict[str, object]:
    widths: dict[str, Samples] = {}
    for step in range(4):
        widths[f"values#{step}"] = [[_round_steps(flow).count(f"value#{step}")] for flow in flows]
    return _steps(flows, _round_steps, widths)


# --- coding agents ---------------------------------------------------------------------------------------------------


def _fit_coding(flows: Flows) -> dict[str, object]:
    chains = [flow for flow in flows if all(call.kind == "main" for call in flow.calls)]
    return _agents(chains) | {"counts": {"blocks": {"0": len(chains)}}}


def _fit_coding_fanout(flows: Flows) -> dict[str, object]:
    shapes = [_main_runs(flow) for flow in flows]
    lineages = [calls for flow in flows for group, calls in _by_group(flow).items() if group != "main"]
    joins = [call for flow in flows for call in flow.calls if _is_join(flow, call)]
    counts = {
        "blocks": _counts(len(runs) - 1 for runs in shapes),
        "lineages": _counts(len(call.dependencies) for call in joins),
        "lineage_kind": _counts(calls[0].kind for calls in lineages),
        "lineage_calls": _counts(len(calls) for calls in lineages),
    }
    return _agents(flows) | {"counts": counts}


def _main_runs(flow: Workflow) -> list[int]:
    """Main calls before the first join, then from each join on (the join included)."""
    runs = [0]
    for call in flow.calls:
        if call.kind == "main":
            runs = [*runs, 0] if _is_join(flow, call) else runs
            runs[-1] += 1
    return runs


def _is_join(flow: Workflow, call: Call) -> bool:
    """Whether a main call waits for sub-agents."""
    return call.kind == "main" and any(flow.calls[flow.index_of(name)].kind != "main" for name in call.dependencies)


def _by_group(flow: Workflow) -> dict[str, list[Call]]:
    groups: dict[str, list[Call]] = defaultdict(list)
    for call in flow.calls:
        groups[call.prefix_group].append(call)
    return groups


def _agents(flows: Flows) -> dict[str, object]:
    """What agents share: main calls per run, first prompts, outputs, growth and delays by kind, cache breaks.

    Growth counts from the previous call of the same agent, without that call's output.
    """
    seen: dict[str, Samples] = defaultdict(lambda: [[] for _ in flows])
    for number, flow in enumerate(flows):
        runs = _main_runs(flow)
        seen["main_calls first"][number].append(runs[0])
        if len(runs) > 1:
            seen["main_calls later"][number] += runs[1:]
        for calls in _by_group(flow).values():
            seen[f"prompt {calls[0].kind}"][number].append(calls[0].input_tokens)
            for position, call in enumerate(calls):
                step = "join" if _is_join(flow, call) else call.kind
                seen[f"output {call.kind}"][number].append(call.output_tokens)
                if call.dependencies:
                    seen[f"delay_s {step}"][number].append(call.delay_ms / 1e3)
                if position:
                    last = calls[position - 1]
                    extra = call.input_tokens - last.input_tokens - last.output_tokens
                    seen[f"growth {step}"][number].append(extra)
    fitted = correlated(dict(sorted(seen.items())))
    steps = {name.removeprefix("output ") for name in seen if name.startswith("output ")}
    kept, growths = _cache_and_growth(flows)
    broken = [ratio for ratio in kept if ratio < 1]
    return {
        "steps": {kind: Step(fitted[f"prompt {kind}"], fitted[f"output {kind}"]) for kind in sorted(steps)},
        "tables": {name: fitted[name] for name in fitted if not name.startswith(("prompt ", "output "))}
        | {"kept_when_broken": quantiles([broken])},
        "constants": {
            "break_probability": round(len(broken) / len(kept), 4),
            "min_growth": float(min(growths)),
            "max_prompt": float(max(call.input_tokens for flow in flows for call in flow.calls)),
        },
    }


def _cache_and_growth(flows: Flows) -> tuple[list[float], list[int]]:
    """Per call with a predecessor in its group: reused share of that one's whole blocks, and growth of the prompt."""
    kept, growths = [], []
    for flow in flows:
        for calls in _by_group(flow).values():
            for last, call in pairwise(calls):
                kept.append(call.cached_prefix_tokens / (last.input_tokens // 64 * 64))
                growths.append(call.input_tokens - last.input_tokens)
    return kept, growths


_FITS: dict[str, Callable[[Flows], dict[str, object]]] = {
    "coding": _fit_coding,
    "coding-fanout": _fit_coding_fanout,
    "text2sql": _fit_text2sql,
    "tot-game24": _fit_tot_game24,
    "tot-text": _fit_tot_text,
}
