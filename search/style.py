"""How pictures of reports look, and what they are drawn on.

A matplotlib Figure on an Agg canvas of its own; no global plotting state is left behind. Colours are those of Okabe and Ito, which
stay apart in the common kinds of colour blindness; found and best known keep theirs everywhere.
"""

import io
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

DPI = 130
FOUND, KNOWN, GREY, INK = "#d55e00", "#0072b2", "#8a8a8a", "#222222"
UNITS = {"rmse": "RMSE to the teacher (network units)", "l1": "mean absolute error (network units)"}
STYLE: Any = {
    "font.size": 11, "legend.fontsize": 10, "legend.frameon": False, "axes.titlesize": 11, "axes.titlelocation": "left",
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": GREY, "axes.labelcolor": INK,
    "xtick.color": INK, "ytick.color": INK, "text.color": INK, "text.parse_math": False, "axes.axisbelow": True,
    "grid.color": "#e4e4e4", "figure.constrained_layout.h_pad": 0.08,
}  # fmt: skip
styled = mpl.rc_context(STYLE)


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):  # ticks are made while drawing
        figure.savefig(buffer, format="png", dpi=DPI, facecolor="white")
    return buffer.getvalue()


def figure_of(width: float, height: float) -> Figure:
    """An empty one, in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def log_axes(figure: Figure, x: str, objective: str) -> Axes:
    """The error, logarithmic, over something that is counted."""
    axes = figure.add_subplot(xlabel=x, ylabel=UNITS.get(objective, f"{objective} to the teacher"), yscale="log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid()
    return axes


def plain(axis: Axis) -> None:
    """Label a logarithmic axis with plain numbers, as many as its span asks for."""
    low, high = sorted(axis.get_view_interval())
    subs = (1, 2, 5) if high < 3e4 * low else (1,)
    axis.set_major_locator(LogLocator(subs=subs if high > 6 * low else (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8), numticks=20))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def finished(figure: Figure, axes: Axes) -> Figure:
    """With plain numbers at its errors and a legend below."""
    plain(axes.yaxis)
    handles, _ = axes.get_legend_handles_labels()
    figure.legend(handles=handles, loc="outside lower center", ncols=2, columnspacing=1.2, handlelength=1.6)
    return figure
