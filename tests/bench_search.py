"""`make bench-search`: how many network evaluations each sampler needs. Cells are kept, so it can be stopped and resumed.

    python tests/bench_search.py [MODEL NFE SAMPLER SEED ...]     without words: every cell of PLAN that is missing, then the table

Every sampler gets the same known solvers to start from, the same evaluator without racing, the same number of trials. A cell is
one campaign in memory: after every generation the evaluations so far, those of S3's emulator included, and the best value on fit
seeds; every 40 trials that candidate's error on test seeds too. The table has the median over study seeds and their range, and so has
docs/bench-search/curves.png; "to reach TPE" counts evaluations to TPE's last median on fit.
"""

import itertools
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from rich.progress import Progress

from search import storage
from search.answers import Answers
from search.board import Board
from search.campaign import campaign
from search.charts import OTHERS
from search.foresight import Foresight, overhead
from search.proposals import Proposals
from search.race import Race
from search.settings import settings
from search.study import finish
from search.study import run as score
from search.style import FOUND, GREY, KNOWN, figure_of, plain, png, styled
from search.tune import tune_known
from solvers import compile
from solvers.atomic import write_atomically

CELLS = Path(__file__).parents[1] / "docs" / "bench-search"
TRIALS, EVERY = 400, 40
TIMES = {"answer": ["network"], "order": [2], "space": ["x0"], "domain": ["lambda"], "moment": ["bh2"], "corrector": [0]}
TIMES |= {"relax": [1, 1], "label": [0, 0]}
SAMPLERS = {  # name -> sampler, its options, its space
    "random": ("random", {}, {}),
    "tpe": ("tpe", {"n_startup_trials": 0}, {}),
    "cmaes on times": ("cmaes", {"warn_independent_sampling": False}, TIMES),
    "evolution": ("s3", {"pool": 1}, {}),
    "s3 by features": ("s3", {"rounds": 0}, {}),
    "s3": ("s3", {}, {}),
}
COLORS = (GREY, KNOWN, *(color for color, _ in OTHERS[:3]), FOUND)
PLAN = list(itertools.product(("digits", "galaxies"), (5, 8), range(5), SAMPLERS))


def cell(model: str, nfe: int, name: str, seed: int) -> Path:
    return CELLS / f"{model}-{nfe}-{name.replace(' ', '-')}-{seed}.json"


