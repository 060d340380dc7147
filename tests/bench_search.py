"""`make bench-search`: how many network evaluations each sampler needs. Cells are kept, so it can be stopped and resumed.

    python tests/bench_search.py [MODEL NFE SAMPLER SEED ...]     without words: every cell of PLAN that is missing, then the table

Every sampler gets the same known solvers to start from, the same evaluator without racing, the same number of trials. A cell is
one campaign in memory: after every generation the evaluations so far, those of S3's emulator included, and the best value on fit
seeds; every 40 trials that candidate's error on test seeds too. The table is the median over study seeds; "to reach TPE" counts
evaluations to TPE's last median on fit.
"""

import itertools
import json
import statistics
import sys
from pathlib import Path

import torch
from rich.progress import Progress

from search import storage
from search.answers import Answers
from search.board import Board
from search.campaign import campaign
from search.foresight import Foresight, overhead
from search.proposals import Proposals
from search.race import Race
from search.settings import settings
from search.study import finish
from search.study import run as score
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
        with storage.opened(url) as base, Board(base.engine, ours.name, asked.grace).at_work() as board:
            known, _ = tune_known(ours, board)
        foresight = Foresight(ours, {nfe: known}, Answers(ours.name))
        proposals, trials, points = Proposals(ours, {nfe: known}, foresight), [], []
        task = progress.add_task(f"{model} {nfe} {name} {seed}", total=TRIALS)
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
                points[-1]["test"] = ours.scores([compile(ours.space.decode(best.params))], "test")[0]
    write_atomically(cell(model, nfe, name, seed), (json.dumps(points) + "\n").encode())


def table() -> str:
    """Medians over the study seeds that are there."""
    lines = ["| model, NFE | sampler | seeds | fit | test | evaluations to reach TPE's last value |", "|---|---|---|---|---|---|"]
    for model, nfe in itertools.product(("digits", "galaxies"), (5, 8)):
        found = {name: [json.loads(p.read_text()) for s in range(99) if (p := cell(model, nfe, name, s)).exists()] for name in SAMPLERS}
        if not found["tpe"]:
            continue
        goal = statistics.median(curve[-1]["fit"] for curve in found["tpe"])
        whole = statistics.median(curve[-1]["logical"] for curve in found["tpe"])
        for name, curves in found.items():
            if not curves:
                continue
            ends = [statistics.median(curve[-1][block] for curve in curves) for block in ("fit", "test")]
            needed = [next((p["logical"] for p in curve if p["fit"] <= goal), None) for curve in curves]
            reached = sorted(n / whole for n in needed if n is not None)
            share = f"{statistics.median(reached):.2f} of TPE's budget, {len(reached)} of {len(curves)}" if reached else "none did"
            lines.append(f"| {model}, {nfe} | {name} | {len(curves)} | {ends[0]:.4f} | {ends[1]:.4f} | {share} |")
    return "\n".join(lines)


if __name__ == "__main__":
    torch.set_num_threads(1)
    words = sys.argv[1:]
    plan = [(words[0], int(words[1]), int(s), words[2]) for s in words[3:]] if words else PLAN
    for model, nfe, seed, name in plan:
        if not cell(model, nfe, name, seed).exists():
            run(model, nfe, name, seed)
    print(table())
