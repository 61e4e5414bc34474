"""Plots of results. Knows rows and axes; runs nothing, shows nothing, and leaves matplotlib's global state alone."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hexsolve.errors import InputError
from hexsolve.sim import required_scale
from hexsolve.study.report import by_policy
from hexsolve.study.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe & Ito (2008): told apart under every common colour blindness. Yellow is left out: too pale for a line.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", "--", "-.", ":")
_GUIDES = (0.95, 0.99)
_GREY = "#666666"
_LABEL_HEIGHTS = (0.84, 0.12)  # of the leftmost and the rightmost curve


def plot_attainment(runs: Sequence[Run], ax: "Axes | None" = None) -> "Axes":
    """Share of workflows that meet an SLO of α times their standalone makespan, over α, a curve per policy.

    Runs of one policy (several seeds) are pooled. Dots mark Req95 and Req99.

    Parameters
    ----------
    ax : axes to draw on; None makes a figure of its own, which `matplotlib.pyplot` does not know.

    Raises
    ------
    InputError
        If there are no runs.
    """
    if not runs:
        raise InputError("plot: expected at least one run, got none")
    axes = _new_axes() if ax is None else ax
    pooled = {policy: np.concatenate([run.stretches for run in group]) for policy, group in by_policy(runs).items()}
    colors = {policy: PALETTE[position % len(PALETTE)] for position, policy in enumerate(pooled)}
    for position, (policy, stretch) in enumerate(pooled.items()):
        _draw_curve(axes, policy, stretch, colors[policy], _DASHES[position % len(_DASHES)])
    everything = np.concatenate(list(pooled.values()))
    _draw_frame(axes, 0.85 * float(everything.min()), 1.05 * float(everything.max()))
    _label_curves(axes, pooled, colors)
    first = runs[0]
    axes.set_title(f"{first.workload} on {first.cluster}, {first.num_workflows} workflows", loc="left", fontsize=11)
    axes.set_xlabel("SLO scale α (deadline = α × makespan of the workflow alone)")
    axes.set_ylabel("workflows on time")
    return axes


def attainment_png(runs: Sequence[Run]) -> bytes:
    """`plot_attainment` as the bytes of a PNG file."""
    from matplotlib.figure import Figure

    figure = plot_attainment(runs).figure
    assert isinstance(figure, Figure)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def _new_axes() -> "Axes":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    return figure.subplots()


def _draw_curve(axes: "Axes", policy: str, stretch: NDArray[np.float64], color: str, dash: str) -> None:
    """A step up at every stretch; it ends where the last workflow is on time."""
    ordered = np.sort(stretch)
    shares = np.arange(len(ordered) + 1) / len(ordered)
    axes.step(np.append(ordered[0], ordered), shares, where="post", color=color, linestyle=dash, lw=1.8, label=policy)
    marks = [required_scale(stretch, share) for share in _GUIDES]
    axes.plot(marks, _GUIDES, "o", color=color, markersize=5.5, markeredgecolor="white", zorder=3)


def _draw_frame(axes: "Axes", left: float, right: float) -> None:
    from matplotlib.ticker import FormatStrFormatter, NullLocator, PercentFormatter

    for share in _GUIDES:
        axes.axhline(share, color=_GREY, linewidth=0.7, linestyle=(0, (1, 2)), zorder=0)
        text = f"Req{share * 100:.0f}"
        axes.annotate(
            text, (1.0, share), (3, 0), "axes fraction", "offset points", color=_GREY, fontsize=8, va="center"
        )
    axes.set_xscale("log")
    axes.set_xlim(left, right)
    axes.set_xticks(_ticks(left, right), minor=False)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.set_ylim(0.0, 1.02)
    axes.set_yticks([0.0, 0.25, 0.5, 0.75, 1.0])
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _ticks(left: float, right: float) -> list[float]:
    """Round numbers for a log axis: 1-2-3-5-7 per decade, halves between 1 and 3 where there is room."""
    steps = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0) if right < 15 * left else (1.0, 2.0, 3.0, 5.0)
    ticks = [step * 10.0**decade for decade in range(-3, 6) for step in steps]
    return [tick for tick in ticks if left <= tick <= right]


def _label_curves(axes: "Axes", pooled: Mapping[str, NDArray[np.float64]], colors: Mapping[str, str]) -> None:
    """A name beside each curve, each at a height of its own: from the top, the curve that is leftmost there.

    The first has its name on the left, where no other curve is.
    """
    heights = np.linspace(*_LABEL_HEIGHTS, len(pooled)).tolist()
    left = dict(pooled)
    for height in heights:
        policy = min(left, key=lambda name: required_scale(left[name], height))
        x, leftmost = required_scale(left.pop(policy), height), len(left) == len(pooled) - 1
        axes.annotate(
            policy,
            (x, height),
            (-8 if leftmost else 8, 0),
            textcoords="offset points",
            color=colors[policy],
            fontsize=10,
            fontweight="bold",
            ha="right" if leftmost else "left",
            va="center",
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
        )
