"""Workload files: round trips, each importer's rules by arithmetic, and one clear error per kind of damage."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hexsolve.errors import InputError
from hexsolve.io import READERS, WRITERS, detect_format, read_workload, validate_file, write_workload
from hexsolve.workflow import Call, Workflow, Workload

DATA = Path(os.environ.get("HEXSOLVE_DATA", Path(__file__).parents[2] / "shared" / "data")) / "traces"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the real traces are not at {DATA}")

GOOD_CALL = {"request_id": "a", "input_length": 10, "output_length": 5}
GOOD_LINE = {"workflow_id": "w", "arrival_ms": 0.0, "calls": [GOOD_CALL]}


def put(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def line_with(**call_fields: object) -> dict[str, object]:
    return {**GOOD_LINE, "calls": [GOOD_CALL, {**GOOD_CALL, "request_id": "b", **call_fields}]}


names = st.text(min_size=1, max_size=4)


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    flows = []
    for name in draw(st.lists(names, unique=True, max_size=4)):
        ids = draw(st.lists(names, unique=True, min_size=1, max_size=5))
        calls = []
        for position, request_id in enumerate(ids):
            tokens = draw(st.integers(1, 5000))
            cached, group = draw(st.integers(0, tokens - 1)), draw(st.sampled_from(["", "g"]))
            parents = tuple(draw(st.lists(st.sampled_from(ids[:position]), unique=True))) if position else ()
            output, delay_ms = draw(st.integers(1, 9)), draw(st.floats(0, 1e9))
            calls.append(Call(request_id, tokens, output, parents, delay_ms, draw(names), cached, group))
        calls = draw(st.permutations(calls))
        flows.append(Workflow(name, draw(names), draw(st.floats(0, 1e9)), tuple(calls)))
    return Workload("drawn", tuple(flows))


@given(workloads())
def test_canonical_round_trip_keeps_everything(tmp_path_factory: pytest.TempPathFactory, workload: Workload) -> None:
    path = tmp_path_factory.mktemp("io") / "drawn.jsonl"
    write_workload(workload, path)
    if workload.workflows:
        assert read_workload(path, "canonical") == workload
        assert validate_file(path) == []
    else:
        assert validate_file(path, "canonical") == [f"{path}:1: file: expected at least one line, got an empty file"]


@given(workloads())
def test_agentic_mooncake_round_trip_keeps_graph_times_and_lengths(
    tmp_path_factory: pytest.TempPathFactory, workload: Workload
) -> None:
    path = tmp_path_factory.mktemp("io") / "drawn.jsonl"
    write_workload(workload, path, "agentic-mooncake")
    if not workload.workflows:
        return
    back = {flow.workflow_id: flow for flow in read_workload(path).workflows}
    for flow in workload.workflows:
        roots_ms = min(call.delay_ms for call in flow.calls if not call.dependencies)
        other = back[flow.workflow_id]
        assert other.arrival_ms == pytest.approx(flow.arrival_ms + roots_ms)
        for call in flow.calls:
            copy = other.calls[other.index_of(call.request_id)]
            assert (copy.input_tokens, copy.output_tokens) == (call.input_tokens, call.output_tokens)
            assert set(copy.dependencies) == set(call.dependencies)
            assert copy.prefix_group == call.prefix_group
            offset_ms = 0.0 if call.dependencies else flow.arrival_ms + roots_ms - flow.arrival_ms
            assert copy.delay_ms == pytest.approx(call.delay_ms - offset_ms, abs=1e-6)
            assert copy.cached_prefix_tokens <= call.cached_prefix_tokens


def test_agentic_mooncake_keeps_a_chains_prefix_in_whole_blocks(tmp_path: Path) -> None:
    # 1000 prompt tokens are 16 blocks of 64; of 900 cached tokens 14 blocks (896) can be told.
    calls = (Call("a", 1000, 5, prefix_group="g"), Call("b", 1100, 5, ("a",), 0.0, "", 900, "g"))
    write_workload(Workload("w", (Workflow("w", "c", 7.0, calls),)), tmp_path / "w.jsonl", "agentic-mooncake")
    (flow,) = read_workload(tmp_path / "w.jsonl").workflows
    assert [call.cached_prefix_tokens for call in flow.calls] == [0, 896]
    assert flow.workflow_class == "c"


def agentic_row(name: str, *edges: tuple[str, str, float], at_ms: float = 0.0) -> dict[str, object]:
    return {
        "request_id": name, "play_id": "p", "session_id": "s", "model": "m", "input_length": 10, "output_length": 2,
        "hash_ids": [], "not_before_ms": at_ms,
        "dependencies": [
            {"request_id": other, "trigger": trigger, "delay_ms": ms, "relation": "sequence"}
            for other, trigger, ms in edges
        ],
    }  # fmt: skip


HEADER = {
    "schema": "dynamo.agentic_mooncake", "version": 2, "block_size": 64, "hash_id_scope": "local",
    "source": {"format": "weka", "digest": "d"},
}  # fmt: skip


def test_agentic_mooncake_dispatch_edge_becomes_the_parents_own_wait(tmp_path: Path) -> None:
    # b completes-after a (+5); c starts when b starts (+2): it waits for a with 5 + 2 = 7.
    # e starts 3 after the root a starts: no dependency is left, only an offset of 3 from the arrival.
    rows = [
        agentic_row("a", at_ms=100.0),
        agentic_row("b", ("a", "completion", 5.0)),
        agentic_row("c", ("b", "dispatch", 2.0)),
        agentic_row("e", ("a", "dispatch", 3.0)),
    ]
    (flow,) = read_workload(put(tmp_path / "t.jsonl", HEADER, *rows)).workflows
    assert flow.arrival_ms == 100.0
    assert [(call.dependencies, call.delay_ms) for call in flow.calls] == [
        ((), 0.0), (("a",), 5.0), (("a",), 7.0), ((), 3.0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 3}, r":1: version: expected"),
        ({"block_size": 0}, r":1: block_size: expected an int >= 1, got 0"),
        ({"hash_id_scope": "global"}, r":1: hash_id_scope"),
    ],
)
def test_agentic_mooncake_refuses_other_headers(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_workload(put(tmp_path / "t.jsonl", {**HEADER, **change}, agentic_row("a")))


def test_dependencies_may_be_plain_strings(tmp_path: Path) -> None:
    mixed = line_with(dependencies=["a"]), {**line_with(dependencies=[{"request_id": "a"}]), "workflow_id": "v"}
    flows = read_workload(put(tmp_path / "w.jsonl", *mixed)).workflows
    assert [flow.calls[1].dependencies for flow in flows] == [("a",), ("a",)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"workflow_id": "w", "arrival_ms": 0, "calls": [{"request_id"',
            "1: line: expected valid JSON, got .*truncated",
        ),
        (json.dumps(GOOD_LINE)[:-1] + "x", "1: line: expected valid JSON"),
        ("[1, 2]", "1: line: expected `object`, got `array`"),
        (json.dumps({**GOOD_LINE, "arrival_ms": "soon"}), r"1: arrival_ms: expected `float`, got `str`"),
        (json.dumps({**GOOD_LINE, "arrival_ms": True}), r"1: arrival_ms: expected `float`, got `bool`"),
        (
            json.dumps({**GOOD_LINE, "arrival_ms": -1}),
            r"1: workflow 'w': arrival_ms: expected a finite number >= 0, got -1",
        ),
        (json.dumps({**GOOD_LINE, "arrival_ms": float("nan")}), r"1: line: expected valid JSON"),
        (json.dumps({**GOOD_LINE, "arrival_ms": 1}).replace("1,", "1e999,"), "1: .*expected .*out of range"),
        (json.dumps({**GOOD_LINE, "calls": []}), r"1: workflow 'w': calls: expected a non-empty"),
        (json.dumps({**GOOD_LINE, "kals": 1}), r"1: kals: expected no such field"),
        (json.dumps(line_with(input_length=True)), r"1: calls\[1\].input_length: expected `int`, got `bool`"),
        (json.dumps(line_with(input_length=2.5)), r"1: calls\[1\].input_length: expected `int`, got `float`"),
        (json.dumps(line_with(output_length=0)), r"1: calls\[1\]: call 'b': output_tokens: expected an int in 1\.\."),
        (json.dumps(line_with(delay=3)), r"1: calls\[1\].delay: expected no such field"),
        (json.dumps(line_with(dependencies=[3])), r"1: calls\[1\].dependencies\[0\]: expected"),
        (json.dumps(line_with(dependencies=["z"])), r"1: workflow 'w': call 'b': dependencies: .* got 'z'"),
        (json.dumps(line_with(cached_prefix=10)), r"1: calls\[1\]: call 'b': cached_prefix_tokens: .* got 10"),
        (json.dumps({**GOOD_LINE, "calls": [{"request_id": "a"}]}), r"1: calls\[0\].input_length: .*required field"),
    ],
)
def test_damage_is_named_by_file_line_and_field(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match=f"bad.jsonl:{message}"):
        read_workload(path, "canonical")
    assert len(validate_file(path, "canonical")) == 1


def test_files_that_hold_nothing_to_read(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_bytes(b"\n  \n")
    (tmp_path / "latin.jsonl").write_bytes(json.dumps(GOOD_LINE).encode() + b'\n{"workflow_id": "caf\xe9"}\n')
    with pytest.raises(InputError, match=r"empty.jsonl:1: file: expected at least one line"):
        read_workload(tmp_path / "empty.jsonl")
    with pytest.raises(InputError, match=r"latin.jsonl:2: byte 20: expected UTF-8 text, got 0xe9"):
        read_workload(tmp_path / "latin.jsonl")
    with pytest.raises(InputError, match=r"absent: file: expected a readable file, got No such file"):
        read_workload(tmp_path / "absent")
    with pytest.raises(InputError, match="file: expected a readable file, got Is a directory"):
        read_workload(tmp_path)
    with pytest.raises(InputError, match=r"expected one of the formats .* got fields \['x'\]"):
        detect_format(put(tmp_path / "what.jsonl", {"x": 1}))
    with pytest.raises(InputError, match="format: expected auto or one of"):
        read_workload(tmp_path / "latin.jsonl", "parquet")


def test_validate_lists_every_problem_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "many.jsonl"
    two_bad_calls = {
        **GOOD_LINE,
        "workflow_id": "v",
        "calls": [{**GOOD_CALL, "input_length": "x"}, {"request_id": "b"}],
    }
    lines = [json.dumps(GOOD_LINE), "{", json.dumps(two_bad_calls), "", json.dumps(GOOD_LINE)]
    path.write_bytes("\n".join(lines).encode() + b"\n\xff\xfe\n")
    problems = validate_file(path)
    assert [problem.split(": ")[:2] for problem in problems] == [
        [f"{path}:2", "line"],
        [f"{path}:3", "calls[0].input_length"],
        [f"{path}:3", "calls[1].input_length"],
        [f"{path}:5", "workflow_id"],
        [f"{path}:6", "byte 0"],
    ]
    assert problems[3].endswith(f"got 'w' again (first {path}:1)")


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = put(tmp_path / "keep.jsonl", GOOD_LINE)
    before = path.read_bytes()
    lone_surrogate = Workload("w", (Workflow("\ud800", "c", 0.0, (Call("a", 1, 1),)),))  # cannot be written as UTF-8
    with pytest.raises(UnicodeEncodeError):
        write_workload(lone_surrogate, path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["keep.jsonl"]
    with pytest.raises(InputError, match="format: expected one of"):
        write_workload(lone_surrogate, path, "azure")


def test_windows_line_ends_and_byte_order_mark_are_read(tmp_path: Path) -> None:
    path = tmp_path / "dos.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD_LINE).encode() + b"\r\n")
    assert read_workload(path).num_calls == 1


def trace_call(number: int, kind: str, *deps: int, **more: object) -> dict[str, object]:
    return {"id": number, "prompt": 100, "out": 5, "cached": 0, "deps": list(deps), "delay": 0.0, "kind": kind, **more}


def test_trace_delays_are_capped_and_null_is_zero(tmp_path: Path) -> None:
    calls = [
        trace_call(0, "main", delay=None),
        trace_call(1, "main", 0, delay=3600.0),
        trace_call(2, "main", 1, delay=2.5),
    ]
    path = put(tmp_path / "t.jsonl", {"id": "w", "arrival_s": None, "calls": calls})
    assert [call.delay_ms for call in read_workload(path).workflows[0].calls] == [0.0, 60_000.0, 2_500.0]
    assert read_workload(path, max_delay_s=10_000.0).workflows[0].calls[1].delay_ms == 3_600_000.0


def test_trace_prefix_groups_follow_sub_agents_and_reuse_stays_inside_a_group(tmp_path: Path) -> None:
    # main 0 starts two Explore agents (1-2 and 3-4), main 5 joins them. First calls of a group can reuse nothing;
    # call 4 claims its whole prompt of 100, of which 99 can be reused at most.
    calls = [
        trace_call(0, "main", cached=64),
        trace_call(1, "subagent:Explore", 0),
        trace_call(2, "subagent:Explore", 1, cached=64),
        trace_call(3, "subagent:Explore", 0, cached=64),
        trace_call(4, "subagent:Explore", 3, cached=100),
        trace_call(5, "main", 2, 4, cached=64),
    ]
    path = put(tmp_path / "t.jsonl", {"id": "w", "arrival_s": 1.5, "calls": calls})
    flow = read_workload(path).workflows[0]
    first, second = "subagent:Explore#1", "subagent:Explore#3"
    assert [call.prefix_group for call in flow.calls] == ["main", first, first, second, second, "main"]
    assert [call.cached_prefix_tokens for call in flow.calls] == [0, 0, 64, 0, 99, 64]
    assert flow.arrival_ms == 1500.0
    kept = read_workload(path, keep_foreign_prefix=True).workflows[0]
    assert [call.cached_prefix_tokens for call in kept.calls] == [64, 0, 64, 64, 99, 64]


def test_trace_samples_of_one_prompt_share_it(tmp_path: Path) -> None:
    calls = [trace_call(0, "sample"), trace_call(1, "sample", cached=99), trace_call(2, "vote", 0, 1)]
    flow = read_workload(put(tmp_path / "t.jsonl", {"id": "w", "calls": calls})).workflows[0]
    assert [call.prefix_group for call in flow.calls] == ["sample@", "sample@", "vote@0,1"]
    assert [call.cached_prefix_tokens for call in flow.calls] == [0, 99, 0]


def test_azure_rows_become_single_calls_from_the_first_arrival(tmp_path: Path) -> None:
    path = tmp_path / "az.csv"
    path.write_bytes(
        b"TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
        b"2023-11-16 18:17:03.9799600,4808,10\r\n2023-11-16 18:17:05.0799603,3180,8\r\n"
    )
    flows = read_workload(path).workflows
    assert [flow.arrival_ms for flow in flows] == pytest.approx([0.0, 1100.0003], abs=2e-4)
    assert [(flow.calls[0].input_tokens, flow.calls[0].output_tokens) for flow in flows] == [(4808, 10), (3180, 8)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("2023-11-16 18:17:03,1", ":2: row: expected 3 cells, got 2"),
        ("yesterday,1,1", ":2: TIMESTAMP: expected"),
        ("2023-11-16 18:17:03,-1,1", ":2: ContextTokens: expected a whole number, got '-1'"),
        ("2023-11-16 18:17:03,1,nan", ":2: GeneratedTokens: expected a whole number, got 'nan'"),
        ("2023-11-16 18:17:03,0,1", ":2: call '0': input_tokens: expected"),
        ("", ":2: row: expected at least one data row"),
    ],
)
def test_azure_damage(tmp_path: Path, rows: str, message: str) -> None:
    path = tmp_path / "az.csv"
    path.write_text(f"TIMESTAMP,ContextTokens,GeneratedTokens\n{rows}\n")
    with pytest.raises(InputError, match=f"az.csv{message}"):
        read_workload(path)


def mooncake_row(ms: float, tokens: int, *blocks: int) -> dict[str, object]:
    return {"timestamp": ms, "input_length": tokens, "output_length": 3, "hash_ids": list(blocks)}


def test_mooncake_sessions_follow_the_longest_extended_prefix(tmp_path: Path) -> None:
    # The first has complete blocks 0 1; the second repeats both, so it extends it: 2 x 512 cached, 5 s later. The last
    # extends the second (0 1 3 complete), 100 s later, cut to 60 s. The third shares only block 0: its own session.
    rows = [
        mooncake_row(0, 1100, 0, 1, 2),
        mooncake_row(5000, 1700, 0, 1, 3, 4),
        mooncake_row(6000, 600, 0, 9),
        mooncake_row(105_000, 2100, 0, 1, 3, 5, 6),
    ]
    path = put(tmp_path / "m.jsonl", *rows)
    assert [len(flow.calls) for flow in read_workload(path).workflows] == [1, 1, 1, 1]
    chain, alone = read_workload(path, sessions=True).workflows
    assert [(call.dependencies, call.delay_ms, call.cached_prefix_tokens) for call in chain.calls] == [
        ((), 0.0, 0), (("0",), 5000.0, 1024), (("1",), 60_000.0, 1536),
    ]  # fmt: skip
    assert len(alone.calls) == 1


def test_mooncake_sessions_need_ordered_times(tmp_path: Path) -> None:
    path = put(tmp_path / "m.jsonl", mooncake_row(5, 600, 1), mooncake_row(4, 600, 2))
    assert read_workload(path).num_calls == 2
    with pytest.raises(InputError, match=r"m.jsonl:2: timestamp: expected >= 5.0"):
        read_workload(path, sessions=True)


@needs_data
@pytest.mark.parametrize(
    ("name", "format", "workflows", "calls"),
    [
        ("text2sql.jsonl", "trace", 50, 820),
        ("tot_text.jsonl", "trace", 20, 400),
        ("tot_game24.jsonl", "trace", 20, 885),
        ("claudecode_chain.jsonl", "trace", 60, 595),
        ("claudecode_fanout.jsonl", "trace", 13, 535),
        ("AzureLLMInferenceTrace_code.csv", "azure", 8819, 8819),
        ("mooncake_conversation.jsonl", "mooncake", 12031, 12031),
    ],
)
def test_real_traces_are_read_whole(name: str, format: str, workflows: int, calls: int, tmp_path: Path) -> None:
    assert detect_format(DATA / name) == format
    workload = read_workload(DATA / name)
    assert (len(workload.workflows), workload.num_calls) == (workflows, calls)
    write_workload(workload, tmp_path / "copy.jsonl")
    assert read_workload(tmp_path / "copy.jsonl").digest() == workload.digest()


@needs_data
def test_coding_trace_reuse_survives_agentic_mooncake_exactly(tmp_path: Path) -> None:
    # Claude Code caches whole blocks of 64 tokens, the block size written here.
    workload = read_workload(DATA / "claudecode_fanout.jsonl")
    write_workload(workload, tmp_path / "copy.jsonl", "agentic-mooncake")
    back = {flow.workflow_id: flow for flow in read_workload(tmp_path / "copy.jsonl").workflows}
    for flow in workload.workflows:
        other = back[flow.workflow_id]
        for call in flow.calls:
            copy = other.calls[other.index_of(call.request_id)]
            assert copy.cached_prefix_tokens == call.cached_prefix_tokens
            assert copy.delay_ms == call.delay_ms


def test_every_writer_has_a_reader() -> None:
    assert WRITERS.keys() <= READERS.keys()
