"""The end of a campaign over one NFE: choose among the finalists on `select`, read `test` once, write the files."""

import json
import platform
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import msgspec
import torch
from optuna.trial import FrozenTrial

from search import baselines, report, result, tracker
from search.campaign import Campaign, cores
from search.errors import CampaignError
from search.objective import objective
from search.ranks import ranked
from search.result import Cost, Finished, Interval, Known, Result, Scored
from search.statistics import interval, ratio
from search.study import cost_of
from solvers import Provenance, ScheduleFile, Score, SolverSchedule, compile, save
from solvers.atomic import write_atomically
from teacher import trajectories
from teacher.trajectories import Targets


def conclude(
    campaign: Campaign,
    known: Sequence[Known],
    known_cost: Cost,
    curves: Sequence[Known],
    trials: Sequence[FrozenTrial],
    mirror: tracker.Mirror,
    started: float,
) -> Result:
    """Choose on `select`, report on `test`, write the files. curves: known solvers at this and other budgets, to draw."""
    settings, teacher = campaign.settings, campaign.teacher
    best_first = sorted((t for t in trials if t.value is not None), key=lambda t: t.value or 0.0)[: settings.budget.finalists]
    if not best_first:
        raise CampaignError("Every candidate diverged; nothing can be exported.")
    finalists = [campaign.space.decode(t.params) for t in best_first]
    select = campaign.scores([compile(s) for s in finalists], "select")
    winner = min(range(len(best_first)), key=select.__getitem__)
    found, trial = finalists[winner], best_first[winner]
    reads = _count_read(campaign)
    test = campaign.on("test")
    targets = test.targets
    best = [known[0], *(item for item in baselines.best_per_solver(known) if item.solver != known[0].solver)][:10]
    schedules = [found, *(baselines.schedule(item, teacher) for item in best)]
    pictures = [test.images(compile(s)) for s in campaign.progress.track(schedules, description="test")]
    scored = [
        score_on_test(campaign, targets, name, s, x, pictures[1])
        for name, s, x in zip(["found", *(item.name for item in best)], schedules, pictures, strict=True)
    ]
    path = campaign.directory / f"{campaign.name}.schedule.json"
    file = export(campaign, path, found, trial.number, targets, scored[0], scored[1], reads)
    chosen = dict(zip((t.number for t in best_first), select, strict=True))
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
            Finished(t.number, t.value, chosen.get(t.number), t.user_attrs.get("origin", ""), t.user_attrs.get("seeds", 0)) for t in trials
        ),
        schedule_file=str(path),
        schedule_id=file.id,
        teacher_nfe=targets.nfe,
        teacher_error=targets.error,
        seeds=msgspec.to_builtins(settings.seeds),
        calls_per_evaluation=teacher.calls,
        search_cost=cost_of(trials),
        known_cost=known_cost,
        seconds=time.monotonic() - started,
        test_reads=reads,
        ranks=tuple(ranked(trials, campaign.space.distributions())),
        machine=f"{platform.machine()}, {settings.workers or cores()} cores, torch {torch.__version__}",
    )
    shown = {"teacher": targets.images, "baseline": pictures[1], "found": pictures[0]}
    report.write(campaign.directory, outcome, found, schedules[1], shown)
    result.write(outcome, campaign.directory / "result.json")
    mirror.schedule(path, {"nfe": campaign.nfe, "id": file.id, "ratio": scored[0].ratio.value})
    return outcome


def _count_read(campaign: Campaign) -> int:
    """How often this campaign has read its test seeds, this time included."""
    path = campaign.directory / "test-reads.json"
    reads = 1 + (json.loads(path.read_bytes()) if path.exists() else 0)
    write_atomically(path, json.dumps(reads).encode())
    return reads


def score_on_test(
    campaign: Campaign, targets: Targets, name: str, schedule: SolverSchedule, pictures: torch.Tensor, baseline: torch.Tensor
) -> Scored:
    """RMSE and LPIPS with intervals, paired with the baseline's pictures of the same seeds."""

    def both(kind: str) -> tuple[Interval, Interval, torch.Tensor]:
        chosen = objective(kind)
        ours, theirs = (chosen.measure(x, targets.images).double() for x in (pictures, baseline))
        return interval(ours, chosen.together), ratio(ours, theirs, chosen.together), ours

    value, relative, squares = both("rmse")
    lpips = {kind: both(kind)[:2] for kind in campaign.settings.perceptual[:1]} if len(campaign.teacher.shape) == 3 else {}
    perceived = next(iter(lpips.values()), (None, None))
    return Scored(name, compile(schedule).nfe, value, float(squares.sqrt().median()), relative, *perceived)


def export(
    campaign: Campaign, path: Path, found: SolverSchedule, trial: int, targets: Targets, score: Scored, baseline: Scored, reads: int
) -> ScheduleFile:
    """Write the schedule file with what it was fitted for, its test scores and where it comes from."""
    teacher = campaign.teacher
    rows = [("rmse", score.rmse, score.ratio, baseline.rmse.value)]
    if score.lpips and score.lpips_ratio and baseline.lpips:
        rows.append((campaign.settings.perceptual[0], score.lpips, score.lpips_ratio, baseline.lpips.value))
    scores = [
        Score(name, len(targets.seeds), v.value, v.low, v.high, baseline.name, theirs, r.value, r.low, r.high)
        for name, v, r, theirs in rows
    ]
    made_by = f"{trajectories.SOLVER}, {targets.nfe} evaluations"
    fitted_for = msgspec.structs.replace(teacher.card, teacher=made_by, teacher_error=targets.error)
    provenance = Provenance(
        version=version("fewstep"),
        study=campaign.name,
        trial=trial,
        licence=teacher.licence,
        calls_per_evaluation=teacher.calls,
        test_reads=reads,
    )
    return save(compile(found), path, recipe=found, fitted_for=fitted_for, scores=scores, provenance=provenance)
