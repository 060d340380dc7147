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
optimisers. It ends in a page with a picture and tables (tests/learned_page.py); `python tests/bench_learn.py page` writes that alone.
"""

import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import learned_page
import msgspec
import torch
from learned_cells import FURTHER, LEVELS, Cell, Question, questions
from omegaconf import OmegaConf
from rich.progress import Progress
from torch import Tensor

from search import baselines, starts
from search.adam import Adam
from search.campaign import Campaign
from search.evaluate import Evaluator
from search.follow import best_of, fits_from, followed
from search.learner import STATISTICS, Learner
from search.objective import Objective, objective, root_mean, root_median, root_trimmed, share_of_worst
from search.perceptual import PerceptualError
from search.run import run
from search.settings import Budget, Named, Seeds, Settings, Tracker
from search.starts import Start
from search.statistics import interval, ratio
from solvers import Tableau, compile, load
from teacher.trajectories import Targets, targets

HOME = Path(__file__).parents[1]
SPACE: Any = OmegaConf.to_container(OmegaConf.load(HOME / "conf" / "space" / "full.yaml"))  # so that search.py may run the campaign
COMPARE: Any = OmegaConf.to_container(OmegaConf.load(HOME / "conf" / "search.yaml").compare)
LEARNERS = {level: Learner(level=level, optimiser="lm") for level in LEVELS} | {
    "rows by adam": Learner(optimiser="adam", iterations=150, patience=30, shrink=(1e-4,)),
    "rows as GS": Learner(optimiser="adam", adam=Adam(rate=1e-3), iterations=2500, patience=50, shrink=(0.0,)),
    "rows emulated": Learner(optimiser="emulated"),
    "starts": Learner(),
}
PAIRED = ("rows", "searched+learned")
MODELS = {"galaxies": Named("galaxies")} | {  # as conf/model has them, so that search.py may run the campaign
    name: Named("digits", {"guidance": guidance}) for name, guidance in (("digits", 1.0), ("digits guided", 3.0))
}
SELECT = {"galaxies": 128, "digits": 128, "digits guided": 512}  # with guidance more seeds turn into other digits, and decide among 128


def cell(question: Question) -> Cell:
    """Tune known solvers, unless that is done; fit; read test."""
    model, nfe, seeds, what = question
    directory = f"campaigns/{model.replace(' ', '-')}-{nfe}"
    budget, nobody = Budget(trials=160, known=200), Tracker("disabled")
    asked = Settings(MODELS[model], (nfe,), space=SPACE, compare=tuple(COMPARE), seeds=Seeds(64, SELECT[model], 256), budget=budget)
    asked = msgspec.structs.replace(asked, workers=1, tracker=nobody, directory=directory)
    with Progress() as progress:
        ours, known = starts.tuned(asked, progress)
    fit_on, teacher = targets(ours.teacher, "fit", seeds), ours.teacher
    first = baselines.schedule(known[0], teacher)
    unit, start = evaluation_time(ours, compile(first)), time.process_time()
    if what.startswith("known"):
        item = next(item for item in known if what == "known" or item.answer == "network")
        table, parameters, name = compile(baselines.schedule(item, teacher)), 0, item.name
    elif what.startswith("searched"):
        polish, found = what == "searched+learned" and seeds == asked.seeds.fit, Path(directory) / f"{Path(directory).name}.schedule.json"
        with Progress() as progress:
            if what == "searched+learned":  # whose cost is that of learning
                run(asked, progress)
                start = time.process_time()
            outcome = run(msgspec.structs.replace(asked, learner=Learner() if polish else None), progress)
        assert outcome is not None  # nobody else works on it
        file = load(outcome.schedule_file if polish else found)  # a campaign that was polished keeps both
        table, parameters, name = file.tableau, 0, re.split(r", \d+ iterations", file.provenance.note or "found")[0]
        if what == "searched+learned" and not polish:
            begin = [*starts.of_files([str(found)], teacher, nfe, False, Learner()), starts.of_known(ours, known, Learner())[0]]
            table, parameters, best = fitted(ours, fit_on, begin, [], Learner(), begin[1:])
            name = f"learned at level rows from {'what was found' if best is begin[0] else best.name}"
    else:
        learner = LEARNERS[what]
        begin, count = starts.of_known(ours, known, learner), starts.COUNT if what == "starts" else 1
        table, parameters, best = fitted(ours, fit_on, begin[:count], begin[count:], learner, begin[:1] if count > 1 else [])
        name = best.name
    spent = time.process_time() - start
    both = [compile(first), table]
    on_fit, on_select = (Evaluator(teacher, block).errors(both)[1] for block in (fit_on, ours.on("select").targets))
    test = ours.on("test").errors(both)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return Cell(
        sampler=name,
        parameters=parameters,
        fit=float(root_mean(on_fit)),
        select=float(root_mean(on_select)),
        test=interval(test[1], root_mean),
        median=float(root_median(test[1])),
        trimmed=float(root_trimmed(test[1])),
        worst=float(share_of_worst(test[1])),
        ratio=ratio(test[1], test[0], root_mean),
        lpips={kind: float(o.together(ours.on("test").errors([both[1]], o.measure)[0])) for kind, o in perceptual().items()},
        cost=0.0 if what.startswith("known") else spent / unit / 1000,
        seconds=spent,
        memory=memory,
        errors=six_digits(test[1]),
        further=six_digits(further(ours, table)) if what in PAIRED else (),
    )


def further(ours: Campaign, table: Tableau) -> Tensor:
    """The errors on FURTHER test seeds."""
    before = ours.settings.seeds.test
    return Evaluator(ours.teacher, targets(ours.teacher, "test", before + FURTHER)).errors([table])[0][before:]


def six_digits(errors: Tensor) -> tuple[float, ...]:
    """As a cell keeps them."""
    return tuple(float(f"{error:.6g}") for error in errors.tolist())


def fitted(
    ours: Campaign, fit_on: Targets, begin: list[Start], beside: list[Start], learner: Learner, exact: list[Start]
) -> tuple[Tableau, int, Start]:
    """The table that ends best on `select`, its parameters, and from which start; the words are those of fits_from."""
    blocks = fit_on, ours.on("select").targets
    first, others, again = ([start.schedule for start in some] for some in (begin, beside, exact))
    with tempfile.TemporaryDirectory() as nowhere, Progress() as progress:
        fits = fits_from(ours.teacher, first, others, blocks, learner, progress, again)
        ends = followed(fits, Path(nowhere) / "fits", "", progress)
    fit, end = fits[best_of(ends)], ends[best_of(ends)]
    return fit.table(end), 0 if learner.level == STATISTICS else fit.form(end.best_stage).count, starts.start_of(fit, begin)


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


def main(words: list[str]) -> None:
    """No words: every cell that is missing, each in a process of its own, and the page. `page`: that alone; or a cell."""
    if words in ([], ["page"]):
        for question in [] if words else questions():
            if not question.path.exists():
                print(*question, flush=True)
                subprocess.run([sys.executable, __file__, *map(str, question)], check=True)
        learned_page.write()
        return
    torch.set_num_threads(1)
    model, nfe, seeds, what = words
    question = Question(model, int(nfe), int(seeds), what)
    cell(question).write(question)


if __name__ == "__main__":
    main(sys.argv[1:])
