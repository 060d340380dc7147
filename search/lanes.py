"""The picture of a schedule: a lane on the axis of noise, with a marker for every step."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from search.style import FOUND, INK, KNOWN, figure_of, plain, styled
from solvers import SolverSchedule

SHAPES = {"x0": "o", "eps": "s", "flow": "D"}


@styled
def steps(found: SolverSchedule, known: SolverSchedule | None, names: Sequence[str]) -> Figure:
    """Where both step and how: shape is the space, hollow asks nobody, the number the order, ticks are correctors, arrows labels."""
    lanes = [(s, name, color) for s, name, color in zip((found, known), names, (FOUND, KNOWN), strict=False) if s is not None]
    figure = figure_of(9, 1.15 + 1.35 * len(lanes))
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
    plain(axes.xaxis)
    every = [step for s, _, _ in lanes for step in s.steps]
    key = [(SHAPES[space], 10, f"in {space}") for space in SHAPES if any(step.space == space for step in every)]
    key += [("|", 11, "c2: corrected with 2 evaluations")] if any(step.corrector for step in every) else []
    key += [(">", 7, "time told to the network")] if any(step.label is not None for step in every) else []
    handles = [Line2D([], [], ls="", marker=marker, ms=size, mew=size / 6, color=INK, label=label) for marker, size, label in key]
    if any(step.answer != "network" for step in every):
        handles.append(Line2D([], [], ls="", marker="o", ms=10, mec=INK, mfc="white", label="without the network"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 4), handletextpad=0.3)
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
    for known, (x, after, step) in enumerate(zip(where, where[1:], schedule.steps, strict=False), 1):  # evaluations that exist by then
        asked = step.answer == "network"
        size, face, edge = 14 if step.space == "flow" else 16, color if asked else "white", "white" if asked else color
        axes.plot(x, y, SHAPES[step.space], color=face, ms=size, mec=edge, zorder=3)
        inside = str(min(step.order, known)) if step.method == "multistep" else step.method[0].upper()
        axes.text(x, y - 0.01, inside, color=edge, ha="center", va="center_baseline", weight="bold", size=10, zorder=4)
        if step.method != "multistep":
            axes.text(x, y - 0.3, step.method, color=color, ha="center", va="center", size=9)
        if step.corrector:
            axes.plot([after, after], [y - 0.16, y - 0.25], color=color, lw=2, zorder=2)
            axes.text(after, y - 0.34, f"c{min(step.corrector, known)}", color=color, ha="center", va="center", size=9)
        if step.label is not None:
            axes.plot([x, x], [y + 0.19, y + 0.28], color=INK, lw=1.3)
            arrow = {"arrowstyle": "->", "color": INK, "lw": 1.3, "shrinkA": 0, "shrinkB": 0}
            axes.annotate("", (place(step.label), y + 0.235), (x, y + 0.235), arrowprops=arrow)
