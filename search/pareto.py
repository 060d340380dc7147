"""The end of a campaign over several NFE: each is concluded as if it were alone, and together they are a front.

The hypervolume of a front is the area between it and a reference point, over NFE and the decimal logarithm of the error
(Zitzler and Thiele 1999): how much was gained, at all budgets together, in decades of error times evaluations.
"""

import itertools
import math
import time
from collections.abc import Mapping, Sequence

from optuna.trial import FrozenTrial

from search import baselines, front_report, result, tracker
from search.campaign import Campaign
from search.conclude import conclude
from search.foresight import overhead
from search.proposals import finishers, of_nfe
from search.records import Cost, Known
from search.result import Front, Moment, Part, Result
from search.study import cost_of


def hypervolume(errors: Mapping[int, float], reference: tuple[int, float]) -> float:
    """Of the best errors by NFE: the sum over NFE n of (next n - n) log10(reference error / best error at n or fewer), where positive."""
    budgets = sorted(errors)
    best = itertools.accumulate((errors[n] for n in budgets), min)
    widths = (after - n for n, after in itertools.pairwise([*budgets, reference[0]]))
    return sum(width * max(0.0, math.log10(reference[1] / error)) for width, error in zip(widths, best, strict=True))


def progress(campaign: Campaign, trials: Sequence[FrozenTrial], reference: tuple[int, float], evaluations: int) -> list[Moment]:
    """The hypervolume after every trial, over the evaluations spent (so many before the first); of the trials that saw all fit seeds."""
    best: dict[int, float] = {}
    moments = [Moment(evaluations, 0.0)]
    for trial in trials:
        nfe = trial.user_attrs["nfe"]
        evaluations += nfe * trial.user_attrs["seeds"]
        for finisher in finishers([trial], campaign.settings.seeds.fit):
            best[nfe] = min(best.get(nfe, math.inf), finisher.value or math.inf)
        moments.append(Moment(evaluations, hypervolume(best, reference)))
    return moments


def conclude_all(
    campaign: Campaign,
    tuned: Mapping[int, tuple[Sequence[Known], Cost]],
    trials: Sequence[FrozenTrial],
    mirror: tracker.Mirror,
    begun: float,
) -> Front:
    """Conclude every NFE that is not concluded yet, and write what they are together."""
    best = {nfe: baselines.best_per_kind(known) for nfe, (known, _) in tuned.items()}
    results: list[Result] = []
    for nfe, (known, cost) in tuned.items():
        here, favourites = campaign.at(nfe), {item.kind for item in best[nfe][:4]}
        curves = [item for solvers in best.values() for item in solvers if item.kind in favourites]
        kept = result.concluded(here.directory / "result.json", campaign.settings.learner)
        results.append(kept or conclude(here, known, cost, curves, of_nfe(trials, nfe), mirror, begun))
    errors = {nfe: min(item.fit for item in known if item.fit is not None) for nfe, (known, _) in tuned.items()}
    spent = overhead(campaign, {nfe: known for nfe, (known, _) in tuned.items()})
    reference = (campaign.budgets[-1] + 1, max(errors.values()))
    front = Front(
        parts=tuple(
            Part(r.nfe, r.found, r.baseline, r.schedule_file, r.schedule_id, len(r.trials), len(r.known), r.test_reads) for r in results
        ),
        reference=reference,
        hypervolume=tuple(progress(campaign, trials, reference, spent.logical)),
        known_hypervolume=hypervolume(errors, reference),
        generation=campaign.settings.budget.generation,
        learner=campaign.settings.learner,
        search_cost=cost_of(trials) + spent,
        known_cost=sum((cost for _, cost in tuned.values()), Cost()),
        seconds=time.time() - begun,
        **{name: getattr(results[0], name) for name in ("model", "objective", "seeds", "teacher_nfe", "teacher_error", "machine")},
    )
    front_report.write(campaign.directory, front)
    result.write(front, campaign.directory / "front.json")
    return front
