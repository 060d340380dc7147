"""Tune the known solvers: what the search has to beat, and where it starts from."""

import math
from collections.abc import Sequence
from pathlib import Path

import msgspec

from search import baselines
from search.campaign import Campaign
from search.errors import CampaignError
from search.result import Cost, Known
from solvers import compile
from solvers.atomic import write_atomically
from teacher import trajectories

KINDS = 6  # solvers with their options that are tuned on finer grids


def tune_known(campaign: Campaign) -> tuple[list[Known], Cost]:
    """Score known solvers on `fit`, the best few on `select`; best first (by `select`, then by `fit`). Kept in known.json.

    Solvers that diverge are left out. While it runs, known-so-far.json holds what is done.
    """
    path, partial = campaign.directory / "known.json", campaign.directory / "known-so-far.json"
    if path.exists():
        return msgspec.json.decode(path.read_bytes(), type=tuple[list[Known], Cost])
    settings, nfe = campaign.settings, campaign.settings.nfe
    count = settings.budget.known or settings.budget.trials
    wanted = baselines.candidates(campaign.teacher, nfe, -(-count // 2))
    if not wanted:
        raise CampaignError(f"No known solver can spend exactly {nfe} evaluations.")
    coarse = ranked(scored(campaign, wanted, "fit", "known solvers", partial))
    wanted += baselines.finer(campaign.teacher, coarse, KINDS, count - len(wanted))
    known = ranked(scored(campaign, wanted, "fit", "known solvers, finer grids", partial))
    best = {id(item) for item in (*known[: settings.budget.finalists], *baselines.best_per_solver(known))}
    finalists = [item for item in known if id(item) in best]
    select = scored(campaign, finalists, "select", "known solvers, finalists")
    select.sort(key=lambda item: value(item.select))
    ordered = select + [item for item in known if id(item) not in best]
    fit = settings.seeds.fit
    cost = Cost(len(wanted) * nfe * fit, (len(wanted) * (nfe - 1) + 1) * fit) + campaign.on("select").cost
    write_atomically(path, msgspec.json.encode((ordered, cost)))
    partial.unlink(missing_ok=True)
    return ordered, cost


def ranked(known: Sequence[Known]) -> list[Known]:
    """Best on `fit` first, without those that diverged."""
    return sorted((item for item in known if item.fit is not None), key=lambda item: value(item.fit))


def value(score: float | None) -> float:
    """A score for sorting: what diverged is last."""
    return math.inf if score is None else score


def scored(campaign: Campaign, known: Sequence[Known], block: trajectories.Block, what: str, partial: Path | None = None) -> list[Known]:
    """The records with their value on a block filled in (None where they diverge); `partial` keeps what is done."""
    campaign.on(block)  # so that its progress bar comes first
    found, group = list[Known](), 16
    if partial is not None and partial.exists():
        found = msgspec.json.decode(partial.read_bytes(), type=list[Known])
    task = campaign.progress.add_task(what, total=len(known), completed=len(found))
    while len(found) < len(known):
        part = known[len(found) : len(found) + group]
        tableaus = [compile(baselines.schedule(item, campaign.teacher)) for item in part]
        values = [v if math.isfinite(v) else None for v in campaign.scores(tableaus, block)]
        found += [msgspec.structs.replace(item, **{block: v}) for item, v in zip(part, values, strict=True)]
        if partial is not None:
            write_atomically(partial, msgspec.json.encode(found))
        campaign.progress.update(task, completed=len(found))
    return found


def other_budgets(campaign: Campaign, known: Sequence[Known]) -> list[Known]:
    """For the work-precision curve: the best few known solvers' grids at the budgets around, scored on `select`."""
    nfe = campaign.settings.nfe
    near = [n for n in range(max(2, nfe - 3), nfe + 6) if n != nfe]
    clean = campaign.teacher.end == campaign.teacher.process.t_clean
    best = baselines.best_per_solver(known)[:4]
    wanted = [
        msgspec.structs.replace(item, nfe=n, fit=None, select=None)
        for item in best
        for n in near
        if baselines.steps_for_nfe(item.solver, n, clean)
    ]
    return scored(campaign, wanted, "select", "other budgets") + best
