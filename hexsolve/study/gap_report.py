"""A gap study in words and Markdown tables. Knows gaps and language; computes nothing.

One sentence per place answers the question that was asked; the tables are for those who want to check it.
"""

from collections.abc import Sequence

from hexsolve.study.gap_bracket import Effort
from hexsolve.study.gap_results import NAMES, Gap, PlaceGaps, by_place, epoch_figures, epochs_of
from hexsolve.study.gap_run import Instance
from hexsolve.study.slo_results import markdown_table


def markdown(name: str, effort: Effort, instances: Sequence[Instance]) -> str:
    """How to read it, a summary over places, then per place a sentence, its bracket and its policies."""
    places = by_place(instances)
    parts = [f"# Gap study {name}", "", _how_to_read(effort), ""]
    if len(places) > 1:
        parts += ["## All places", "", _summary(places), ""]
    for place in places:
        parts += [
            f"## {_heading(place)}",
            "",
            *sentences(place),
            "",
            _bracket_table(place),
            "",
            _policy_table(place),
            "",
        ]
    parts += _epochs(instances)
    errors = [f"- {found.label}, {what}: {error}" for found in instances for what, error in found.errors.items()]
    if errors:
        parts += ["## What failed", "", *errors, ""]
    return "\n".join(parts)


def sentences(place: PlaceGaps) -> list[str]:
    """The answer in words: how far the best policy is from the optimal Req95, and why nobody can be below the bound."""
    gap = place.gaps[0]["req95"]
    lines = []
    if place.policies:
        policy = min(place.policies, key=lambda name: place.mean("req95", "above_bound", name))
        low, high = (place.mean("req95", figure, policy) for figure in ("above_best", "above_bound"))
        lines.append(
            f"The best policy, `{policy}`, is at least {low:.1%} and at most {high:.1%} above the optimal Req95."
        )
    seed = "" if len(place.instances) == 1 else f" (seed {place.instances[0].seed})"
    lines.append(f"No scheduler can bring Req95 below {gap.bound:.3f}{seed} because of {gap.reason}.")
    return lines


def _how_to_read(effort: Effort) -> str:
    return (
        "Bound: no schedule at all is better, even one that knows everything in advance; certified. Best known: the "
        f"best simulated run, online or clairvoyant (bounds and search: {effort.budget_s:g} s per instance). Above "
        "best: the policy over the best known, so it is at least this far from optimal. Above bound: it is at most "
        "this far from optimal. Means over seeds."
    )


def _heading(place: PlaceGaps) -> str:
    first = place.instances[0].bracket
    seeds = "" if len(place.instances) == 1 else f", {len(place.instances)} seeds"
    return f"{place.label}, {first.num_workflows} workflows, {first.num_calls} calls{seeds}"


def _bracket_table(place: PlaceGaps) -> str:
    headings = ["objective", "bound", "best known", "width", "status", "binds", "best known by"]
    return markdown_table(headings, [_bracket_cells(place, name, [gap[name] for gap in place.gaps]) for name in NAMES])


def _bracket_cells(place: PlaceGaps, name: str, each: Sequence[Gap]) -> list[str]:
    proved = sum(gap.status == "proved optimal" for gap in each)
    status = each[0].status if len(each) == 1 else f"{proved} of {len(each)} proved"
    return [
        NAMES[name],
        *(f"{place.mean(name, figure):.3f}" for figure in ("bound", "best")),
        f"{place.mean(name, 'width'):.1%}",
        status,
        ", ".join(dict.fromkeys(gap.resource for gap in each)),
        ", ".join(dict.fromkeys(gap.origin for gap in each)),
    ]


def _policy_table(place: PlaceGaps) -> str:
    headings = ["policy"]
    for name in NAMES.values():
        headings += [name, "above best", "above bound"]
    rows = []
    for policy in place.policies:
        cells = [policy]
        for name in NAMES:
            value = place.mean(name, "values_of", policy)
            low, high = (place.mean(name, figure, policy) for figure in ("above_best", "above_bound"))
            cells += [f"{value:.3f}", f"{low:+.1%}", f"{high:+.1%}"]
        rows.append(cells)
    return markdown_table(headings, rows)


def _summary(places: Sequence[PlaceGaps]) -> str:
    headings = ["place", "binds"]
    for name in ("req95", "req99", "max_stretch"):
        headings += [f"{NAMES[name]} bound", "best known", "width"]
    headings += ["best policy", "above best", "above bound"]
    return markdown_table(headings, [_summary_cells(place) for place in places])


def _summary_cells(place: PlaceGaps) -> list[str]:
    cells = [place.label, ", ".join(dict.fromkeys(gap["req95"].resource for gap in place.gaps))]
    for name in ("req95", "req99", "max_stretch"):
        cells += [f"{place.mean(name, figure):.3f}" for figure in ("bound", "best")]
        cells.append(f"{place.mean(name, 'width'):.1%}")
    if not place.policies:
        return [*cells, "–", "–", "–"]
    policy = min(place.policies, key=lambda name: place.mean("req95", "above_bound", name))
    return [
        *cells,
        policy,
        *(f"{place.mean('req95', figure, policy):+.1%}" for figure in ("above_best", "above_bound")),
    ]


def _epochs(instances: Sequence[Instance]) -> list[str]:
    """What single epochs say, if they were measured."""
    rows = epochs_of(instances)
    if not rows:
        return []
    figures = epoch_figures(rows)
    if not figures:
        return ["## Single epochs", "", "No epoch had more than one waiting call to decide on.", ""]
    outcomes: dict[str, int] = {}
    for row in rows:
        for outcome, count in row.outcomes.items():
            outcomes[outcome] = outcomes.get(outcome, 0) + count
    table = markdown_table(
        ["plan", "proved optimal", "gap p50", "p90", "p99"],
        [
            [
                label,
                f"{figures[f'{key}_proved_optimal']:.0%}",
                *(f"{figures[f'{key}_gap_p{q}']:.1%}" for q in (50, 90, 99)),
            ]
            for label, key in (("HexAGenT's greedy", "greedy"), ("solver", "plan"))
        ],
    )
    counted = ", ".join(f"{outcome} {count}" for outcome, count in outcomes.items())
    intro = (
        f"{figures['epochs']:.0f} epochs in which the solver was called; gap: (cost − bound)/cost of the epoch's "
        "problem, the bound as it was proved within the budget."
    )
    return ["## Single epochs", "", intro, "", table, "", f"Outcomes of all epochs: {counted}.", ""]
