"""Pictures of SLO studies. Knows comparisons and axes; runs nothing, and leaves matplotlib's global state alone.

Bands are 95 % bootstrap intervals over seeds, as in the tables. A policy has one colour and one line style in all
pictures of a study.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from hexsolve.plot_parts import GREY, Style, figure_of, file_name, finish, png, round_ticks
from hexsolve.study.slo_results import Comparison, attainment_band

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GUIDES = (0.95, 0.99)
_MOST_COLUMNS = 3
_NUM_SCALES = 300
_TAIL = 0.995  # attainment curves end where the slowest policy has this share on time

Axis = Callable[[Comparison], str]


def study_pictures(comparisons: Sequence[Comparison], plotted: Sequence[str] = ()) -> dict[str, bytes]:
    """PNG files by name: attainment curves with a panel per load; Req95 and Req99 along loads and along settings, where
    there are several.

    Parameters
    ----------
    plotted : labels of the policies that are drawn, in order; all if empty.
    """
    labels = list(plotted) or list(dict.fromkeys(label for found in comparisons for label in found.entries))
    style = Style.of(labels)
    pictures: dict[str, bytes] = {}
    for group in _grouped(comparisons, lambda found: (_cluster(found), _workload(found), _setting(found))):
        cluster, workload, setting = _cluster(group[0]), _workload(group[0]), _setting(group[0])
        name = file_name("attainment", cluster, workload, setting)
        pictures[name] = png(plot_attainments(group, style, f"{workload} on {cluster}{_in(setting)}"))
    for group in _grouped(comparisons, lambda found: (_cluster(found), _setting(found))):
        if _is_axis(group, _load):
            cluster, setting = _cluster(group[0]), _setting(group[0])
            name = file_name("ladder", cluster, setting)
            pictures[name] = png(plot_along(group, _load, "load", style, f"{cluster}{_in(setting)}"))
    for group in _grouped(comparisons, lambda found: (_cluster(found), _load(found))):
        if _is_axis(group, _setting):
            cluster, load = _cluster(group[0]), _load(group[0])
            name = file_name("settings", cluster, load)
            pictures[name] = png(plot_along(group, _setting, "setting", style, f"{cluster}, {load}"))
    return pictures


def plot_attainments(group: Sequence[Comparison], style: Style, title: str) -> "Figure":
    """Share of workflows on time over the SLO scale α, a panel per comparison."""
    columns = min(_MOST_COLUMNS, len(group))
    rows = math.ceil(len(group) / columns)
    figure, panels = figure_of(rows, columns, 3.1)
    for axes, found in zip(panels, group, strict=False):
        _draw_attainment(axes, found, style)
        axes.set_title(_load(found), fontsize=10)
        axes.set_xlabel("SLO scale α", fontsize=9)
    for axes in panels[: len(group) : columns]:
        axes.set_ylabel("workflows on time", fontsize=9)
    for axes in panels[len(group) :]:
        axes.set_visible(False)
    finish(figure, panels[: len(group)], style, title)
    return figure


def plot_along(group: Sequence[Comparison], axis: Axis, axis_name: str, style: Style, title: str) -> "Figure":
    """Req95 (above) and Req99 (below) along loads or settings, a column per workload.

    Loads are joined by lines with bands; settings, which have no order, are points with bars side by side.
    """
    workloads = list(dict.fromkeys(_workload(found) for found in group))
    points = list(dict.fromkeys(axis(found) for found in group))
    figure, panels = figure_of(2, len(workloads), max(2.7, 0.32 * len(points)))
    for column, workload in enumerate(workloads):
        mine = {axis(found): found for found in group if _workload(found) == workload}
        for row, (measure, name) in enumerate((("req95", "Req95"), ("req99", "Req99"))):
            axes = panels[row * len(workloads) + column]
            _draw_along(axes, mine, points, measure, style, joined=axis_name == "load")
            if row == 0:
                axes.set_title(workload, fontsize=10)
            else:
                axes.set_xlabel(axis_name, fontsize=9)
            if column == 0:
                axes.set_ylabel(f"{name} (SLO scale α)", fontsize=9)
    finish(figure, panels, style, title)
    return figure


def _draw_attainment(axes: "Axes", found: Comparison, style: Style) -> None:
    from matplotlib.ticker import NullLocator, PercentFormatter

    entries = {label: found.entries[label] for label in style.looks if label in found.entries}
    pooled = [
        np.concatenate([row.stretches for row in entry.rows.values()]) for entry in entries.values() if entry.rows
    ]
    if not pooled:
        axes.set_axis_off()
        return
    left = 0.97 * min(float(stretches.min()) for stretches in pooled)
    right = 1.05 * max(float(np.quantile(stretches, _TAIL)) for stretches in pooled)
    scales = np.geomspace(left, right, _NUM_SCALES)
    for label, entry in entries.items():
        if entry.rows:
            color, dash = style.looks[label]
            mean, low, high = attainment_band(list(entry.rows.values()), scales)
            axes.fill_between(scales, low, high, color=color, alpha=0.15, linewidth=0)
            axes.plot(scales, mean, color=color, linestyle=dash, linewidth=1.6, label=label)
    for share in _GUIDES:
        axes.axhline(share, color=GREY, linewidth=0.7, linestyle=(0, (1, 2)), zorder=0)
    axes.set_xscale("log")
    axes.set_xlim(left, right)
    ticks = round_ticks(left, right)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(0.0, 1.02)
    axes.set_yticks([0.0, 0.25, 0.5, 0.75, 0.95])
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def _draw_along(
    axes: "Axes",
    by_point: Mapping[str, Comparison],
    points: Sequence[str],
    measure: str,
    style: Style,
    *,
    joined: bool,
) -> None:
    from matplotlib.ticker import NullLocator

    lows: list[float] = []
    highs: list[float] = []
    for number, (label, (color, dash)) in enumerate(style.looks.items()):
        aside = 0.0 if joined else 0.7 * ((number + 0.5) / len(style.looks) - 0.5)
        at = [
            (position + aside, by_point[point].entries[label].interval(measure))
            for position, point in enumerate(points)
            if point in by_point and label in by_point[point].entries and by_point[point].entries[label].rows
        ]
        if not at:
            continue
        x = [position for position, _ in at]
        low, mean, high = ([getattr(i, end) for _, i in at] for end in ("low", "mean", "high"))
        if joined:
            axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
        else:
            axes.vlines(x, low, high, color=color, linewidth=1.5)
        line = dash if joined else "none"
        axes.plot(x, mean, color=color, linestyle=line, marker="o", markersize=3.5, label=label)
        lows += [i.low for _, i in at]
        highs += [i.high for _, i in at]
    axes.set_xticks(range(len(points)), list(points))
    if max(map(len, points)) > 5:
        for text in axes.get_xticklabels():
            text.set(rotation=45, ha="right", rotation_mode="anchor")
    axes.set_xlim(-0.5, len(points) - 0.5)
    if lows:
        bottom, top = 0.95 * min(lows), 1.05 * max(highs)
        axes.set_yscale("log")
        axes.set_ylim(bottom, top)
        ticks = round_ticks(bottom, top)
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.yaxis.set_minor_locator(NullLocator())


def _grouped(comparisons: Sequence[Comparison], key: Callable[[Comparison], tuple[str, ...]]) -> list[list[Comparison]]:
    """Groups by key, sorted by it; inside a group the order of the study."""
    return [list(group) for _, group in groupby(sorted(comparisons, key=key), key=key)]


def _is_axis(group: Sequence[Comparison], axis: Axis) -> bool:
    return len({axis(found) for found in group}) > 1


def _cluster(found: Comparison) -> str:
    return found.place.cluster.name


def _workload(found: Comparison) -> str:
    return found.place.workload


def _load(found: Comparison) -> str:
    return found.place.load.label


def _setting(found: Comparison) -> str:
    return found.place.setting.name


def _in(setting: str) -> str:
    return "" if setting == "base" else f", {setting}"
