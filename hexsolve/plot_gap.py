"""Pictures of gap studies. Knows instances and axes; runs nothing, and leaves matplotlib's global state alone.

The bracket is a grey band, from what nobody can beat (black) to what somebody has done (blue); policies lie above it.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from hexsolve.plot_parts import GREY, Style, figure_of, file_name, finish, png, round_ticks
from hexsolve.study.gap_results import NAMES, PlaceGaps, by_place, epochs_of, profile
from hexsolve.study.gap_run import Instance

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BAND = "#BBBBBB"
_BOUND, _BEST = "#000000", "#0072B2"
_MOST_RATIO = 3.0  # to the right of it a profile shows nothing of interest
_FIRST_S = 0.1  # left end of the axis of seconds


def gap_pictures(instances: Sequence[Instance]) -> dict[str, bytes]:
    """PNG files by name: brackets along loads, progress of the first seed of each place, profiles, gaps of epochs."""
    places = by_place(instances)
    if not places:
        return {}
    style = Style.of(list(dict.fromkeys(policy for place in places for policy in place.policies)))
    pictures: dict[str, bytes] = {}
    for group in _along_loads(places):
        first = group[0].instances[0].place
        title = f"{first.workload} on {first.cluster.name}"
        name = file_name("brackets", first.cluster.name, first.workload)
        pictures[name] = png(plot_brackets(group, style, title))
    for place in places:
        instance = place.instances[0]
        where = instance.place
        name = file_name("progress", where.cluster.name, where.workload, where.load.label)
        pictures[name] = png(plot_progress(instance))
    pictures["profiles.png"] = png(plot_profiles(places, style))
    if epochs_of(instances):
        pictures["epochs.png"] = png(plot_epochs(instances))
    return pictures


def plot_brackets(group: Sequence[PlaceGaps], style: Style, title: str) -> "Figure":
    """[bound, best known] and every policy, by load, a panel per objective; means over seeds."""
    figure, panels = figure_of(1, len(NAMES), max(2.5, 0.6 * len(group)))
    for axes, name in zip(panels, NAMES, strict=True):
        _draw_brackets(axes, group, name, style)
    panels[0].set_ylabel("SLO scale α, stretch", fontsize=9)
    finish(figure, panels, style, f"{title}: black nobody can beat, blue somebody has reached")
    return figure


def _draw_brackets(axes: "Axes", group: Sequence[PlaceGaps], name: str, style: Style) -> None:
    from matplotlib.ticker import NullLocator

    lowest, highest = np.inf, 0.0
    for position, place in enumerate(group):
        low, high = place.mean(name, "bound"), place.mean(name, "best")
        axes.fill_between([position - 0.4, position + 0.4], low, high, color=_BAND, linewidth=0)
        axes.hlines(low, position - 0.4, position + 0.4, color=_BOUND, linewidth=1.6)
        axes.hlines(high, position - 0.4, position + 0.4, color=_BEST, linewidth=1.6)
        lowest, highest = min(lowest, low), max(highest, high)
        for number, policy in enumerate(policy for policy in style.looks if policy in place.policies):
            value = place.mean(name, "values_of", policy)
            aside = 0.6 * ((number + 0.5) / len(style.looks) - 0.5)
            label = policy if position == 0 else None
            axes.plot(
                [position + aside],
                [value],
                marker="o",
                markersize=4,
                color=style.looks[policy][0],
                linestyle="none",
                label=label,
            )
            highest = max(highest, value)
    axes.set_title(NAMES[name], fontsize=10)
    axes.set_xticks(range(len(group)), [place.instances[0].place.load.label for place in group])
    axes.set_xlim(-0.6, len(group) - 0.4)
    axes.set_yscale("log")
    axes.set_ylim(0.95 * lowest, 1.05 * highest)
    ticks = round_ticks(0.95 * lowest, 1.05 * highest)
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.yaxis.set_minor_locator(NullLocator())


def plot_progress(instance: Instance) -> "Figure":
    """Certified bound and best schedule over the seconds that were spent, a panel per objective."""
    figure, panels = figure_of(1, len(NAMES), 2.7)
    bracket = instance.bracket
    end_s = max(bracket.bounds_s + bracket.search_s, 2 * _FIRST_S)
    for axes, name in zip(panels, NAMES, strict=True):
        bound, best = bracket.bounds[name], bracket.best[name]
        proved = [_FIRST_S, max(bound.at_s, _FIRST_S), end_s], [bound.path, bound.value, bound.value]
        times = [max(step.at_s, _FIRST_S) for step in best.steps]
        found = [*times, end_s], [*(step.value for step in best.steps), best.value]
        axes.step(*found, where="post", color=_BEST, linewidth=1.6, label="best schedule known")
        axes.step(*proved, where="post", color=_BOUND, linewidth=1.6, label="certified bound")
        axes.fill_between([times[0], end_s], bound.value, best.value, color=_BAND, alpha=0.5, linewidth=0)
        axes.set_xscale("log")
        axes.set_xlim(_FIRST_S, end_s)
        width = best.value / bound.value - 1.0
        axes.set_title(f"{NAMES[name]}: [{bound.value:.2f}, {best.value:.2f}], {width:.0%}", fontsize=9)
        axes.set_xlabel("seconds", fontsize=9)
    looks = {"best schedule known": (_BEST, "-"), "certified bound": (_BOUND, "-")}
    finish(figure, panels, Style(looks), instance.label)
    return figure


def plot_profiles(places: Sequence[PlaceGaps], style: Style) -> "Figure":
    """Performance profiles: share of instances within a factor of the best schedule known, a panel per objective."""
    figure, panels = figure_of(1, len(NAMES), 2.7)
    for axes, name in zip(panels, NAMES, strict=True):
        worst = max(
            gap[name].above_best(policy) for place in places for gap in place.gaps for policy in gap[name].values
        )
        ratios = np.linspace(1.0, min(_MOST_RATIO, 1.05 * (1.0 + worst)), 400)
        curves = profile(places, name, ratios)
        for policy, (color, dash) in style.looks.items():
            if policy in curves:
                axes.step(
                    ratios, curves[policy], where="post", color=color, linestyle=dash, linewidth=1.6, label=policy
                )
        axes.set_title(NAMES[name], fontsize=10)
        axes.set_xlabel("times the best schedule known", fontsize=9)
        axes.set_ylim(0.0, 1.02)
        axes.set_xlim(1.0, ratios[-1])
    panels[0].set_ylabel("share of instances", fontsize=9)
    num = sum(len(place.gaps) for place in places)
    finish(figure, panels, style, f"Performance profiles over {num} instance{'s' if num > 1 else ''}")
    return figure


def plot_epochs(instances: Sequence[Instance]) -> "Figure":
    """Share of epochs whose gap is at most so much: the greedy plan's, and that of the plan that was solved for."""
    figure, panels = figure_of(1, 1, 6.0)
    rows = epochs_of(instances)
    looks = {"HexAGenT's greedy": ("#D55E00", "--"), "solver": ("#0072B2", "-")}
    series = {
        "HexAGenT's greedy": np.sort([gap for row in rows for gap in row.greedy_gaps]),
        "solver": np.sort([gap for row in rows for gap in row.gaps]),
    }
    for label, values in series.items():
        if len(values):
            share = np.arange(1, len(values) + 1) / len(values)
            color, dash = looks[label]
            axes = panels[0]
            axes.step(
                [0.0, *values], [0.0, *share], where="post", color=color, linestyle=dash, linewidth=1.6, label=label
            )
    panels[0].axhline(1.0, color=GREY, linewidth=0.7, linestyle=(0, (1, 2)), zorder=0)
    panels[0].set_xlabel("gap to the epoch's certified bound", fontsize=9)
    panels[0].set_ylabel("share of epochs", fontsize=9)
    panels[0].set_ylim(0.0, 1.02)
    panels[0].set_xlim(left=0.0)
    finish(figure, panels, Style(looks), f"{len(series['solver'])} epochs")
    return figure


def _along_loads(places: Sequence[PlaceGaps]) -> list[list[PlaceGaps]]:
    """Places that differ in their load alone, in the order of the study."""

    def where(place: PlaceGaps) -> tuple[str, str]:
        first = place.instances[0].place
        return first.cluster.name, first.workload

    return [list(group) for _, group in groupby(sorted(places, key=where), key=where)]
