"""One campaign from settings to a schedule file, a table and a report.

    teacher's images -> known solvers tuned -> the study: ask, evaluate, tell -> finalists on `select` -> the winner on `test`

Every stage is kept when it is done, so the same command resumes where it was killed, and does nothing when all is done. The same
command at the same time, here or on another machine with the same storage, helps (search.board); one worker concludes.
"""

import time

import msgspec
import torch
from optuna.storages import RDBStorage
from rich.progress import Progress

from search import result, storage, tracker
from search.board import Board
from search.campaign import Campaign, agree, campaign, claim
from search.conclude import conclude
from search.errors import CampaignError
from search.pareto import conclude_all
from search.result import READS, Front, Result
from search.settings import Settings
from search.study import explore
from search.tune import other_budgets, tune_known


def run(settings: Settings, progress: Progress) -> Result | Front | None:
    """Run, join or resume a campaign; returns what it found, or None where another worker concludes it.

    Raises the rooms' one-sentence errors for bad input.
    """
    torch.set_num_threads(1)  # batches run side by side instead (search.evaluate)
    ours = campaign(settings, progress)
    claim(ours)
    if kept := concluded(ours):
        return kept
    with storage.opened(settings.storage or f"sqlite:///{ours.directory / 'study.sqlite'}") as base:
        return _joined(ours, base)


def _joined(ours: Campaign, base: RDBStorage) -> Result | Front | None:
    settings, home = ours.settings, str(ours.directory.resolve())
    study = storage.open_study(base, ours.name, len(ours.budgets))
    if storage.noted(study, "campaign", None) is None and storage.finished(study):
        raise CampaignError(f"The storage holds a study {ours.name!r} that is no campaign of ours; choose another directory=....")
    agree(ours.question, storage.note(study, "campaign", ours.question), f"The study {ours.name!r} in the storage")
    begun = storage.note(study, "begun", time.time())
    with Board(base.engine, ours.key, settings.grace).at_work() as board:
        tuned = {nfe: tune_known(ours.at(nfe), board) for nfe in ours.budgets}
        mirror = tracker.start(settings.tracker, ours.name, ours.directory, msgspec.to_builtins(settings))
        trials = explore(ours, board, study, {nfe: known for nfe, (known, _) in tuned.items()}, mirror)
        with board.only("conclusion") as other:
            if kept := concluded(ours):
                return kept
            here = any(ours.directory.rglob(READS))  # also where it was begun elsewhere, and moved
            elsewhere = not here and storage.noted(study, "report", home) != home
            if other or elsewhere:
                polish = " A learner that it was not told runs when the command is given again after that." if settings.learner else ""
                ours.progress.console.print(f"The study is complete; its report is written by {other or 'another worker'}.{polish}")
                return None
            if len(ours.budgets) > 1:
                outcome = conclude_all(ours, tuned, trials, mirror, begun)
            else:
                ((known, cost),) = tuned.values()
                outcome = conclude(ours, known, cost, other_budgets(ours, board, known), trials, mirror, begun)
            mirror.close(outcome.summary)
            storage.note(study, "report", home)
            return outcome


def concluded(campaign: Campaign) -> Result | Front | None:
    """What the campaign left when it was done, if it was, and was polished as is asked now."""
    if len(campaign.budgets) > 1:
        return result.concluded(campaign.directory / "front.json", campaign.settings.learner, Front)
    return result.concluded(campaign.directory / "result.json", campaign.settings.learner)
