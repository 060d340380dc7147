"""The end of a campaign over one NFE: choose among the finalists on `select`, read `test` once, write the files."""

import platform
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import msgspec
import torch
from optuna.trial import FrozenTrial

from search import baselines, report, result, tracker
from search.agreement import agreement
from search.campaign import Campaign, card_of, cores
from search.errors import CampaignError
from search.features import describer
from search.follow import best_of, fits_from, followed, state_of, threads
from search.foresight import overhead
from search.learner import Learner
from search.losses import DIVERGED
from search.objective import Objective, objective, root_trimmed, share_of_worst
from search.ranks import ranked
from search.records import Cost, Finished, Interval, Known, Scored
from search.result import Result, count_read
from search.s3 import UNFILTERED
from search.starts import Start, of_known, start_of
from search.statistics import interval, jackknife, jackknife_ratio, ratio
from search.study import cost_of
from solvers import Provenance, ScheduleFile, Score, SolverSchedule, Tableau, compile, save
from teacher import cache
from teacher.trajectories import Targets

POLISHED = 3  # finalists a learner starts from, beside the best of starts.of_known


def conclude(
    campaign: Campaign,
    known: Sequence[Known],
    known_cost: Cost,
    curves: Sequence[Known],
    trials: Sequence[FrozenTrial],
    mirror: tracker.Mirror,
    begun: float,
) -> Result:
    """Choose on `select`, report on `test`, write the files. curves: known solvers at this and other budgets, to draw."""
    settings, teacher = campaign.settings, campaign.teacher
    ours, searched, number, select, told = chosen(campaign, known, trials)
    reads = count_read(campaign.directory)
    test = campaign.on("test")
    targets = test.targets
    best = baselines.best_per_kind(known)[:10]
    rivals = [Sampler(item.name, steps := baselines.schedule(item, teacher), compile(steps), steps) for item in best]
    samplers = [ours, rivals[0], *([searched] if ours is not searched else []), *rivals[1:]]
    pictures = [test.images(sampler.table) for sampler in campaign.progress.track(samplers, description="test")]
    scored = [score_on_test(campaign, targets, s.name, s.table.nfe, x, pictures[1]) for s, x in zip(samplers, pictures, strict=True)]
    path = campaign.directory / f"{campaign.name}.schedule.json"
    file = export(campaign, path, searched, number, targets, scored[samplers.index(searched)], scored[1], reads)
    if settings.learner and ours is not searched:
        path = campaign.directory / f"{campaign.name}-{settings.learner.mark}.schedule.json"  # another learner writes beside it
        file = export(campaign, path, ours, None, targets, scored[0], scored[1], reads)
    outcome = Result(
        model=teacher.name,
        nfe=campaign.nfe,
        objective=settings.objective,
        found=scored[0],
        baseline=scored[1],
        others=tuple(scored[2:]),
        curves=tuple(curves),
        known=tuple(known),
        trials=tuple(
            Finished(t.number, t.value, select.get(t.number), t.user_attrs.get("origin", ""), t.user_attrs.get("seeds", 0)) for t in trials
        ),
        schedule_file=str(path),
        schedule_id=file.id,
        teacher_nfe=targets.nfe,
        teacher_error=targets.error,
        seeds=msgspec.to_builtins(settings.seeds),
        calls_per_evaluation=teacher.calls,
        search_cost=cost_of(trials) + overhead(campaign, {campaign.nfe: known}),
        known_cost=known_cost,
        seconds=time.time() - begun,
        test_reads=reads,
        ranks=tuple(ranked(trials, campaign.space.distributions(), describer(campaign.space))),
        learner=settings.learner,
        learned=told,
        abstained=sum(UNFILTERED in trial.system_attrs for trial in trials),
        agreement=agreement(campaign, trials),
        machine=f"{platform.machine()}, {settings.workers or cores()} of {cores()} cores, torch {torch.__version__}",
        perceptual=settings.perceptual[0] if settings.perceptual else "",
    )
    shown = {"teacher": targets.images, "baseline": pictures[1], "found": pictures[0]}
    report.write(campaign.directory, outcome, ours.steps, rivals[0].steps, shown)
    result.write(outcome, campaign.directory / "result.json")
    if settings.learner:
        state_of(campaign.directory / settings.learner.mark).unlink(missing_ok=True)
    mirror.schedule(path, {"nfe": campaign.nfe, "id": file.id, "ratio": scored[0].ratio.value})
    return outcome


class Sampler(NamedTuple):
    """What is scored: `steps` are those shown; the recipe is missing where no steps make what was learned."""

    name: str
    steps: SolverSchedule
    table: Tableau
    recipe: SolverSchedule | None
    note: str = ""


class Choice(NamedTuple):
    """What is reported as ours, which was polished perhaps; what was searched, in which trial; finalists' scores on `select` by trial.

    learned: how learning went, if there is a learner.
    """

    ours: Sampler
    searched: Sampler
    trial: int
    select: dict[int, float]
    learned: str = ""


