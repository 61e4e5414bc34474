"""Templates fitted to real traces: text-to-SQL, Tree of Thought, coding agents. Knows their shape; figures are data."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from hexsolve.generate.builder import CallList
from hexsolve.generate.figures import Sampler
from hexsolve.workflow import MAX_TOKENS

Template = Callable[[Sampler], CallList]

CACHE_BLOCK = 64  # the coding traces cache whole blocks of this many tokens
_MAX_REDRAWS = 60
_SHRINK = 0.95  # of tool results, per redraw: after 60 of them they are 5 % of what was seen


def text2sql(draw: Sampler) -> CallList:
    """Staged DAG of CHESS text-to-SQL (Relaxed-System-Lab/Text2SQL-Serving-System); each stage waits for the last.

    retrieve, [keywords], 3 x retrieve, 2 candidates, revise*, tester, [unit test], tester, [evaluate x k], tester.
    """
    calls = CallList()
    last: tuple[str, ...] = ()

    def stage(kind: str, step: str, size: int = 1) -> None:
        nonlocal last
        prompts, outputs = draw.tokens(step, size)
        last = calls.stage(kind, prompts.tolist(), outputs.tolist(), last)

    stage("Information Retriever", "Information Retriever#0")
    stage("extract_keywords", "extract_keywords#0", draw.count("extract_keywords"))
    for position in (1, 2, 3):
        stage("Information Retriever", f"Information Retriever#{position}")
    last = _candidates(draw, calls, last)
    for _ in range(draw.count("revise")):
        stage("revise", "revise#0")
    stage("unit_tester", "unit_tester#0")
    tests = draw.count("generate_unit_test")
    stage("generate_unit_test", "generate_unit_test#0", tests)
    stage("unit_tester", "unit_tester#1")
    stage("evaluate", "evaluate#0", draw.count("evaluate") if tests else 0)
    stage("unit_tester", "unit_tester#2")
    return calls


def _candidates(draw: Sampler, calls: CallList, last: tuple[str, ...]) -> tuple[str, ...]:
    """Two candidates of one schema: the second prompt is shorter by a constant (another template text)."""
    kind = "generate_candidate_llama-agent"
    first, output = draw.tokens(f"{kind}#0", 1)
    second = first - int(draw.figures.constants["candidate_prompt_difference"])
    outputs = [int(output[0]), int(draw.outputs(f"{kind}#1", 1)[0])]
    return calls.stage(kind, [int(first[0]), int(second[0])], outputs, last)


def tot_text(draw: Sampler) -> CallList:
    """Tree of Thought, creative writing: 5 plans, 5 votes, 5 passages, 5 votes (arXiv 2305.10601 §4.2).

    Prompt lengths follow from the outputs exactly as in the logs: a vote reads a fixed text and all candidates; a
    passage prompt is the first prompt and the plan chosen; the candidates of the second vote include that plan.
    """
    calls = CallList()
    start = int(draw.prompts("sample#0", 1)[0])
    vote_output = int(draw.outputs("vote#0", 1)[0])
    vote_text = int(draw.figures.constants["vote_text"])
    plans = draw.outputs("sample#0", 5)
    chosen = sorted(plans.tolist())[draw.count("chosen_rank")]
    passages = draw.outputs("sample#1", 5)
    rounds = (
        ("sample", start, plans.tolist()),
        ("vote", vote_text + int(plans.sum()), [vote_output] * 5),
        ("sample", start + chosen, passages.tolist()),
        ("vote", vote_text + int(passages.sum()) + 5 * chosen, [vote_output] * 5),
    )
    last: tuple[str, ...] = ()
    for kind, prompt, outputs in rounds:
        group = f"{kind}@{','.join(last)}"
        cached = [0] + [prompt - 1] * 4
        last = tuple(
            calls.add(kind, prompt, output, last, cached=reuse, group=group)
            for output, reuse in zip(outputs, cached, strict=True)
        )
    return calls


def tot_game24(draw: Sampler) -> CallList:
    """Tree of Thought, game of 24: four rounds of proposals (1, 5, 5, 5) and the values of what is new (0 .. many).

    All values of a run have one output length, as logged (the remainder spread evenly, see the traces' SOURCE.md).
    """
    calls = CallList()
    last: tuple[str, ...] = ()
    value_output = int(draw.outputs("value#0", 1)[0])
    for step, width in enumerate((1, 5, 5, 5)):
        prompts, outputs = draw.tokens(f"propose#{step}", width)
        last = calls.stage("propose", prompts.tolist(), outputs.tolist(), last)
        values = max(0, round(float(draw.table(f"values#{step}", 1)[0])))
        last = calls.stage("value", draw.prompts(f"value#{step}", values).tolist(), [value_output] * values, last)
    return calls


def coding(draw: Sampler) -> CallList:
    """A coding agent's turn: a chain whose prompt grows by the last output and a tool result.

    The trace was cut at a context limit, so long chains in it grow slowly. Likewise here: while a prompt exceeds the
    limit, the turn is drawn again with the same number of calls and first prompt but with smaller tool results.
    """
    return _within_limit(draw, _plan(draw))


def coding_fanout(draw: Sampler) -> CallList:
    """A coding agent's turn with sub-agents: the main chain spawns blocks of 1 to 3 sub-agent chains and joins them."""
    return _within_limit(draw, _plan(draw))


@dataclass(frozen=True, slots=True)
class _Run:
    """Calls of one agent in a row: the main agent (first prompt 0: it goes on) or a sub-agent."""

    kind: str
    num_calls: int
    first_prompt: int = 0


@dataclass(frozen=True, slots=True)
class _Plan:
    """A turn without its lengths: the main agent, then blocks of sub-agents, each with the main calls after it."""

    main: _Run
    blocks: tuple[tuple[tuple[_Run, ...], _Run], ...]


def _plan(draw: Sampler) -> _Plan:
    blocks = []
    main = _draw_run(draw, "main", _whole(draw.table("main_calls first", 1)))
    for _ in range(draw.count("blocks")):
        kinds = [draw.choice("lineage_kind") for _ in range(draw.count("lineages"))]
        agents = tuple(_draw_run(draw, kind, draw.count("lineage_calls")) for kind in kinds)
        blocks.append((agents, _Run("main", _whole(draw.table("main_calls later", 1)))))
    return _Plan(main, tuple(blocks))


def _draw_run(draw: Sampler, kind: str, num_calls: int) -> _Run:
    return _Run(kind, num_calls, int(draw.prompts(kind, 1)[0]))


def _whole(values: NDArray[np.float64]) -> int:
    return max(1, round(float(values[0])))


def _within_limit(draw: Sampler, plan: _Plan) -> CallList:
    """The plan's calls, with tool results shrunk step by step until every prompt fits the context limit."""
    limit = int(draw.figures.constants["max_prompt"])
    for attempt in range(_MAX_REDRAWS):
        calls = _walk(draw, plan, _SHRINK**attempt)
        if all(call.input_tokens <= limit for call in calls.calls):
            return calls
    return _walk(draw, plan, 0.0, ceiling=limit)


def _walk(draw: Sampler, plan: _Plan, scale: float, ceiling: int = MAX_TOKENS) -> CallList:
    """The plan's calls; `scale` is put on tool results, `ceiling` is the context at which an agent drops its oldest."""
    calls = CallList()
    main = _Agent(draw, calls, plan.main, "main", scale, ceiling)
    last = main.go_on(plan.main.num_calls, ())
    for agents, rest in plan.blocks:
        ends: list[str] = []
        for run in agents:
            agent = _Agent(draw, calls, run, f"{run.kind}#{len(calls.calls)}", scale, ceiling)
            ends += agent.go_on(run.num_calls, last)
        last = main.go_on(1, tuple(ends), "join")
        last = main.go_on(rest.num_calls - 1, last)
    return calls


class _Agent:
    """One chain of calls with a growing context: the main agent or a sub-agent."""

    def __init__(self, draw: Sampler, calls: CallList, run: _Run, group: str, scale: float, ceiling: int) -> None:
        self._draw = draw
        self._calls = calls
        self._run = run
        self._group = group
        self._scale = scale
        self._ceiling = ceiling
        self._prompt = 0
        self._output = 0

    def go_on(self, num: int, parents: tuple[str, ...], why: str | None = None) -> tuple[str, ...]:
        """Append `num` calls in a chain after `parents`; return what the next call waits for.

        `why` (default: the agent's kind) names the tables of what the prompt grows by and of the delay.
        """
        draw, kind, table = self._draw, self._run.kind, why or self._run.kind
        outputs = draw.outputs(kind, num).tolist()
        results = self._results(table, num)
        delays_ms = (1e3 * np.maximum(draw.table(f"delay_s {table}", num), 0)).tolist()
        kept = self._kept(num)
        for output, result, delay_ms, share in zip(outputs, results, delays_ms, kept, strict=True):
            cached = int(self._prompt // CACHE_BLOCK * share) * CACHE_BLOCK
            grown = self._prompt + self._growth(result) if self._prompt else self._run.first_prompt
            self._prompt, self._output = min(grown, self._ceiling), output
            delay_ms = delay_ms if parents else 0.0
            add = partial(self._calls.add, delay_ms=delay_ms, cached=min(cached, self._prompt - 1), group=self._group)
            parents = (add(kind, self._prompt, output, parents),)
        return parents

    def _results(self, table: str, num: int) -> list[int]:
        """Tool results, scaled; those below 0 (dropped reasoning) are kept as they are."""
        drawn = self._draw.table(f"growth {table}", num)
        return [round(result) for result in np.where(drawn > 0, self._scale * drawn, drawn).tolist()]

    def _growth(self, result: int) -> int:
        return max(int(self._draw.figures.constants["min_growth"]), self._output + result)

    def _kept(self, num: int) -> list[float]:
        """Share of the last prompt's whole blocks that is reused: all, or less where the cache was broken."""
        broken = self._draw.rng.random(num) < self._draw.figures.constants["break_probability"]
        shares = np.clip(self._draw.table("kept_when_broken", num), 0, 1)
        kept: list[float] = np.where(broken, shares, 1.0).tolist()
        return kept


TEMPLATES: dict[str, Template] = {
    "coding": coding,
    "coding-fanout": coding_fanout,
    "text2sql": text2sql,
    "tot-game24": tot_game24,
    "tot-text": tot_text,
}
