"""The pictures of a report: error against evaluations, the search's progress, the steps, and samples side by side.

Every function returns a matplotlib Figure on an Agg canvas of its own; no global plotting state is read or left behind.
Colours are those of Okabe and Ito, which stay apart in every common kind of colour blindness; found and best known keep
theirs in all pictures.
"""

import io
import itertools
import math
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from search.result import Result, Scored
from solvers import SolverSchedule

DPI = 130
FOUND, KNOWN, GREY, INK = "#d55e00", "#0072b2", "#8a8a8a", "#222222"
OTHERS = (("#009e73", "s"), ("#cc79a7", "^"), ("#e69f00", "D"), ("#56b4e9", "v"), (GREY, "P"))
SHAPES = {"x0": "o", "eps": "s", "flow": "D"}
UNITS = {"rmse": "RMSE to the teacher (network units)", "l1": "mean absolute error to the teacher (network units)"}
STYLE = {
    "font.size": 11, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": GREY, "axes.labelcolor": INK,
    "xtick.color": INK, "ytick.color": INK, "text.color": INK, "grid.color": "#e6e6e6", "legend.frameon": False, "legend.fontsize": 10,
    "axes.axisbelow": True, "axes.titlesize": 11, "axes.titlelocation": "left", "text.parse_math": False,
}  # fmt: skip
styled = matplotlib.rc_context(STYLE)
COLUMNS = 10


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):  # ticks are made while drawing
        figure.savefig(buffer, format="png", dpi=DPI, facecolor="white")
    return buffer.getvalue()


def unit(objective: str) -> str:
    """What an axis that counts this objective is called."""
    return UNITS.get(objective, objective.replace("lpips-", "LPIPS to the teacher, net "))


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _axes(figure: Figure, x: str, y: str) -> Axes:
    axes = figure.add_subplot(xlabel=x, ylabel=y, yscale="log")
    axes.grid(which="major")
    axes.yaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    return axes


@styled
def work_precision(result: Result) -> Figure:
    """Error against evaluations: known solvers on `select`, the found schedule and the best known solver on `test`."""
    figure = _figure(6, 5)
    axes = _axes(figure, "network evaluations per sample (NFE)", unit(result.objective))
    others = itertools.cycle(OTHERS)
    for solver in dict.fromkeys(item.solver for item in (*result.known[:1], *result.curves)):
        points = sorted((k.nfe, k.select) for k in result.curves if k.solver == solver and k.select and math.isfinite(k.select))
        color, marker = (KNOWN, "o") if solver == result.known[0].solver else next(others)
        axes.plot(*zip(*points, strict=True), color=color, marker=marker, ms=4.5, lw=1.5, alpha=0.85, label=solver)
