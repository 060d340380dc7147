"""Tune the known solvers: what the search has to beat, and where it starts from."""

import math
from collections.abc import Sequence

import msgspec

from search import baselines
from search.campaign import Campaign
from search.errors import CampaignError
from search.result import Cost, Known
from solvers import compile
from solvers.atomic import write_atomically
from teacher import trajectories


def tune_known(campaign: Campaign) -> tuple[list[Known], Cost]:
    """Score known solvers on `fit`, the best few on `select`; best first (by `select`, then by `fit`). Kept in known.json."""
    path = campaign.directory / "known.json"
    kind = tuple[list[Known], Cost]
    if path.exists():
        return msgspec.json.decode(path.read_bytes(), type=kind)
    settings, teacher = campaign.settings, campaign.teacher
    wanted = baselines.candidates(teacher, settings.nfe, settings.budget.known or settings.budget.trials)
    if not wanted:
        raise CampaignError(f"No known solver can spend exactly {settings.nfe} evaluations.")
    known, cost = scored(campaign, wanted, "fit", "known solvers")
    known.sort(key=lambda item: item.fit)
    best = {id(item) for item in (*known[: settings.budget.finalists], *baselines.best_per_solver(known))}
    finalists = [item for item in known if id(item) in best]
    select, spent = scored(campaign, finalists, "select", "known solvers, finalists")
    select.sort(key=lambda item: item.select if item.select is not None else math.inf)
    ordered = select + [item for item in known if id(item) not in best]
    found = (ordered, cost + spent)
    write_atomically(path, msgspec.json.encode(found))
    return found


def scored(campaign: Campaign, known: Sequence[Known], block: trajectories.Block, what: str) -> tuple[list[Known], Cost]:
    """The records with their value on a block filled in, and the cost."""
    targets, found, cost, group = campaign.targets(block), list[Known](), Cost(), 16
    for first in campaign.progress.track(range(0, len(known), group), description=what):
        part = known[first : first + group]
        tableaus = [compile(baselines.schedule(item, campaign.teacher)) for item in part]
        values, spent = campaign.scores(tableaus, targets)
        found += [msgspec.structs.replace(item, **{block: value}) for item, value in zip(part, values, strict=True)]
        cost += spent
    return found, cost


def other_budgets(campaign: Campaign, known: Sequence[Known]) -> list[Known]:
    """For the work-precision curve: the best few known solvers' grids at the budgets around, scored on `select`."""
    nfe = campaign.settings.nfe
    near = [n for n in range(max(2, nfe - 3), nfe + 6) if n != nfe]
    clean = campaign.teacher.end == campaign.teacher.process.t_clean
    best = baselines.best_per_solver(known)[:4]
    wanted = [msgspec.structs.replace(item, nfe=n) for item in best for n in near if baselines.steps_for_nfe(item.solver, n, clean)]
    return scored(campaign, wanted, "select", "other budgets")[0] + best
