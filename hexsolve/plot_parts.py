"""What pictures of studies share: looks of policies, panels, round numbers. Knows axes; knows nothing of any study."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from io import BytesIO
from typing import TYPE_CHECKING

from hexsolve.plot import PALETTE

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GREY = "#666666"
_DASHES = ("-", "--", "-.", ":")
_TICKS = (1.0, 1.2, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 50.0, 70.0, 100.0, 200.0, 500.0, 1000.0)


@dataclass(frozen=True)
class Style:
    """Colour and dash of each policy, in the order of legends."""

    looks: Mapping[str, tuple[str, str]]

    @staticmethod
    def of(labels: Sequence[str]) -> "Style":
        """Seven colours, then the same with another dash, so that 28 policies differ."""
        num = len(PALETTE)
        return Style(
            {
                label: (PALETTE[position % num], _DASHES[(position + 2 * (position // num)) % len(_DASHES)])
                for position, label in enumerate(labels)
            }
        )


def figure_of(rows: int, columns: int, panel_width: float) -> "tuple[Figure, list[Axes]]":
    """A figure that `matplotlib.pyplot` does not know, and its panels row by row; widths in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(6.0, panel_width * columns + 0.8), 2.6 * rows + 1.1), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def finish(figure: "Figure", panels: "Sequence[Axes]", style: Style, title: str) -> None:
    """Frames, title, and one legend of what the panels show, in the order of `style`."""
    for axes in panels:
        axes.tick_params(labelsize=8)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    handles: dict[str, Artist] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    shown = [label for label in style.looks if label in handles]
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    if shown:
        entry_width = 0.7 + 0.075 * max(map(len, shown))  # inches, of a line and its label
        figure.legend(
            [handles[label] for label in shown],
            shown,
            loc="outside lower center",
            ncols=max(1, min(len(shown), int(figure.get_figwidth() / entry_width))),
            frameon=False,
            fontsize=9,
        )


def round_ticks(low: float, high: float) -> list[float]:
    """Round numbers inside the range, at most seven."""
    inside = [tick for tick in _TICKS if low <= tick <= high]
    if len(inside) < 2:  # a narrow range: tenths
        step = 0.1 if high - low > 0.2 else 0.05
        inside = [round(step * k, 2) for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return inside[:: max(1, math.ceil(len(inside) / 7))]


def file_name(*parts: str) -> str:
    """Letters, digits, dots, plus signs and single dashes; the base setting is not named.

    A digest of the parts follows where a sign is lost that may tell two names apart.
    """
    text = "-".join(part for part in parts if part != "base")
    words = text.replace("ρ", "rho").replace("/s", "-per-s").replace(" -", " minus-").replace("%", "percent")
    name = re.sub(r"[^A-Za-z0-9.+]+", "-", words).strip("-")
    lost = re.search(r"[^A-Za-z0-9.+ -]", words)
    return f"{name}-{blake2b(text.encode(), digest_size=3).hexdigest()}.png" if lost else f"{name}.png"


def png(figure: "Figure") -> bytes:
    """The figure as the bytes of a PNG file."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
