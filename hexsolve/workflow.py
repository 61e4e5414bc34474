"""Calls, workflows and workloads as they truly are. Knows DAGs and token counts; knows nothing of clusters."""

import hashlib
import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hexsolve.errors import InputError

if TYPE_CHECKING:
    import networkx as nx

MAX_TOKENS = 10**9  # keeps sums of squares over a workload inside int64; no LLM comes near it


@dataclass(frozen=True, slots=True)
class Call:
    """One LLM call of a workflow.

    Parameters
    ----------
    request_id : str
        Name, unique within its workflow.
    input_tokens : int
        Prompt tokens, 1 .. MAX_TOKENS.
    output_tokens : int
        True output tokens, 1 .. MAX_TOKENS. The simulator knows it; no policy ever sees it.
    dependencies : tuple of str
        `request_id`s of the same workflow that must finish before this call is revealed.
    delay_ms : float
        Tool time between the last dependency's finish (or the arrival) and the reveal, >= 0.
    kind : str
        Step kind, such as ``"evaluate"``.
    cached_prefix_tokens : int
        Reusable prompt prefix, 0 .. input_tokens - 1, if the prefill replica holds the group's prefix.
    prefix_group : str
        Calls of one workflow with equal group share a prefix (such as a sub-agent's name).

    Raises
    ------
    InputError
        If a field has the wrong type or lies outside its range.
    """

    request_id: str
    input_tokens: int
    output_tokens: int
    dependencies: tuple[str, ...] = ()
    delay_ms: float = 0.0
    kind: str = ""
    cached_prefix_tokens: int = 0
    prefix_group: str = ""

    def __post_init__(self) -> None:
        if type(self.request_id) is not str or not self.request_id:
            raise InputError(f"call request_id: expected a non-empty string, got {self.request_id!r}")
        if type(self.kind) is not str or type(self.prefix_group) is not str:
            field_name = "kind" if type(self.kind) is not str else "prefix_group"
            raise InputError(
                f"call {self.request_id!r}: {field_name}: expected a string, got {getattr(self, field_name)!r}"
            )
        self._check_tokens()
        self._check_dependencies()
        delay_ms = non_negative_ms(self.delay_ms, f"call {self.request_id!r}: delay_ms")
        object.__setattr__(self, "delay_ms", delay_ms)

    def _check_tokens(self) -> None:
        for name, tokens in (("input_tokens", self.input_tokens), ("output_tokens", self.output_tokens)):
            if type(tokens) is not int or not 1 <= tokens <= MAX_TOKENS:
                where = f"call {self.request_id!r}: {name}"
                raise InputError(f"{where}: expected an int in 1..{MAX_TOKENS}, got {tokens!r}")
        cached = self.cached_prefix_tokens
        if type(cached) is not int or not 0 <= cached < self.input_tokens:
            raise InputError(
                f"call {self.request_id!r}: cached_prefix_tokens: expected an int in 0..{self.input_tokens - 1} "
                f"(input_tokens - 1), got {cached!r}"
            )

    def _check_dependencies(self) -> None:
        dependencies = self.dependencies
        if not dependencies and type(dependencies) is tuple:
            return
        if type(dependencies) is not tuple or any(type(name) is not str for name in dependencies):
            raise InputError(
                f"call {self.request_id!r}: dependencies: expected a tuple of strings, got {dependencies!r}"
            )
        if len(set(dependencies)) != len(dependencies):
            raise InputError(f"call {self.request_id!r}: dependencies: expected each once, got {list(dependencies)}")


@dataclass(frozen=True, slots=True)
class Workflow:
    """One user request: a directed acyclic graph of calls that arrives at `arrival_ms`.

    Parameters
    ----------
    workflow_id : str
        Name, unique within a workload.
    workflow_class : str
        What kind of workflow it is, such as ``"text2sql"``; may be empty.
    arrival_ms : float
        Arrival time, >= 0.
    calls : tuple of Call
        At least one; in any order.

    Raises
    ------
    InputError
        On no calls, a duplicate `request_id`, an unknown dependency or a cycle (all named).
    """

    workflow_id: str
    workflow_class: str
    arrival_ms: float
    calls: tuple[Call, ...]
    _index: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if type(self.workflow_id) is not str or not self.workflow_id:
            raise InputError(f"workflow_id: expected a non-empty string, got {self.workflow_id!r}")
        where = f"workflow {self.workflow_id!r}"
        if type(self.workflow_class) is not str:
            raise InputError(f"{where}: workflow_class: expected a string, got {self.workflow_class!r}")
        if type(self.calls) is not tuple or not self.calls or any(type(call) is not Call for call in self.calls):
            raise InputError(f"{where}: calls: expected a non-empty tuple of Call, got {self.calls!r:.80}")
        object.__setattr__(self, "arrival_ms", non_negative_ms(self.arrival_ms, f"{where}: arrival_ms"))
        object.__setattr__(self, "_index", _unique_index(self.calls, where))
        if not _dependencies_point_back(self.calls, self._index, where):
            _refuse_cycle(self.graph(), where)

    def index_of(self, request_id: str) -> int:
        """Position in `calls` of the call with this name; KeyError if there is none."""
        return self._index[request_id]

    def parent_indices(self) -> tuple[tuple[int, ...], ...]:
        """For each call, the positions of the calls it depends on."""
        return tuple(tuple(self._index[name] for name in call.dependencies) for call in self.calls)

    def children_indices(self) -> tuple[tuple[int, ...], ...]:
        """For each call, the positions of the calls that depend on it, in call order."""
        children: list[list[int]] = [[] for _ in self.calls]
        for position, call in enumerate(self.calls):
            for name in call.dependencies:
                children[self._index[name]].append(position)
        return tuple(map(tuple, children))

    def topological_order(self) -> tuple[int, ...]:
        """Positions of the calls, every call after all its dependencies; deterministic (breadth first, call order)."""
        children = self.children_indices()
        missing = [len(call.dependencies) for call in self.calls]
        order = [position for position, count in enumerate(missing) if count == 0]
        for position in order:
            for child in children[position]:
                missing[child] -= 1
                if missing[child] == 0:
                    order.append(child)
        return tuple(order)

    def levels(self) -> tuple[int, ...]:
        """For each call, the number of calls on the longest dependency path before it (sources are 0)."""
        parents = self.parent_indices()
        level = [0] * len(self.calls)
        for position in self.topological_order():
            level[position] = 1 + max((level[parent] for parent in parents[position]), default=-1)
        return tuple(level)

    def graph(self) -> "nx.DiGraph[str]":
        """The dependency graph: a node per `request_id`, an edge from each dependency to its dependant."""
        import networkx as nx

        graph: nx.DiGraph[str] = nx.DiGraph()
        graph.add_nodes_from(call.request_id for call in self.calls)
        graph.add_edges_from((name, call.request_id) for call in self.calls for name in call.dependencies)
        return graph


