"""The page of `make bench-learn`: docs/learning/README.md and its picture, made of the cells alone."""

from collections.abc import Callable, Sequence

import torch
from learned_cells import CELLS, FURTHER, WHAT, Cell, Question, questions
from matplotlib.figure import Figure

from search.objective import root_mean
from search.records import Interval
from search.statistics import ratio
from search.style import FOUND, GREY, KNOWN, figure_of, png, styled
from solvers.atomic import write_atomically

MODELS = ("galaxies", "digits", "digits guided")
SEEDS = 64  # what the picture and the first tables are about; the others are in the last
DRAWN = {
    "times+labels": {"color": "#56b4e9", "marker": "v"},
    "weights": {"color": "#009e73", "marker": "s"},
    "rows": {"color": KNOWN, "marker": "o"},
    "searched": {"color": "#e69f00", "marker": "D"},
    "searched+learned": {"color": FOUND, "marker": "*", "ms": 10, "lw": 2.2},
}
PAGE = """# Every cell of `make bench-learn`

What the rows are is said in [docs/learning.md](../learning.md) and at the head of `tests/bench_learn.py`; this page is written from the
cells beside it by `python tests/bench_learn.py page`. The first tables are of 64 fit seeds; the lowest of a column is bold, and a cell that
is not there has not been run.

## RMSE on 256 test seeds, to that of the best tuned known solver

![ratio to the best known solver](ratios.png)

{whole}

## The same without the worst 3 % of the seeds

A few seeds turn into other pictures than the teacher's, and carry up to three quarters of the square.

{trimmed}

## What was searched and then learned, held against others

Paired, with 95 % bootstrap intervals, where both cells keep the errors of every seed (older ones do not); on {further} test seeds that
nothing else was measured on as well, because 256 say little where a few of them hold most of the square. Where the ratio is 1.000
throughout, both are the same fit.

{held}

## In full

Columns but fit and select are on test. Ratios are paired, with 95 % bootstrap intervals: to "known", and to "rows" of as many fit seeds
where both cells keep the errors of every seed. Cost is CPU time in that of a thousand evaluations of 64 seeds; of "searched" it is that of
the campaign, where that had not been run already; of "searched+learned" that of the polishing. MiB is the peak of the process.

{cells}
"""


def write() -> None:
    """The page and the picture."""
    write_atomically(CELLS / "ratios.png", png(picture()))
    write_atomically(CELLS / "README.md", page().encode())


def page() -> str:
    """Ratios at a glance, and every cell in full."""
    whole, trimmed = (
        "\n\n".join(f"**{model}**\n\n{ratios_of(model, error)}" for model in MODELS)
        for error in (lambda c: c.test.value, lambda c: c.trimmed)
    )
    return PAGE.format(whole=whole, trimmed=trimmed, held=held_against(), cells=in_full(), further=FURTHER)


