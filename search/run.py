"""One campaign from settings to a schedule file, a table and a report.

    teacher's images -> known solvers tuned -> the study: ask, evaluate, tell -> finalists on `select` -> the winner on `test`

Every stage is kept in the campaign's directory when it is done, so the same command resumes where it was killed, and does
nothing when all is done.
"""

import time

import msgspec
import torch
from rich.progress import Progress

from search import result, tracker
from search.campaign import alone, campaign, claim
from search.conclude import conclude
from search.result import Result
from search.settings import Settings
from search.study import explore
from search.tune import tune_known


def run(settings: Settings, progress: Progress) -> Result:
    """Run or resume a campaign; returns what its result.json holds. Raises the rooms' one-sentence errors for bad input."""
    started = time.monotonic()
    torch.set_num_threads(1)  # batches run side by side instead (search.evaluate)
    ours = campaign(settings, progress)
    claim(ours)
    with alone(ours.directory):
        kept = ours.directory / "result.json"
        if kept.exists():
            return result.read(kept)
        known, known_cost = tune_known(ours)
        mirror = tracker.start(settings.tracker, ours.name, ours.directory, msgspec.to_builtins(settings))
        trials, search_cost = explore(ours, known, mirror)
        return conclude(ours, known, trials, (search_cost, known_cost), mirror, started)