def run(model: str, nfe: int, name: str, seed: int) -> None:
    """One campaign in memory."""
    word, options, space = SAMPLERS[name]
    directory = Path("campaigns") / f"bench-{model}-nfe{nfe}"
    directory.mkdir(parents=True, exist_ok=True)
    asked = settings(
        {"model": {"name": model}, "nfe": nfe, "seed": seed, "sampler": {"name": word, "options": options}, "space": space}
        | {"directory": str(directory), "budget": {"trials": TRIALS}, "seeds": {"fit": 64}}
    )
    with Progress() as progress:
        ours = campaign(asked, progress)
        url = f"sqlite:///{directory / 'study.sqlite'}"
        with storage.opened(url) as base, Board(base.engine, ours.key, asked.grace).at_work() as board:
            known, _ = tune_known(ours, board)
        foresight = Foresight(ours, {nfe: known}, Answers(ours.key))
        proposals, trials, points = Proposals(ours, {nfe: known}, foresight), [], []
        task, tested = progress.add_task(f"{model} {nfe} {name} {seed}", total=TRIALS), dict[int, float]()
        race = Race(ours.on("fit"), ours.objective, blocks=1)
        while len(trials) < TRIALS:
            proposed = proposals.generation(len(trials) // asked.budget.generation, trials)
            numbered = dict(enumerate(proposed, len(trials)))
            for number, outcome in zip(numbered, score(ours, race, numbered, None, foresight), strict=True):
                made = finish(numbered[number], outcome)
                made.number = number
                trials.append(made)
            progress.update(task, completed=len(trials))
            best = min((t for t in trials if t.value is not None), key=lambda t: t.value)
            spent = race.cost + overhead(ours, {nfe: known})
            points.append({"trials": len(trials), "logical": spent.logical, "physical": spent.physical, "fit": best.value})
            if len(trials) % EVERY == 0:
                if best.number not in tested:
                    tested[best.number] = ours.scores([compile(ours.space.decode(best.params))], "test")[0]
                points[-1]["test"] = tested[best.number]
    write_atomically(cell(model, nfe, name, seed), (json.dumps(points) + "\n").encode())


def cells(model: str, nfe: int, name: str) -> list[list[dict[str, float]]]:
    """The curves of the study seeds that are there."""
    return [json.loads(path.read_text()) for seed in range(99) if (path := cell(model, nfe, name, seed)).exists()]


def spread(values: Sequence[float]) -> str:
    """Their median and their range."""
    return f"{statistics.median(values):.4f} ({min(values):.4f} to {max(values):.4f})"


def table() -> str:
    """Medians and ranges over the study seeds that are there."""
    lines = ["| model, NFE | sampler | seeds | fit | test | evaluations to reach TPE's last value |", "|---|---|---|---|---|---|"]
    for model, nfe in itertools.product(("digits", "galaxies"), (5, 8)):
        found = {name: cells(model, nfe, name) for name in SAMPLERS}
        if not found["tpe"]:
            continue
        goal = statistics.median(curve[-1]["fit"] for curve in found["tpe"])
        whole = statistics.median(curve[-1]["logical"] for curve in found["tpe"])
        for name, curves in found.items():
            if not curves:
                continue
            ends = [spread([curve[-1][block] for curve in curves]) for block in ("fit", "test")]
            needed = [next((p["logical"] for p in curve if p["fit"] <= goal), None) for curve in curves]
            reached = sorted(n / whole for n in needed if n is not None)
            share = f"{statistics.median(reached):.2f} of TPE's budget, {len(reached)} of {len(curves)}" if reached else "none did"
            lines.append(f"| {model}, {nfe} | {name} | {len(curves)} | {ends[0]} | {ends[1]} | {share} |")
    return "\n".join(lines)


@styled
def picture() -> Figure:
    """Test error of the best on fit against evaluations: the median over study seeds, and their range."""
    shown = [where for where in itertools.product(("digits", "galaxies"), (5, 8)) if cells(*where, "tpe")]
    figure = figure_of(1 + 4.5 * len(shown), 4.6)
    for k, (model, nfe) in enumerate(shown):
        axes = figure.add_subplot(1, len(shown), k + 1, title=f"{model}, NFE {nfe}", xlabel="network evaluations, thousands", yscale="log")
        axes.grid()
        for name, color in zip(SAMPLERS, COLORS, strict=True):
            curves = [{p["trials"]: p for p in curve if "test" in p} for curve in cells(model, nfe, name)]
            trials = sorted(set.intersection(*map(set, curves))) if curves else []
            x = [statistics.median(curve[t]["logical"] for curve in curves) / 1000 for t in trials]
            errors = [[curve[t]["test"] for curve in curves] for t in trials]
            axes.fill_between(x, list(map(min, errors)), list(map(max, errors)), color=color, alpha=0.15, lw=0)
            axes.plot(x, list(map(statistics.median, errors)), color=color, marker="o", ms=3, label=name if k == 0 else None)
        plain(axes.yaxis)
    figure.axes[0].set_ylabel("test RMSE to the teacher")
    figure.legend(loc="outside lower center", ncols=6)
    return figure


if __name__ == "__main__":
    torch.set_num_threads(1)
    words = sys.argv[1:]
    plan = [(words[0], int(words[1]), int(s), words[2]) for s in words[3:]] if words else PLAN
    for model, nfe, seed, name in plan:
        if not cell(model, nfe, name, seed).exists():
            run(model, nfe, name, seed)
    print(table())
    write_atomically(CELLS / "curves.png", png(picture()))