@styled
def picture() -> Figure:
    """Ratios over evaluations, a panel for each of the first two models; guided there are too few to draw."""
    figure = figure_of(11, 5)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, model in zip(panels, MODELS[:2], strict=True):
        axes.set(title=model, xlabel="network evaluations per sample (NFE)", ylim=(0.2, 1.15))
        axes.grid()
        axes.axhline(1.0, color=GREY, ls=(0, (4, 3)), lw=1.4, label="best tuned known solver")
        cells = cells_of(model)
        for k, (what, look) in enumerate(DRAWN.items()):
            found = {q.nfe: c.ratio for q, c in cells if q.what == what}
            places = [nfe + 0.09 * (k - 2) for nfe in found]
            bars = [[r.value - r.low for r in found.values()], [r.high - r.value for r in found.values()]]
            look = {"ms": 5, "lw": 1.3, "capsize": 2, "elinewidth": 0.8, "label": what, **look}
            axes.errorbar(places, [r.value for r in found.values()], bars, **look)
    panels[0].set_ylabel("RMSE, ratio to the best known solver (95 %)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, columnspacing=1.2, handlelength=1.6)
    return figure


def cells_of(model: str) -> list[tuple[Question, Cell]]:
    """Those of a model that are there, fewest evaluations first."""
    asked = sorted((q for q in questions() if (q.model, q.seeds) == (model, SEEDS)), key=lambda q: q.nfe)
    return [(q, c) for q in asked if (c := q.read())]


def ratios_of(model: str, error: Callable[[Cell], float]) -> str:
    """A row for all that was fitted, a column per NFE: the error as a ratio to the best known solver's, which stands above."""
    found = {(q.what, q.nfe): error(c) for q, c in cells_of(model)}
    known = {nfe: value for (what, nfe), value in found.items() if what == "known"}
    lowest = {nfe: f"{min(value for (_, n), value in found.items() if n == nfe) / known[nfe]:.2f}" for nfe in known}
    rows = [["NFE", *map(str, known)], ["best known solver", *(f"{value:.4f}" for value in known.values())]]
    for what in WHAT[1:]:
        shares = {nfe: f"{found[what, nfe] / value:.2f}" for nfe, value in known.items() if (what, nfe) in found}
        if shares:
            rows.append([what, *(f"**{shares[nfe]}**" if shares.get(nfe) == lowest[nfe] else shares.get(nfe, "") for nfe in known)])
    return markdown(rows)


def held_against() -> str:
    """What was searched and learned, to the best known solvers and to level `rows`."""
    table = [["model", "NFE", "fit seeds", "to the best known", "to it without AFS", "to rows", f"to rows, on {FURTHER} seeds more"]]
    for question in sorted((q for q in questions() if q.what == "searched+learned"), key=lambda q: (MODELS.index(q.model), q.nfe, q.seeds)):
        if c := question.read():
            plain = question._replace(what="known without AFS", seeds=SEEDS).read()
            without = f"{c.test.value / plain.test.value:.3f}" if plain else ""
            table.append([*map(str, question[:3]), spread(c.ratio, ".3f"), without, *to_rows(question, c)])
    return markdown(table)


def in_full() -> str:
    """Every cell, with all that it knows."""
    rows = [["model", "NFE", "fit seeds", "what", "parameters", "fit", "select", "test (95 %)", "median", "trimmed", "worst 3 % hold"]]
    rows[0] += ["ratio (95 %)", "to rows (95 %)", "LPIPS alex", "vgg", "cost", "MiB", "sampler"]
    for question in sorted(questions(), key=lambda q: (q.model, q.nfe, q.seeds, WHAT.index(q.what))):
        if c := question.read():
            errors = [
                f"{c.fit:.4f}",
                f"{c.select:.4f}",
                spread(c.test, ".4f"),
                f"{c.median:.4f}",
                f"{c.trimmed:.4f}",
                f"{100 * c.worst:.0f} %",
            ]
            lpips = [f"{c.lpips[k]:.4f}" if k in c.lpips else "" for k in ("lpips-alex", "lpips-vgg")]
            spent = [f"{c.cost:.2f}" if c.cost >= 0.005 else "", str(c.memory), c.sampler]
            ratios = [spread(c.ratio, ".3f"), to_rows(question, c)[0]]
            rows.append([*map(str, question), str(c.parameters or ""), *errors, *ratios, *lpips, *spent])
    return markdown(rows)


def to_rows(question: Question, cell: Cell) -> list[str]:
    """The ratios to level `rows` of the same question, on the test seeds and on further ones, where they can be paired."""
    rows = question._replace(what="rows").read()
    pairs = [] if question.what == "rows" or rows is None else [(cell.errors, rows.errors), (cell.further, rows.further)]
    found = [spread(ratio(torch.tensor(a), torch.tensor(b), root_mean), ".3f") if a and b else "" for a, b in pairs]
    return found or ["", ""]


def spread(i: Interval, form: str) -> str:
    """A value with its interval."""
    return f"{i.value:{form}} ({i.low:{form}} to {i.high:{form}})"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table whose first row is its head."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])
