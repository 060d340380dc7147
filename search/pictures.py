"""The pictures of reports: error against evaluations, the search's progress, the steps, and samples side by side.

Every function returns a matplotlib Figure on an Agg canvas of its own; no global plotting state is left behind. Colours are
those of Okabe and Ito, which stay apart in the common kinds of colour blindness; found and best known keep theirs everywhere.
"""

import io
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from torch import Tensor

from search.fit import Entry
from search.result import WARM, Front, Result, Scored
from solvers import SolverSchedule

DPI, COLUMNS = 130, 10
FOUND, KNOWN, GREY, INK = "#d55e00", "#0072b2", "#8a8a8a", "#222222"
OTHERS = (("#009e73", "s"), ("#cc79a7", "^"), ("#e69f00", "D"), ("#56b4e9", "v"))
SHAPES = {"x0": "o", "eps": "s", "flow": "D"}
UNITS = {"rmse": "RMSE to the teacher (network units)", "l1": "mean absolute error (network units)"}
STYLE: Any = {
    "font.size": 11, "legend.fontsize": 10, "legend.frameon": False, "axes.titlesize": 11, "axes.titlelocation": "left",
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": GREY, "axes.labelcolor": INK,
    "xtick.color": INK, "ytick.color": INK, "text.color": INK, "text.parse_math": False, "axes.axisbelow": True,
    "grid.color": "#e4e4e4", "figure.constrained_layout.h_pad": 0.08,
}  # fmt: skip
_styled = mpl.rc_context(STYLE)


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):  # ticks are made while drawing
        figure.savefig(buffer, format="png", dpi=DPI, facecolor="white")
    return buffer.getvalue()


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _log_axes(figure: Figure, x: str, objective: str) -> Axes:
    axes = figure.add_subplot(xlabel=x, ylabel=UNITS.get(objective, f"{objective} to the teacher"), yscale="log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid()
    return axes


def _plain(axis: Axis) -> None:
    """Label a logarithmic axis with plain numbers, as many as its span asks for."""
    low, high = sorted(axis.get_view_interval())
    subs = (1, 2, 5) if high < 3e4 * low else (1,)
    axis.set_major_locator(LogLocator(subs=subs if high > 6 * low else (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8), numticks=20))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _finished(figure: Figure, axes: Axes) -> Figure:
    _plain(axes.yaxis)
    handles, _ = axes.get_legend_handles_labels()
    figure.legend(handles=handles, loc="outside lower center", ncols=2, columnspacing=1.2, handlelength=1.6)
    return figure


@_styled
def work_precision(result: Result) -> Figure:
    """Error against evaluations: known solvers on `select`, the best of them and the found schedule on `test`, the teacher's own."""
    figure = _figure(6, 5.2)
    axes = _log_axes(figure, "network evaluations per sample (NFE)", result.objective)
    best, others = result.known[0].kind if result.known else "", itertools.cycle(OTHERS)
    for kind in sorted({item.kind for item in result.curves}, key=lambda name: (name != best, name)):
        color, marker = (KNOWN, "o") if kind == best else next(others)
        points = sorted((k.nfe, k.select) for k in result.curves if k.kind == kind and k.select and math.isfinite(k.select))
        nfe, error = [p[0] for p in points], [p[1] for p in points]
        axes.plot(nfe, error, color=color, marker=marker, ms=4.5, lw=1.4, label=f"{kind}, selection seeds")
    if result.objective == "rmse":  # the other objectives have no test value of their own
        _point(axes, result.baseline, {"marker": "o", "color": KNOWN, "mfc": "white", "ms": 7}, "best known, test seeds")
        _point(axes, result.found, {"marker": "*", "color": FOUND, "ms": 11}, "found, test seeds")
        if result.teacher_error * 8 > axes.get_ylim()[0]:
            axes.axhline(result.teacher_error, color=GREY, ls=(0, (4, 3)), lw=1.2, label="teacher's own error")
        else:  # a line far below would squeeze all that matters into the top of the picture
            axes.text(0.02, 0.03, f"teacher's own error: {result.teacher_error:.2g}, below", transform=axes.transAxes, size=10)
    return _finished(figure, axes)


def _point(axes: Axes, scored: Scored, look: Mapping[str, Any], label: str) -> None:
    value, low, high = scored.rmse.value, scored.rmse.low, scored.rmse.high
    bars = [[max(0.0, value - low)], [max(0.0, high - value)]]
    axes.errorbar(scored.nfe, value, bars, ls="", capsize=6, capthick=1.6, elinewidth=1.6, zorder=5, label=label, **look)


@_styled
def front(outcome: Front) -> Figure:
    """Error on `test` against evaluations: the found schedules and the best tuned known solver of every NFE."""
    figure = _figure(6, 5.2)
    axes = _log_axes(figure, "network evaluations per sample (NFE)", "rmse")
    for look, label, side in (
        ({"marker": "o", "color": KNOWN, "mfc": "white", "ms": 7}, "best known, tuned at every NFE", [p.baseline for p in outcome.parts]),
        ({"marker": "*", "color": FOUND, "ms": 11}, "found", [p.found for p in outcome.parts]),
    ):
        axes.plot([s.nfe for s in side], [s.rmse.value for s in side], color=look["color"], lw=1.4)
        for k, one in enumerate(side):
            _point(axes, one, look, label if k == 0 else "")
    return _finished(figure, axes)


@_styled
def hypervolume(outcome: Front) -> Figure:
    """The hypervolume over the evaluations spent, and that of the known solvers."""
    figure = _figure(6, 5.2)
    words = "hypervolume (decades of error x NFE)"
    axes = figure.add_subplot(xlabel="evaluations of one sample spent by the search (thousands)", ylabel=words)
    axes.grid()
    moments = outcome.hypervolume
    spent, gained = [m.evaluations / 1000 for m in moments], [m.hypervolume for m in moments]
    axes.step(spent, gained, where="post", color=FOUND, lw=2, label="found so far")
    axes.axhline(outcome.known_hypervolume, color=KNOWN, ls=(0, (4, 3)), lw=1.4, label="best known solvers")
    axes.set_ylim(0, 1.08 * max(*gained, outcome.known_hypervolume) or 1)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


@_styled
def progress(result: Result) -> Figure:
    """Every trial's value on `fit`, the best so far, and the best known solver's value there."""
    figure = _figure(6, 5.2)
    axes = _log_axes(figure, "trial", result.objective)
    values = {t.number: t.fit for t in result.trials if t.fit and math.isfinite(t.fit)}
    origins = {t.number: t.origin for t in result.trials}
    warm = [number for number in values if origins[number].startswith(WARM)]
    queued = [number for number in values if origins[number] and number not in warm]
    searched = [number for number in values if not origins[number]]
    known = min((item.fit for item in result.known if item.fit is not None), default=math.nan)
    ceiling = 20 * min((*values.values(), known)) if values else math.inf  # hopeless trials must not flatten the rest
    for numbers, style, label in (
        (searched, {"color": GREY, "alpha": 0.4, "marker": ".", "mew": 0, "ms": 7}, "searched"),
        (queued, {"color": KNOWN, "marker": "o", "mfc": "white", "ms": 5}, "known solver, queued"),
        (warm, {"color": FOUND, "marker": "^", "mfc": "white", "ms": 5}, "warm start, queued"),
    ):
        if numbers:
            axes.plot(numbers, [min(values[n], ceiling) for n in numbers], ls="", label=label, **style)
    if math.isfinite(known):
        axes.axhline(known, color=KNOWN, ls=(0, (4, 3)), lw=1.4, label="best known solver")
    numbers = sorted(values)
    axes.step(numbers, list(itertools.accumulate((values[n] for n in numbers), min)), where="post", color=FOUND, lw=2, label="best so far")
    finalists = [t for t in result.trials if t.select is not None and t.number in values]
    if finalists:
        chosen = min(finalists, key=lambda t: t.select or 0.0).number
        axes.plot(chosen, values[chosen], "*", color=FOUND, mec="white", ms=15, ls="", zorder=5, label="found: best on selection seeds")
    hidden, diverged = sum(v > ceiling for v in values.values()), len(result.trials) - len(values)
    if hidden or diverged:
        axes.set_title(f"{hidden} of {len(result.trials)} lie above {ceiling:.2g} (drawn there), {diverged} diverged", fontsize=9)
    return _finished(figure, axes)


@_styled
def steps(found: SolverSchedule, known: SolverSchedule | None, names: Sequence[str]) -> Figure:
    """Where both step and how: shape is the space, hollow asks nobody, the number the order, ticks are correctors, arrows labels."""
    lanes = [(s, name, color) for s, name, color in zip((found, known), names, (FOUND, KNOWN), strict=False) if s is not None]
    figure = _figure(9, 1.15 + 1.35 * len(lanes))
    axes = figure.add_subplot(xlabel="noise level, sigma / alpha", xscale="log", ylim=(0.4 - len(lanes), 0.65), yticks=[])
    axes.spines["left"].set_visible(False)
    levels = [_level(s, t) for s, _, _ in lanes for t in s.times]
    finite = [level for level in levels if 0 < level < math.inf] or [1.0]
    low, high = min(finite), max(finite)
    gap = (high / low) ** 0.07 if high > low else 2.0
    edges = low / gap if min(levels) < low else low, high * gap if max(levels) > high else high  # the infinite ends stand a little beyond
    for lane, (schedule, name, color) in enumerate(lanes):
        axes.text(0, 0.46 - lane, name, color=color, weight="bold", transform=axes.get_yaxis_transform(), va="center")
        _lane(axes, -lane, schedule, edges, color)
    axes.set_xlim(edges[1] * gap**0.6, edges[0] / gap**0.6)
    axes.grid(axis="x")
    _plain(axes.xaxis)
    every = [step for s, _, _ in lanes for step in s.steps]
    key = [(SHAPES[space], 10, f"in {space}") for space in SHAPES if any(step.space == space for step in every)]
    key += [("|", 11, "c2: corrected with 2 evaluations")] if any(step.corrector for step in every) else []
    key += [(">", 7, "time told to the network")] if any(step.label is not None for step in every) else []
    handles = [Line2D([], [], ls="", marker=marker, ms=size, mew=size / 6, color=INK, label=label) for marker, size, label in key]
    if any(step.answer != "network" for step in every):
        handles.append(Line2D([], [], ls="", marker="o", ms=10, mec=INK, mfc="white", label="without the network"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), handletextpad=0.3)
    return figure


@_styled
def learning(curve: Sequence[Entry], stages: Sequence[tuple[str, float]], objective: str) -> Figure:
    """The loss on the seeds that are fitted and on those that choose, after every iteration; a line where a stage begins."""
    figure = _figure(9, 4.5)
    axes = _log_axes(figure, "iteration", objective)
    axes.plot([entry.fit for entry in curve], color=GREY, marker="o", ms=4, label="fit")
    axes.plot([entry.select for entry in curve], color=FOUND, marker="o", ms=4, label="select")
    best = min(range(len(curve)), key=lambda k: curve[k].select)
    axes.plot(best, curve[best].select, "o", ms=11, mfc="none", color=FOUND, label="kept")
    for k, entry in enumerate(curve):
        if k == 1 or (k > 1 and entry.stage != curve[k - 1].stage):
            axes.axvline(k - 0.5, color=GREY, lw=0.8, ls=":")
            words = f"{stages[entry.stage][0]}, {stages[entry.stage][1]:g}"
            axes.text(k - 0.4, 0.99, words, transform=axes.get_xaxis_transform(), rotation=90, va="top", size=8, color=GREY)
    axes.legend(loc="lower left")
    return figure


def _level(schedule: SolverSchedule, t: float) -> float:
    return float((-schedule.process.lambda_of(t)).exp())


def _lane(axes: Axes, y: float, schedule: SolverSchedule, edges: tuple[float, float], color: str) -> None:
    def place(t: float) -> float:
        return min(max(_level(schedule, t), edges[0]), edges[1])

    where = [place(t) for t in schedule.times]
    axes.plot(where, [y] * len(where), color=color, lw=1.5, zorder=1)
    axes.plot(where[-1], y, "|", color=color, ms=16, mew=2)
    for end, level, words in ((-1, 0.0, "no noise"), (0, math.inf, "no signal")):
        if _level(schedule, schedule.times[end]) == level:
            axes.text(where[end], y + 0.23, words, color=color, ha="center", va="center", size=9)
    for x, after, step in zip(where, where[1:], schedule.steps, strict=False):
        asked = step.answer == "network"
        size, face, edge = 14 if step.space == "flow" else 16, color if asked else "white", "white" if asked else color
        axes.plot(x, y, SHAPES[step.space], color=face, ms=size, mec=edge, zorder=3)
        inside = str(step.order) if step.method == "multistep" else step.method[0].upper()
        axes.text(x, y - 0.01, inside, color=edge, ha="center", va="center_baseline", weight="bold", size=10, zorder=4)
        if step.method != "multistep":
            axes.text(x, y - 0.3, step.method, color=color, ha="center", va="center", size=9)
        if step.corrector:
            axes.plot([after, after], [y - 0.16, y - 0.25], color=color, lw=2, zorder=2)
            axes.text(after, y - 0.34, f"c{step.corrector}", color=color, ha="center", va="center", size=9)
        if step.label is not None:
            axes.plot([x, x], [y + 0.19, y + 0.28], color=INK, lw=1.3)
            arrow = {"arrowstyle": "->", "color": INK, "lw": 1.3, "shrinkA": 0, "shrinkB": 0}
            axes.annotate("", (place(step.label), y + 0.235), (x, y + 0.235), arrowprops=arrow)


@_styled
def samples(teacher: Tensor, baseline: Tensor, found: Tensor, names: Sequence[str]) -> Figure:
    """The same seeds from all three, [n, C, H, W], and both differences to the teacher, amplified; other shapes as lines."""
    blocks = [block[:COLUMNS].detach().double().cpu().numpy() for block in (teacher, baseline, found)]
    if blocks[0].ndim != 4:
        return _lines([block.reshape(len(block), -1) for block in blocks], names)
    low, high = float(blocks[0].min()), float(blocks[0].max())
    scale = (high - low) or 1.0
    away = [np.abs(block - blocks[0]).mean(1, keepdims=True) / scale for block in blocks[1:]]
    factor = max(k for k in (1, 2, 3, 5, 10, 20, 50, 100) if k == 1 or k * np.quantile(away, 0.99) <= 1)
    rows = [(name, (block - low) / scale, "gray") for name, block in zip(names, blocks, strict=True)]
    rows += [(f"{name}, distance to the teacher, {factor} times", factor * d, "magma") for name, d in zip(names[1:], away, strict=True)]
    figure = _figure(9, len(rows) * (9 / COLUMNS * blocks[0].shape[2] / blocks[0].shape[3] + 0.27))
    for axes, (title, block, cmap), color in zip(figure.subplots(len(rows)), rows, (INK, KNOWN, FOUND, KNOWN, FOUND), strict=True):
        axes.imshow(_strip(block), cmap=cmap, vmin=0, vmax=1, interpolation="nearest")
        axes.set_title(title, color=color, pad=3)
        axes.axis("off")
    return figure


def _strip(block: np.ndarray) -> np.ndarray:
    """[n, C, H, W] to one row of COLUMNS pictures: [H, ..., 3], or gray, the mean of channels that are no colour. Gaps are white."""
    block = block if block.shape[1] in (1, 3) else block.mean(1, keepdims=True)
    gap = max(1, block.shape[3] // 24)
    padded = np.pad(block.clip(0, 1), ((0, COLUMNS - len(block)), (0, 0), (0, 0), (0, gap)), constant_values=np.nan)
    padded[len(block) :] = np.nan
    strip = np.concatenate(list(padded), -1)[..., :-gap].transpose(1, 2, 0)
    return np.nan_to_num(strip, nan=1.0) if strip.shape[2] == 3 else strip[..., 0]


def _lines(blocks: Sequence[np.ndarray], names: Sequence[str]) -> Figure:
    """A panel per seed for data [n, d] that are not pictures: the three over the index of the coordinate."""
    count = len(blocks[0])
    across = min(5, count)
    figure = _figure(9, 1.7 * -(-count // across) + 0.7)
    panels = figure.subplots(-(-count // across), across, sharex=True, sharey=True, squeeze=False).flatten()
    looks = [(name, *look) for name, look in zip(names, ((INK, 3.0, 0.35), (KNOWN, 1.4, 1.0), (FOUND, 1.4, 1.0)), strict=True)]
    marker = "o" if blocks[0].shape[1] <= 16 else ""
    for seed, axes in enumerate(panels):
        for block, (name, color, width, alpha) in zip(blocks, looks, strict=True):
            axes.plot(block[seed], color=color, lw=width, alpha=alpha, marker=marker, ms=width + 2, label=name)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.grid()
    figure.supxlabel("coordinate", fontsize=11)
    figure.supylabel("value (network units)", fontsize=11)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return figure
