"""Calls, workflows and workloads: what is refused, and that the helpers agree with networkx."""

import math
import pickle
import time
from dataclasses import FrozenInstanceError, replace

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hexsolve.errors import InputError
from hexsolve.workflow import Call, Workflow, Workload, canonical_line, relations


def call(name: str, *dependencies: str) -> Call:
    return Call(name, 10, 5, dependencies)


def workflow(*calls: Call, name: str = "w", arrival_ms: float = 0.0) -> Workflow:
    return Workflow(name, "test", arrival_ms, calls)


@st.composite
def shuffled_dags(draw: st.DrawFn) -> Workflow:
    num = draw(st.integers(1, 12))
    edges = {draw(st.tuples(st.integers(0, num - 1), st.integers(0, num - 1))) for _ in range(draw(st.integers(0, 25)))}
    calls = [call(f"c{j}", *(f"c{i}" for i, k in sorted(edges) if k == j and i < j)) for j in range(num)]
    return workflow(*draw(st.permutations(calls)))


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("request_id", "", "non-empty string"),
        ("input_tokens", 0, "int in 1..1000000000"),
        ("input_tokens", True, "int in 1..1000000000"),
        ("input_tokens", 10**9 + 1, "int in 1..1000000000"),
        ("output_tokens", 0, "int in 1..1000000000"),
        ("output_tokens", 2.0, "int in 1..1000000000"),
        ("delay_ms", -1.0, "finite number >= 0"),
        ("delay_ms", math.nan, "finite number >= 0"),
        ("delay_ms", math.inf, "finite number >= 0"),
        ("delay_ms", True, "finite number >= 0"),
        ("cached_prefix_tokens", 10, "0..9"),
        ("cached_prefix_tokens", -1, "0..9"),
        ("cached_prefix_tokens", False, "0..9"),
        ("dependencies", "abc", "tuple of strings"),
        ("dependencies", ["a"], "tuple of strings"),
        ("dependencies", [], "tuple of strings"),
        ("dependencies", ("a", "a"), "each once"),
        ("kind", None, "a string"),
        ("prefix_group", 3, "a string"),
    ],
)
def test_call_refuses_bad_fields_by_name(field: str, value: object, expected: str) -> None:
    with pytest.raises(InputError, match=expected) as error:
        replace(call("a"), **{field: value})
    assert field in str(error.value)
    assert repr(value) in str(error.value) or field == "dependencies"


def test_workflow_refuses_unknown_dependency_naming_both() -> None:
    with pytest.raises(InputError, match=r"workflow 'w': call 'b': .* got 'ghost'"):
        workflow(call("a"), call("b", "ghost"))


def test_workflow_refuses_duplicate_id_with_its_place() -> None:
    with pytest.raises(InputError, match=r"calls\[2\]: request_id 'a'"):
        workflow(call("a"), call("b"), call("a"))


def test_cycle_error_names_exactly_the_calls_of_the_cycle() -> None:
    # a -> b -> c -> d -> b: the cycle is b, c, d; a is innocent.
    with pytest.raises(InputError, match="no cycle") as error:
        workflow(call("aa"), call("bb", "aa", "dd"), call("cc", "bb"), call("dd", "cc"))
    message = str(error.value)
    assert all(name in message for name in ("bb", "cc", "dd"))
    assert "aa" not in message


def test_call_that_waits_for_itself_is_a_cycle() -> None:
    with pytest.raises(InputError, match="a -> a"):
        workflow(call("a", "a"))


@pytest.mark.parametrize("calls", [(), [call("a")], ("a",)])
def test_workflow_refuses_odd_calls(calls: object) -> None:
    with pytest.raises(InputError, match="non-empty tuple of Call"):
        Workflow("w", "test", 0.0, calls)  # type: ignore[arg-type]


@pytest.mark.parametrize("arrival_ms", [-1.0, math.inf, math.nan, False, "0"])
def test_workflow_refuses_odd_arrivals(arrival_ms: float) -> None:
    with pytest.raises(InputError, match="arrival_ms: expected a finite number"):
        workflow(call("a"), arrival_ms=arrival_ms)


