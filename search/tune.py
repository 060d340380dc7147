"""Tune the known solvers: what the search has to beat, and where it starts from."""

import math
from collections.abc import Sequence

import msgspec

from search import baselines
from search.board import Board
from search.campaign import Campaign
from search.errors import CampaignError
from search.records import Cost, Known, beginning_alike
from search.result import decoded
from solvers import compile
from solvers.atomic import write_atomically
from teacher import trajectories

KINDS = 6  # solvers with their options that are tuned on finer grids


def tune_known(campaign: Campaign, board: Board) -> tuple[list[Known], Cost]:
    """Score known solvers on `fit`, the best few on `select`; best first (by `select`, then by `fit`). Kept in known.json.

    Solvers that diverge are left out.
    """
    path = campaign.directory / "known.json"
    if path.exists():
        return decoded(path, tuple[list[Known], Cost])
    settings, nfe = campaign.settings, campaign.nfe
    count = max(settings.budget.known or 0, settings.share)  # never fewer than the search has
    wanted = baselines.candidates(campaign.teacher, nfe, -(-count // 2))
    if not wanted:
        raise CampaignError(f"No known solver can spend exactly {nfe} evaluations.")
    coarse = ranked(scored(campaign, board, wanted, "fit", "known solvers"))
    guessed = baselines.guessed(campaign.teacher, coarse, 2 * KINDS)
    coarse = ranked(coarse + scored(campaign, board, guessed, "fit", "known solvers, first answer guessed"))
    finer = baselines.finer(campaign.teacher, coarse, KINDS, max(count - len(wanted), count // 2))
    known = ranked(coarse + scored(campaign, board, finer, "fit", "known solvers, finer grids"))
    if not known:
        raise CampaignError(f"Every known solver of {nfe} evaluations diverges on {campaign.teacher.name}.")
    best = {id(item) for item in (*known[: settings.budget.finalists], *baselines.best_per_kind(known))}
    finalists = [item for item in known if id(item) in best]
    select = scored(campaign, board, finalists, "select", "known solvers, finalists")
    select.sort(key=lambda item: value(item.select))
    ordered = select + [item for item in known if id(item) not in best]
    seeds = settings.seeds
    cost = beginning_alike([*wanted, *guessed, *finer], seeds.fit) + beginning_alike(select, seeds.select)
    write_atomically(path, msgspec.json.encode((ordered, cost)))
    return ordered, cost


def ranked(known: Sequence[Known]) -> list[Known]:
    """Best on `fit` first, without those that diverged."""
    return sorted((item for item in known if item.fit is not None), key=lambda item: value(item.fit))


def value(score: float | None) -> float:
    """A score for sorting: what diverged is last."""
    return math.inf if score is None else score


def scored(campaign: Campaign, board: Board, known: Sequence[Known], block: trajectories.Block, what: str) -> list[Known]:
    """The records with their value on a block filled in (None where they diverge), scored by all workers together."""
    campaign.on(block)  # so that its progress bar comes first
    what = f"{what} at NFE {campaign.nfe}"
    task = campaign.progress.add_task(what, total=len(known))

    def score(numbers: list[int]) -> list[float | None]:
        tableaus = [compile(baselines.schedule(known[number], campaign.teacher)) for number in numbers]
        return [v if math.isfinite(v) else None for v in campaign.scores(tableaus, block)]

    values = board.together(what, range(len(known)), score, 16, lambda done: campaign.progress.update(task, completed=done))
    return [msgspec.structs.replace(item, **{block: v}) for item, v in zip(known, values, strict=True)]


def other_budgets(campaign: Campaign, board: Board, known: Sequence[Known]) -> list[Known]:
    """For the work-precision curve: the best few known solvers, their grids unchanged, at the budgets around, scored on `select`."""
    nfe = campaign.nfe
    near = [n for n in range(max(2, nfe - 3), nfe + 6) if n != nfe]
    best = baselines.best_per_kind(known)[:4]
    others = (msgspec.structs.replace(item, nfe=n, fit=None, select=None) for item in best for n in near)
    wanted = [item for item in others if baselines.possible(item, campaign.teacher)]
    return scored(campaign, board, wanted, "select", "other budgets") + best
