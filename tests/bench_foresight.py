"""How well the emulator, features and parameters rank the trials of a campaign that is there: `python tests/bench_foresight.py DIRECTORY`.

Its first 400 trials are scored again, on 64 fit seeds; at every 40th each predictor is told those before and ranks the next 40.
Prints Kendall's tau, and how far the emulator's errors were from the true ones (the median of |log|). A campaign whose sampler did
not ask the predictor is the fair one: the trials that a predictor has chosen are hard to tell apart for that predictor.
"""

import json
import sys
import tempfile
from pathlib import Path

import msgspec
import numpy as np
import torch
from rich.progress import Progress

from search import storage
from search.answers import Answers
from search.campaign import Campaign, campaign
from search.features import describer
from search.foresight import Foresight
from search.race import Race
from search.ranks import ranked, tau
from search.records import Known
from search.settings import settings
from search.study import finish
from search.study import run as score
from solvers import ScheduleError

SEEDS, AHEAD, MOST = 64, 40, 400


def opened(directory: Path, scratch: str, progress: Progress) -> tuple[Campaign, list[Known]]:
    """The campaign with S3's options as they are by default, and its known solvers."""
    theirs = json.loads((directory / "campaign.json").read_text())
    asked = {name: theirs[name] for name in ("model", "nfe", "space")}
    ours = campaign(settings(asked | {"seeds": {"fit": SEEDS}, "directory": scratch}), progress)
    return ours, msgspec.json.decode((directory / "known.json").read_bytes(), type=tuple[list[Known], object])[0]


def main(directory: Path) -> None:
    """One campaign over one NFE."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch, Progress() as progress:
        ours, known = opened(directory, scratch, progress)
        with storage.opened(f"sqlite:///{directory / 'study.sqlite'}") as base:
            trials = storage.finished(storage.open_study(base, directory.name))[:MOST]
        foresight, race = Foresight(ours, {ours.nfe: known}, Answers("here")), Race(ours.on("fit"), ours.objective, 1)
        for first in progress.track(range(0, len(trials), 8), description="trials"):
            part = {trial.number: trial for trial in trials[first : first + 8]}
            for number, outcome in zip(part, score(ours, race, part, None, foresight), strict=True):
                finish(part[number], outcome)
        done = [trial for trial in trials if trial.value is not None]
        others = {r.seen: r.taus for r in ranked(done, ours.space.distributions(), describer(ours.space))}
        taus, misses = [], []
        for seen in range(AHEAD, len(done) - AHEAD + 1, AHEAD):
            foresee = foresight.on(ours.nfe, done[:seen])
            assert foresee is not None
            following = done[seen : seen + AHEAD]
            found, true = foresee([t.params for t in following]).mean(1), np.array([t.value for t in following])
            taus.append(others[seen] | {"emulator": tau(found, true)})
            misses.append(float(np.median(np.abs(np.log(found) / 2 - np.log(true)))))
            print(seen, {name: round(value, 2) for name, value in taus[-1].items()}, f"miss {misses[-1]:.3f}", flush=True)
    print("mean", {name: round(float(np.mean([t[name] for t in taus])), 3) for name in taus[0]}, f"miss {np.mean(misses):.3f}")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except (IndexError, OSError, ScheduleError) as error:
        sys.exit(f"Give the directory of a campaign over one NFE: {error}")
