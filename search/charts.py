"""Charts of reports: error against evaluations, fronts, and how a search or a fit went on."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from search.fit import Entry
from search.learner import Stage
from search.records import WARM, Interval
from search.result import Front, Result
from search.style import FOUND, GREY, KNOWN, figure_of, finished, log_axes, styled

OTHERS = (("#009e73", "s"), ("#cc79a7", "^"), ("#e69f00", "D"), ("#56b4e9", "v"))


@styled
def work_precision(result: Result) -> Figure:
    """Error against evaluations: known solvers on `select`, the best of them and the found schedule on `test`, the teacher's own."""
    figure = figure_of(6, 5.2)
    axes = log_axes(figure, "network evaluations per sample (NFE)", result.objective)
    best, others = result.known[0].kind if result.known else "", itertools.cycle(OTHERS)
    for kind in sorted({item.kind for item in result.curves}, key=lambda name: (name != best, name)):
        color, marker = (KNOWN, "o") if kind == best else next(others)
        points = sorted((k.nfe, k.select) for k in result.curves if k.kind == kind and k.select and math.isfinite(k.select))
        nfe, error = [p[0] for p in points], [p[1] for p in points]
        axes.plot(nfe, error, color=color, marker=marker, ms=4.5, lw=1.4, label=kind)
    for scored, look, label in (
        (result.baseline, {"marker": "o", "color": KNOWN, "mfc": "white", "ms": 7}, "best known, test seeds"),
        (result.found, {"marker": "*", "color": FOUND, "ms": 11}, "found, test seeds"),
    ):
        _point(axes, scored.nfe, scored.aim or scored.rmse, look, label)
    if result.objective == "rmse":  # which the teacher's own error is
        if result.teacher_error * 8 > axes.get_ylim()[0]:
            axes.axhline(result.teacher_error, color=GREY, ls=(0, (4, 3)), lw=1.2, label="teacher's own error")
        else:  # a line far below would squeeze all that matters into the top of the picture
            axes.text(0.02, 0.03, f"teacher's own error: {result.teacher_error:.2g}, below", transform=axes.transAxes, size=10)
    return finished(figure, axes)


def _point(axes: Axes, nfe: int, error: Interval, look: Mapping[str, Any], label: str) -> None:
    value, low, high = error.value, error.low, error.high
    bars = [[max(0.0, value - low)], [max(0.0, high - value)]]
    axes.errorbar(nfe, value, bars, ls="", capsize=6, capthick=1.6, elinewidth=1.6, zorder=5, label=label, **look)


@styled
def front(outcome: Front) -> Figure:
    """Error on `test` against evaluations: the found schedules and the best tuned known solver of every NFE."""
    figure = figure_of(6, 5.2)
    axes = log_axes(figure, "network evaluations per sample (NFE)", "rmse")
    for look, label, side in (
        ({"marker": "o", "color": KNOWN, "mfc": "white", "ms": 7}, "best known, tuned at every NFE", [p.baseline for p in outcome.parts]),
        ({"marker": "*", "color": FOUND, "ms": 11}, "found", [p.found for p in outcome.parts]),
    ):
        axes.plot([s.nfe for s in side], [s.rmse.value for s in side], color=look["color"], lw=1.4)
        for k, one in enumerate(side):
            _point(axes, one.nfe, one.rmse, look, label if k == 0 else "")
    return finished(figure, axes)


@styled
def hypervolume(outcome: Front) -> Figure:
    """The hypervolume over the evaluations spent, and that of the known solvers."""
    figure = figure_of(6, 5.2)
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


@styled
def progress(result: Result) -> Figure:
    """Every trial's value on `fit`, the best so far, and the best known solver's value there."""
    figure = figure_of(6, 5.2)
    axes = log_axes(figure, "trial", result.objective)
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
    return finished(figure, axes)


@styled
def learning(curve: Sequence[Entry], stages: Sequence[Stage], objective: str) -> Figure:
    """The loss on the seeds that are fitted and on those that choose, after every iteration; a line where a stage begins."""
    figure = figure_of(9, 4.5)
    axes = log_axes(figure, "iteration", objective)
    axes.plot([entry.fit for entry in curve], color=GREY, marker="o", ms=4, label="fit")
    axes.plot([entry.select for entry in curve], color=FOUND, marker="o", ms=4, label="select")
    best = min(range(len(curve)), key=lambda k: curve[k].select)
    axes.plot(best, curve[best].select, "o", ms=11, mfc="none", color=FOUND, label="kept")
    headings = [stages[entry.stage].heading for entry in curve]
    for k, heading in list(enumerate(headings))[1:]:
        if k == 1 or heading != headings[k - 1]:
            axes.axvline(k - 0.5, color=GREY, lw=0.8, ls=":")
            axes.text(k - 0.4, 0.99, heading, transform=axes.get_xaxis_transform(), rotation=90, va="top", size=8, color=GREY)
    return finished(figure, axes)