def test_calls_may_stand_in_any_order() -> None:
    flow = workflow(call("b", "a"), call("a"))
    assert flow.topological_order() == (1, 0)
    assert flow.levels() == (1, 0)


@given(shuffled_dags())
def test_helpers_agree_with_networkx(flow: Workflow) -> None:
    graph = flow.graph()
    names = [c.request_id for c in flow.calls]
    for position, name in enumerate(names):
        assert flow.index_of(name) == position
        assert {names[i] for i in flow.parent_indices()[position]} == set(graph.predecessors(name))
        assert {names[i] for i in flow.children_indices()[position]} == set(graph.successors(name))
    generation = {name: depth for depth, layer in enumerate(nx.topological_generations(graph)) for name in layer}
    assert flow.levels() == tuple(generation[name] for name in names)
    place = {position: rank for rank, position in enumerate(flow.topological_order())}
    assert sorted(place) == list(range(len(names)))
    assert all(place[p] < place[c] for c, ps in enumerate(flow.parent_indices()) for p in ps)


def test_workload_sorts_by_arrival_and_keeps_ties() -> None:
    flows = [workflow(call("a"), name=n, arrival_ms=t) for n, t in (("x", 5.0), ("y", 1.0), ("z", 5.0))]
    assert [w.workflow_id for w in Workload("t", tuple(flows)).workflows] == ["y", "x", "z"]


def test_workload_refuses_two_workflows_of_one_name() -> None:
    with pytest.raises(InputError, match="'w': expected once"):
        Workload("t", (workflow(call("a")), workflow(call("b"))))


def test_digest_sees_every_field_but_not_the_name() -> None:
    flow = workflow(call("a"), call("b", "a"))
    base = Workload("one", (flow,)).digest()
    assert Workload("two", (flow,)).digest() == base
    changed = {
        "request_id": "q", "input_tokens": 11, "output_tokens": 6, "dependencies": (), "delay_ms": 0.5, "kind": "k",
        "cached_prefix_tokens": 1, "prefix_group": "g",
    }  # fmt: skip
    for name, value in changed.items():
        other = replace(flow, calls=(flow.calls[0], replace(flow.calls[1], **{name: value})))  # type: ignore[arg-type]
        assert Workload("one", (other,)).digest() != base, name
    assert Workload("one", (replace(flow, arrival_ms=1.0),)).digest() != base
    assert Workload("one", (replace(flow, workflow_class="u"),)).digest() != base


def test_whole_numbers_of_milliseconds_are_the_same_as_floats() -> None:
    assert canonical_line(workflow(call("a"), arrival_ms=3)) == canonical_line(workflow(call("a"), arrival_ms=3.0))


def test_nouns_are_frozen_and_survive_pickling() -> None:
    flow = workflow(call("a"), call("b", "a"))
    copy = pickle.loads(pickle.dumps(flow))
    assert copy == flow
    assert copy.index_of("b") == 1
    with pytest.raises(FrozenInstanceError):
        flow.arrival_ms = 1.0  # type: ignore[misc]


def test_a_hundred_thousand_calls_are_quick_to_build() -> None:
    names = [f"c{i}" for i in range(100)]
    start = time.process_time()
    for number in range(1000):
        calls = [Call(name, 10, 5, (names[i - 1],) if i else ()) for i, name in enumerate(names)]
        Workflow(f"w{number}", "test", 0.0, tuple(calls))
    assert time.process_time() - start < 5.0  # about 0.4 s on a 2020s core; 5 s means something is quadratic


def test_numpy_integers_are_refused_at_the_door() -> None:
    with pytest.raises(InputError, match="input_tokens"):
        Call("a", np.int64(3), 1)  # type: ignore[arg-type]


def test_relations_name_fan_out_join_and_sequence() -> None:
    # a spawns b and c; d joins them; e follows d alone.
    flow = workflow(call("a"), call("b", "a"), call("c", "a"), call("d", "b", "c"), call("e", "d"))
    assert relations(flow) == ["sequence", "spawn", "spawn", "join", "sequence"]
