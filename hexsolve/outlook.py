"""What a declared structure says of the rest of a workflow. Knows expected calls and standalone times; knows no load.

A client may tell what it expects: calls by name with their dependencies, lengths and tool delays. It need not be
complete and is never trusted to be right: what is revealed counts, and only what is still to come is taken from it.
"""

from collections.abc import Callable, Iterable

from hexsolve.events import DeclaredCall


def tails_ms(calls: Iterable[DeclaredCall], service_ms: Callable[[DeclaredCall], float]) -> dict[str, float]:
    """Longest path of tool delays and standalone service from the end of each call to the end of its workflow, in ms.

    Dependencies on calls that are not declared are left out.

    Raises
    ------
    ValueError
        If a name is declared twice or calls wait for one another.
    """
    by_name: dict[str, DeclaredCall] = {}
    for call in calls:
        if call.request_id in by_name:
            raise ValueError(f"call {call.request_id!r} is declared twice")
        by_name[call.request_id] = call
    parents = {name: [p for p in call.dependencies if p in by_name] for name, call in by_name.items()}
    children = dict.fromkeys(by_name, 0)
    for names in parents.values():
        for name in names:
            children[name] += 1
    last = [name for name, count in children.items() if not count]
    tails = dict.fromkeys(last, 0.0)
    while last:
        name = last.pop()
        through = by_name[name].delay_ms + service_ms(by_name[name]) + tails[name]
        for parent in parents[name]:
            tails[parent] = max(tails.get(parent, 0.0), through)
            children[parent] -= 1
            if not children[parent]:
                last.append(parent)
    if any(children.values()):
        raise ValueError(f"calls wait for one another: {[name for name, count in children.items() if count][:5]}")
    return tails