@dataclass(frozen=True, slots=True)
class Workload:
    """Workflows in order of arrival (sorted here, ties keep the given order).

    Raises
    ------
    InputError
        If two workflows have the same `workflow_id`.
    """

    name: str
    workflows: tuple[Workflow, ...]

    def __post_init__(self) -> None:
        if any(type(workflow) is not Workflow for workflow in self.workflows):
            raise InputError(f"workload {self.name!r}: workflows: expected only Workflow objects")
        seen: set[str] = set()
        for workflow in self.workflows:
            if workflow.workflow_id in seen:
                raise InputError(
                    f"workload {self.name!r}: workflow_id {workflow.workflow_id!r}: expected once, got twice"
                )
            seen.add(workflow.workflow_id)
        in_order = sorted(self.workflows, key=lambda workflow: workflow.arrival_ms)
        object.__setattr__(self, "workflows", tuple(in_order))

    @property
    def num_calls(self) -> int:
        """Calls over all workflows."""
        return sum(len(workflow.calls) for workflow in self.workflows)

    def digest(self) -> str:
        """SHA-256 (hex) of the canonical JSON lines; the name does not count."""
        sha = hashlib.sha256()
        for workflow in self.workflows:
            sha.update(canonical_line(workflow).encode())
        return sha.hexdigest()


def canonical_record(workflow: Workflow) -> dict[str, Any]:
    """The workflow as plain data, with the names of the canonical JSON line (DESIGN §6) in their fixed order."""
    calls = zip(workflow.calls, relations(workflow), strict=True)
    return {
        "workflow_id": workflow.workflow_id,
        "class": workflow.workflow_class,
        "arrival_ms": workflow.arrival_ms,
        "calls": [_call_record(call, relation) for call, relation in calls],
    }


def relations(workflow: Workflow) -> list[str]:
    """For each call, what its dependencies mean, in the words of Agentic Mooncake v2; readers may ignore it.

    ``"join"``: several dependencies; ``"spawn"``: one, which several calls depend on; ``"sequence"``: one to one.
    """
    children = workflow.children_indices()
    words = []
    for parents in workflow.parent_indices():
        alone = len(parents) < 2
        words.append("join" if not alone else "spawn" if parents and len(children[parents[0]]) > 1 else "sequence")
    return words


def canonical_line(workflow: Workflow) -> str:
    """One canonical JSON line, newline included: no blanks, fixed field order, shortest exact floats, UTF-8 text."""
    return json.dumps(canonical_record(workflow), ensure_ascii=False, separators=(",", ":"), allow_nan=False) + "\n"


def _call_record(call: Call, relation: str) -> dict[str, Any]:
    return {
        "request_id": call.request_id,
        "input_length": call.input_tokens,
        "output_length": call.output_tokens,
        "dependencies": [{"request_id": name, "relation": relation} for name in call.dependencies],
        "delay_ms": call.delay_ms,
        "kind": call.kind,
        "cached_prefix": call.cached_prefix_tokens,
        "prefix_group": call.prefix_group,
    }


def non_negative_ms(value: float, where: str) -> float:
    """`value` as a float; InputError unless it is a finite number >= 0 (booleans are not numbers)."""
    if type(value) not in (float, int) or not math.isfinite(value) or value < 0:
        raise InputError(f"{where}: expected a finite number >= 0, got {value!r}")
    return float(value)


def _unique_index(calls: tuple[Call, ...], where: str) -> dict[str, int]:
    index: dict[str, int] = {}
    for position, call in enumerate(calls):
        if index.setdefault(call.request_id, position) != position:
            raise InputError(f"{where}: calls[{position}]: request_id {call.request_id!r}: expected once, got twice")
    return index


def _dependencies_point_back(calls: tuple[Call, ...], index: dict[str, int], where: str) -> bool:
    """Whether each dependency stands earlier in `calls`: such an order is itself a proof that there is no cycle."""
    points_back = True
    for position, call in enumerate(calls):
        for name in call.dependencies:
            if name not in index:
                raise InputError(
                    f"{where}: call {call.request_id!r}: dependencies: expected ids of the same workflow, got {name!r}"
                )
            points_back = points_back and index[name] < position
    return points_back


def _refuse_cycle(graph: "nx.DiGraph[str]", where: str) -> None:
    import networkx as nx

    if nx.is_directed_acyclic_graph(graph):
        return
    names = [edge[0] for edge in nx.find_cycle(graph)]
    raise InputError(f"{where}: dependencies: expected no cycle, got {' -> '.join([*names, names[0]])}")
