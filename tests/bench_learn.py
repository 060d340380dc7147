"""`make bench-learn`: what learning adds to the best tuned known solver, level by level, on test seeds.

A cell is a model, an NFE and a number of fit seeds; it is one file in docs/learning/, written when it is done, so that a run
which was stopped goes on with the next. One fit visits the levels in turn; what stands when a level ends is its result:

    times+labels   the parameters of LD3        weights   those of S4S, as theory + delta        rows   the class of GS and BNS

Fitted here by least squares, not by the papers' own optimisers. Known solver and start are chosen on `select`; `test` is
read once per cell. The table of docs/learning.md is made of the cells: `python tests/bench_learn.py table`.
"""

import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import torch

from search import baselines
from search.evaluate import Evaluator
from search.fit import Fit, Learner, Point
from search.objective import root_mean, root_median, root_trimmed
from search.result import Interval, Known
from search.statistics import ratio
from solvers import Tableau, compile
from solvers.atomic import write_atomically
from teacher.models import load
from teacher.trajectories import targets

CELLS = Path(__file__).parents[1] / "docs" / "learning"
QUESTIONS = [("galaxies", nfe, 64) for nfe in (4, 5)] + [("digits", 5, 64)] + [("galaxies", nfe, 64) for nfe in (6, 8, 10)]
QUESTIONS += [("galaxies", nfe, 256) for nfe in (5, 8, 10)]
KNOWN, FINALISTS = 200, 8


class Reached(msgspec.Struct, frozen=True):
    """A level on all three blocks: RMSE; and its cost, cumulative over the levels before it."""

    level: str
    parameters: int
    fit: float
    select: float
    test: float
    median: float
    trimmed: float
    ratio: Interval
    worst: float  # the share of the squared test error that the worst 3 % of seeds hold
    cost: float  # CPU time, in that of a thousand evaluations of 64 seeds, so that it means the same on any machine


def cell(model: str, nfe: int, seeds: int) -> list[Reached]:
    """Tune known solvers, learn from the best, read test once."""
    teacher, learner = load(model), Learner()
    fit_on, select_on, test_on = (targets(teacher, block, n) for block, n in (("fit", seeds), ("select", 128), ("test", 256)))
    scorer, chooser = Evaluator(teacher, fit_on), Evaluator(teacher, select_on)
    wanted = baselines.candidates(teacher, nfe, KNOWN // 2)
    fit = scores(scorer, teacher, wanted)
    ordered = [wanted[k] for k in fit.argsort().tolist()]
    wanted += baselines.finer(teacher, ordered, FINALISTS // 2, KNOWN // 2)
    fit = torch.cat([fit, scores(scorer, teacher, wanted[len(fit) :])])
    best = fit.argsort()[:FINALISTS].tolist()
    tables = {k: compile(baselines.schedule(wanted[k], teacher)) for k in best}
    select = root_mean(chooser.errors([tables[k] for k in best]))
    first = best[int(select.argmin())]
    unit = evaluation_time(teacher, fit_on, tables[first])
    work = Fit(teacher, baselines.schedule(wanted[first], teacher), fit_on, select_on, learner)
    kept: dict[str, tuple[Point, float]] = {}
    start = time.process_time()
    for point in work.run():
        kept[work.stages[point.curve[-1].stage][0]] = point, time.process_time() - start
        entry = point.curve[-1]
        print(f"  {model} {nfe}: {work.stages[entry.stage]} fit {entry.fit:.4f} select {entry.select:.4f}", flush=True)
    names = [f"known: {wanted[first].name}", *kept]
    found: list[Tableau] = [tables[first], *(work.table(point) for point, _ in kept.values())]
    blocks = [Evaluator(teacher, block).errors(found) for block in (fit_on, select_on, test_on)]
    rows = list[Reached]()
    for k, name in enumerate(names):
        a, b, c = (errors[k] for errors in blocks)
        spent = kept[name][1] / unit / 1000 if k else 0.0
        count = work.form([level for level, _ in work.stages].index(name)).count if k else 0
        worst = float(c.sort().values[-max(1, round(0.03 * len(c))) :].sum() / c.sum())
        numbers = [
            float(together(e)) for together, e in ((root_mean, a), (root_mean, b), (root_mean, c), (root_median, c), (root_trimmed, c))
        ]
        rows.append(Reached(name, count, *numbers, ratio(c, blocks[2][0], root_mean), worst, spent))
    return rows


def scores(scorer: Evaluator, teacher: Any, wanted: list[Known]) -> torch.Tensor:
    """RMSE of each; infinite where it diverges."""
    found = root_mean(scorer.errors([compile(baselines.schedule(item, teacher)) for item in wanted]))
    return torch.nan_to_num(found, nan=torch.inf)


@torch.no_grad()
def evaluation_time(teacher: Any, block: Any, table: Tableau) -> float:
    """CPU seconds of one evaluation of 64 seeds."""
    noise, cond = block.noise[:64], None if block.cond is None else block.cond[:64]
    at = table.evals[0].at
    start = time.process_time()
    for _ in range(8):
        teacher.denoiser(noise, at, cond=cond, **dict(teacher.knobs))
    return (time.process_time() - start) / 8


def table() -> str:
    """The cells as Markdown."""
    names = ["model", "NFE", "fit seeds", "sampler", "parameters", "fit", "select", "test", "median", "trimmed", "ratio (95 %)"]
    names += ["worst 3 % hold", "cost"]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for model, nfe, seeds in sorted(QUESTIONS):
        path = CELLS / f"{model}-{nfe}-{seeds}.json"
        for r in msgspec.json.decode(path.read_bytes(), type=list[Reached]) if path.exists() else []:
            numbers = " | ".join(f"{x:.4f}" for x in (r.fit, r.select, r.test, r.median, r.trimmed))
            spread = f"{r.ratio.value:.2f} ({r.ratio.low:.2f} to {r.ratio.high:.2f})" if r.parameters else "1"
            cost = f"{r.cost:.2f}" if r.parameters else ""
            lines.append(
                f"| {model} | {nfe} | {seeds} | {r.level} | {r.parameters or ''} | {numbers} | {spread} | {100 * r.worst:.0f} % | {cost} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:] == ["table"]:
        print(table())
        sys.exit()
    for model, nfe, seeds in QUESTIONS:
        path = CELLS / f"{model}-{nfe}-{seeds}.json"
        if not path.exists():
            write_atomically(path, msgspec.json.format(msgspec.json.encode(cell(model, nfe, seeds)), indent=1) + b"\n")
    print(table())
