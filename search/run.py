"""One campaign from settings to a schedule file, a table and a report.

    teacher's images -> known solvers tuned -> the study: ask, evaluate, tell -> finalists on `select` -> the winner on `test`

Every stage is kept when it is done, so the same command resumes where it was killed, and does nothing when all is done. The same
command at the same time, here or on another machine with the same storage, helps (search.board); one worker concludes.
"""

import time

import msgspec
import torch
from rich.progress import Progress

from search import result, storage, tracker
from search.board import Board
from search.campaign import agree, campaign, claim, question
from search.conclude import conclude
from search.result import Result
from search.settings import Settings
from search.study import explore
from search.tune import tune_known


def run(settings: Settings, progress: Progress) -> Result | None:
    """Run, join or resume a campaign; returns what its result.json holds, or None where another worker concludes it.

    Raises the rooms' one-sentence errors for bad input.
    """
    started = time.monotonic()
    torch.set_num_threads(1)  # batches run side by side instead (search.evaluate)
    ours = campaign(settings, progress)
    claim(ours)
    kept, home = ours.directory / "result.json", str(ours.directory.resolve())
    if done := result.concluded(kept, settings.learner):
        return done
    base = storage.open_storage(settings.storage or f"sqlite:///{ours.directory / 'study.sqlite'}")
    study = storage.open_study(base, ours.name)
    agree(question(ours), storage.note(study, "campaign", question(ours)), f"The study {ours.name!r} in the storage")
    with Board(base.engine, ours.name, settings.grace).at_work() as board:
        known, known_cost = tune_known(ours, board)
        mirror = tracker.start(settings.tracker, ours.name, ours.directory, msgspec.to_builtins(settings))
        trials, search_cost = explore(ours, board, study, known, mirror)
        with board.only("conclusion") as other:
            if done := result.concluded(kept, settings.learner):
                return done
            where = study.user_attrs.get("report", home)
            if other or where != home:
                progress.console.print(f"The study is complete; its report is written by {other or 'another worker'}.")
                return None
            outcome = conclude(ours, board, known, trials, (search_cost, known_cost), mirror, started)
            storage.note(study, "report", home)
            return outcome
