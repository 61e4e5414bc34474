"""Calls of a workflow, stage by stage. Knows how to number and join them; knows no workload."""

from collections.abc import Iterable, Sequence

from hexsolve.workflow import Call, Workflow


class CallList:
    """Collects the calls of one workflow; `request_id`s are their numbers."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def add(
        self,
        kind: str,
        prompt: int,
        output: int,
        parents: Iterable[str] = (),
        *,
        delay_ms: float = 0.0,
        cached: int = 0,
        group: str = "",
    ) -> str:
        """Append one call and return its `request_id`; delays are kept to a microsecond."""
        name = str(len(self.calls))
        delay_ms = round(float(delay_ms), 3)
        call = Call(name, int(prompt), int(output), tuple(parents), delay_ms, kind, int(cached), group)
        self.calls.append(call)
        return name

    def stage(
        self, kind: str, prompts: Sequence[int], outputs: Sequence[int], parents: Sequence[str]
    ) -> tuple[str, ...]:
        """Append calls that wait for the same parents; return their `request_id`s, or `parents` if there are none."""
        names = tuple(self.add(kind, prompt, output, parents) for prompt, output in zip(prompts, outputs, strict=True))
        return names or tuple(parents)

    def workflow(self, name: str, workflow_class: str) -> Workflow:
        """The workflow, arriving at 0."""
        return Workflow(name, workflow_class, 0.0, tuple(self.calls))
