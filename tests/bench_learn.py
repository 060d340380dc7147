"""`make bench-learn`: what learning adds to the best tuned known solver, level by level, on test seeds.

A cell is a model, an NFE, a number of fit seeds and what is fitted. It is one file in docs/learning/, written when it is done,
so that a run which was stopped goes on with the next. Each runs in a process of its own: its peak memory is that of the cell.

    known          the best of about 200 tuned known solvers, on `select`; what follows starts from the best that it can move
    known without AFS   the best of those that ask the network for every answer, as the papers' own baselines do
    statistics     DPM-Solver-v3, on the times of the best known solver, which stays where none is better on `select`
    compensation   DC-Solver's ratios       times+labels   the parameters of LD3       weights   those of S4S, as theory + delta
    rows           the class of GS and BNS; all of these by Levenberg-Marquardt
    rows by adam   the same by Adam, at the rate that is best here         rows emulated  on an emulator alone (optimiser=emulated)
    rows as GS     at the rate that GS is trained with (Oganov et al. 2025), until `select` has not fallen for 50 passes; at NFE 5 alone
    starts         rows, from the three best starts, as `python train.py model=... nfe=...` does it
    searched       `python search.py`            searched+learned   and then `learner=rows`; where there are more fit seeds than it
                   searches on, `python train.py` with those, from what it found and the best known solver

Level `parallel` has no cell: no known solver has parallel steps to start from. Fitted here by least squares, not by the papers' own
optimisers. `python tests/bench_learn.py table` prints docs/learning.md's tables.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import torch
from omegaconf import OmegaConf
from rich.progress import Progress

from search import baselines, starts
from search.adam import Adam
from search.campaign import Campaign
from search.evaluate import Evaluator
from search.follow import best_of, fits_from, followed
from search.learner import STATISTICS, Learner
from search.objective import Objective, objective, root_mean, root_median, root_trimmed, share_of_worst
from search.perceptual import PerceptualError
from search.result import Interval
from search.run import run
from search.settings import Budget, Named, Seeds, Settings, Tracker
from search.statistics import interval, ratio
from solvers import SolverSchedule, Tableau, compile, load
from solvers.atomic import write_atomically
from teacher.trajectories import Targets, targets

HOME = Path(__file__).parents[1]
CELLS = HOME / "docs" / "learning"
SPACE: Any = OmegaConf.to_container(OmegaConf.load(HOME / "conf" / "space" / "full.yaml"))  # so that search.py may run the campaign
LEVELS = ("statistics", "compensation", "times+labels", "weights", "rows")
WHAT = ("known", "known without AFS", *LEVELS, "rows by adam", "rows as GS", "rows emulated", "starts", "searched", "searched+learned")
LEARNERS = {level: Learner(level=level, optimiser="lm") for level in LEVELS} | {
    "rows by adam": Learner(optimiser="adam", iterations=150, patience=30, shrink=(1e-4,)),
    "rows as GS": Learner(optimiser="adam", adam=Adam(rate=1e-3), iterations=2500, patience=50, shrink=(0.0,)),
    "rows emulated": Learner(optimiser="emulated"),
    "starts": Learner(),
}
QUESTIONS = [(model, nfe, 64) for nfe in (5, 4, 6, 8, 10, 3, 7, 9) for model in ("galaxies", "digits")]
OVERFITTING = [("galaxies", nfe, seeds) for nfe in (5, 8) for seeds in (16, 1024)]  # rows alone, beside those of 64
MORE = [("galaxies", nfe, 256) for nfe in (5, 8, 4, 6, 10)]  # rows, and what was searched on 64 seeds and learned on these
GUIDED = [("digits guided", nfe, 64) for nfe in (5, 8)]
MODELS = {"galaxies": Named("galaxies")} | {  # as conf/model has them, so that search.py may run the campaign
    name: Named("digits", {"guidance": guidance}) for name, guidance in (("digits", 1.0), ("digits guided", 3.0))
}


class Cell(msgspec.Struct, frozen=True):
    """RMSE on all three blocks, the rest on test; `lpips` by network, none where its weights are missing."""

    sampler: str
    parameters: int
    fit: float
    select: float
    test: Interval
    median: float
    trimmed: float
    worst: float
    ratio: Interval
    lpips: dict[str, float]
    cost: float  # CPU time of the fit, in that of a thousand evaluations of 64 seeds, so that it means the same on any machine
    seconds: float
    memory: int  # peak of the process, MiB
    errors: tuple[float, ...] = ()  # mean square of every test seed, for pairing with other cells; older cells have none


def questions() -> list[tuple[str, int, int, str]]:
    """Every cell, in the order in which they are run."""
    whole = [(*q, what) for q in (*QUESTIONS, *GUIDED) for what in WHAT if what != "rows as GS" or q[1] == 5]
    return whole + [(*q, "rows") for q in OVERFITTING + MORE] + [(*q, "searched+learned") for q in MORE]


def path_of(model: str, nfe: int, seeds: int, what: str) -> Path:
    """Where a cell is kept."""
    return CELLS / f"{model.replace(' ', '-')}-{nfe}-{seeds}-{what.replace('+', '-').replace(' ', '-')}.json"


def read(*question: Any) -> Cell | None:
    """A cell that is there."""
    path = path_of(*question)
    return msgspec.json.decode(path.read_bytes(), type=Cell) if path.exists() else None


def spread(i: Interval, form: str) -> str:
    """A value with its interval."""
    return f"{i.value:{form}} ({i.low:{form}} to {i.high:{form}})"


def cell(model: str, nfe: int, seeds: int, what: str) -> Cell:
    """Tune known solvers, unless that is done; fit; read test."""
    directory = f"campaigns/{model.replace(' ', '-')}-{nfe}"
    budget, nobody = Budget(trials=160, known=200), Tracker("disabled")
    asked = Settings(
        MODELS[model], (nfe,), space=SPACE, seeds=Seeds(64, 128, 256), budget=budget, tracker=nobody, directory=directory, workers=1
    )
    with Progress() as progress:
        ours, known = starts.tuned(asked, progress)
    fit_on, teacher = targets(ours.teacher, "fit", seeds), ours.teacher
    first = baselines.schedule(known[0], teacher)
    unit, start = evaluation_time(ours, compile(first)), time.process_time()
    if what.startswith("known"):
        item = next(item for item in known if what == "known" or item.answer == "network")
        table, parameters, name = compile(baselines.schedule(item, teacher)), 0, item.name
    elif what.startswith("searched"):
        polish = what == "searched+learned" and seeds == asked.seeds.fit
        with Progress() as progress:
            outcome = run(msgspec.structs.replace(asked, learner=Learner() if polish else None), progress)
        assert outcome is not None  # nobody else works on it
        found = Path(directory) / f"{Path(directory).name}.schedule.json"
        file = load(outcome.schedule_file if polish else found)  # a campaign that was polished keeps both
        table, parameters, name = file.tableau, 0, (file.provenance.note or "found").split(",")[0]
        if what == "searched+learned" and not polish:
            begin = [*starts.of_files([str(found)], teacher, nfe, False, Learner()), starts.of_known(ours, known, Learner())[0]]
            table, parameters, best = fitted(ours, fit_on, [one.schedule for one in begin], len(begin), Learner())
            name = f"learned at level rows from {'what was found' if best == 0 else begin[best].name}"
    else:
        learner = LEARNERS[what]
        begin, count = starts.of_known(ours, known, learner), starts.COUNT if what == "starts" else 1
        table, parameters, best = fitted(ours, fit_on, [one.schedule for one in begin], count, learner)
        name = begin[best].name
    spent = time.process_time() - start
    both = [compile(first), table]
    errors = [Evaluator(teacher, block).errors(both)[1] for block in (fit_on, ours.on("select").targets)]
    test = ours.on("test").errors(both)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return Cell(
        name,
        parameters,
        *(float(root_mean(e)) for e in errors),
        interval(test[1], root_mean),
        *(float(together(test[1])) for together in (root_median, root_trimmed, share_of_worst)),
        ratio(test[1], test[0], root_mean),
        {kind: float(o.together(ours.on("test").errors([both[1]], o.measure)[0])) for kind, o in perceptual().items()},
        0.0 if what.startswith("known") else spent / unit / 1000,
        spent,
        memory,
        tuple(float(f"{error:.6g}") for error in test[1]),
    )


def fitted(ours: Campaign, fit_on: Targets, schedules: list[SolverSchedule], count: int, learner: Learner) -> tuple[Tableau, int, int]:
    """The table that ends best on `select` of fits from the first `count` schedules, its parameters, and from which schedule."""
    blocks = fit_on, ours.on("select").targets
    with tempfile.TemporaryDirectory() as nowhere, Progress() as progress:
        fits = fits_from(ours.teacher, schedules[:count], schedules[count:], blocks, learner, progress)
        ends = followed(fits, Path(nowhere) / "fits", "", progress)
    best = best_of(ends)
    return fits[best].table(ends[best]), 0 if learner.level == STATISTICS else fits[best].form(ends[best].best_stage).count, best


def perceptual() -> dict[str, Objective]:
    """LPIPS by both networks, where their weights are."""
    try:
        return {kind: objective(kind) for kind in ("lpips-alex", "lpips-vgg")}
    except PerceptualError:
        return {}


@torch.no_grad()
def evaluation_time(ours: Campaign, table: Tableau) -> float:
    """CPU seconds of one evaluation of 64 seeds."""
    block, teacher = ours.on("select").targets, ours.teacher
    noise, cond = block.noise[:64], None if block.cond is None else block.cond[:64]
    start = time.process_time()
    for _ in range(8):
        teacher.denoiser(noise, table.evals[0].at, cond=cond, **dict(teacher.knobs))
    return (time.process_time() - start) / 8


def table() -> str:
    """The cells as Markdown."""
    names = ["model", "NFE", "fit seeds", "what", "parameters", "fit", "select", "test (95 %)", "median", "trimmed", "worst 3 % hold"]
    names += ["ratio (95 %)", "to rows (95 %)", "LPIPS alex", "vgg", "cost", "MiB", "sampler"]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for question in sorted(questions(), key=lambda q: (q[0], q[1], q[2], WHAT.index(q[3]))):
        c, rows = read(*question), read(*question[:3], "rows")
        if c is None:
            continue
        paired = ratio(torch.tensor(c.errors), torch.tensor(rows.errors), root_mean) if rows and c.errors and rows.errors else None
        numbers = [
            f"{c.fit:.4f}",
            f"{c.select:.4f}",
            spread(c.test, ".4f"),
            f"{c.median:.4f}",
            f"{c.trimmed:.4f}",
            f"{100 * c.worst:.0f} %",
        ]
        numbers += [spread(c.ratio, ".3f"), spread(paired, ".3f") if paired and question[3] != "rows" else ""]
        numbers += [f"{c.lpips[k]:.4f}" if k in c.lpips else "" for k in ("lpips-alex", "lpips-vgg")]
        fitted = [f"{c.cost:.2f}" if c.cost >= 0.005 else "", str(c.memory), c.sampler]
        lines.append("| " + " | ".join([*map(str, question), str(c.parameters or ""), *numbers, *fitted]) + " |")
    return "\n".join(lines)


def main(words: list[str]) -> None:
    """No words: every cell that is missing, each in a process of its own. `table`; or a cell."""
    if words == ["table"]:
        print(table())
    elif words:
        torch.set_num_threads(1)
        model, nfe, seeds, what = words
        found = cell(model, int(nfe), int(seeds), what)
        write_atomically(path_of(model, int(nfe), int(seeds), what), msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    else:
        for question in questions():
            if not path_of(*question).exists():
                print(*question, flush=True)
                subprocess.run([sys.executable, __file__, *map(str, question)], check=True)
        print(table())


if __name__ == "__main__":
    main(sys.argv[1:])