def chosen(campaign: Campaign, known: Sequence[Known], trials: Sequence[FrozenTrial]) -> Choice:
    """The best finalist on `select`, and what the learner makes of the best ones, if that is better there."""
    learner, budget = campaign.settings.learner, campaign.settings.budget
    best_first = sorted((t for t in trials if t.value is not None), key=lambda t: t.value or 0.0)[: budget.finalists]
    if not best_first:
        raise CampaignError("Every candidate diverged; nothing can be exported.")
    finalists = [campaign.space.decode(t.params) for t in best_first]
    select = campaign.scores([compile(s) for s in finalists], "select")
    order = sorted(range(len(best_first)), key=select.__getitem__)
    found = finalists[order[0]]
    ours = searched = Sampler("searched" if learner else "found", found, compile(found), found)
    told = f"no finalist can be learned at level {learner.level}" if learner else ""
    if learner and any(map(learner.suits, finalists)):
        entrants = [Start(finalists[k], "found", f"trial {best_first[k].number}") for k in order if learner.suits(finalists[k])]
        others = of_known(campaign, known, learner)
        polished = learned(campaign, learner, entrants[:POLISHED], others)
        (after,) = campaign.scores([polished.table], "select")  # by the campaign's objective, not the learner's
        if after < select[order[0]]:
            ours, told = polished, polished.note
        else:
            told = f"{polished.note}; on the selection seeds it was not better than what was searched, which stays"
    numbers = [t.number for t in best_first]
    return Choice(ours, searched, numbers[order[0]], dict(zip(numbers, select, strict=True)), told)


def learned(campaign: Campaign, learner: Learner, found: Sequence[Start], known: Sequence[Start]) -> Sampler:
    """What ends best on `select` of all that is learned from what was found and from the best known solver, best first.

    A campaign that was killed goes on where it was.
    """
    starts, blocks = [*found, *known[:1]], (campaign.on("fit").targets, campaign.on("select").targets)
    schedules, others = ([start.schedule for start in some] for some in (starts, known[1:]))
    asked = campaign.question | {"learner": learner, "from": schedules, "beside": others}
    with threads(campaign.settings.workers or cores()):
        fits = fits_from(campaign.teacher, schedules, others, blocks, learner, campaign.progress, exact=schedules[len(found) :])
        points = followed(fits, campaign.directory / learner.mark, cache.key_of(msgspec.to_builtins(asked)), campaign.progress)
    best = best_of(points)
    fit, point = fits[best], points[best]
    return Sampler("learned", fit.steps(point), fit.table(point), fit.recipe(point), fit.told(point, start_of(fit, starts).origin))


def score_on_test(campaign: Campaign, targets: Targets, name: str, nfe: int, pictures: torch.Tensor, baseline: torch.Tensor) -> Scored:
    """RMSE, LPIPS and the campaign's objective with intervals, paired with the baseline's pictures of the same seeds."""

    def both(chosen: Objective) -> tuple[Interval, Interval, torch.Tensor]:
        alone, relative = (interval, ratio) if chosen.kind == "seeds" else (jackknife, jackknife_ratio)
        records = (chosen.measure(x, targets.images).double() for x in (pictures, baseline))
        ours, theirs = (some.nan_to_num(DIVERGED, DIVERGED) for some in records)  # what is not finite cannot be written down
        return alone(ours, chosen.together), relative(ours, theirs, chosen.together), ours

    value, relative, squares = both(objective("rmse"))
    lpips = [both(objective(kind))[:2] for kind in campaign.settings.perceptual[:1] if campaign.teacher.makes_pictures]
    perceived = lpips[0] if lpips else (None, None)
    aim = both(campaign.objective)[:2] if campaign.objective.name != "rmse" else (None, None)
    robust = float(root_trimmed(squares)), float(share_of_worst(squares))
    return Scored(name, nfe, value, float(squares.sqrt().median()), relative, *perceived, *aim, *robust)


def export(
    campaign: Campaign, path: Path, sampler: Sampler, trial: int | None, targets: Targets, score: Scored, baseline: Scored, reads: int
) -> ScheduleFile:
    """Write the schedule file with what it was fitted for, its test scores and where it comes from."""
    teacher = campaign.teacher
    rows = [("rmse", score.rmse, score.ratio, baseline.rmse.value)]
    if score.lpips and score.lpips_ratio and baseline.lpips:
        rows.append((campaign.settings.perceptual[0], score.lpips, score.lpips_ratio, baseline.lpips.value))
    if score.aim and score.aim_ratio and baseline.aim and campaign.objective.name not in (name for name, *_ in rows):
        rows.append((campaign.objective.name, score.aim, score.aim_ratio, baseline.aim.value))
    scores = [
        Score(name, len(targets.seeds), v.value, v.low, v.high, baseline.name, theirs, r.value, r.low, r.high)
        for name, v, r, theirs in rows
    ]
    provenance = Provenance(
        version=version("fewstep"),
        study=campaign.name,
        trial=trial,
        licence=teacher.licence,
        calls_per_evaluation=teacher.calls,
        test_reads=reads,
        note=sampler.note,
    )
    card, recipe, process = card_of(teacher, targets), sampler.recipe, sampler.steps.process
    return save(sampler.table, path, recipe=recipe, process=process, fitted_for=card, scores=scores, provenance=provenance)
