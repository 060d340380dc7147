"""A campaign: settings, the things they name, and the directory that belongs to them.

A directory belongs to one question (model, budget, seeds, space ...), and so does a study: another question there is refused.
Any number of workers may share both (search.board). A campaign over several NFE has a part for each: a campaign over that
NFE alone, in a directory inside.
"""

import functools
import json
import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import msgspec
from rich.progress import Progress

from search.errors import CampaignError
from search.evaluate import Evaluator
from search.objective import Objective, looks, objective
from search.samplers import rehearse
from search.settings import Seeds, Settings
from search.space import Space
from search.warm import Warm, starts
from solvers import FittedFor, ScheduleError, Tableau
from solvers.atomic import write_atomically
from teacher import cache, models, trajectories
from teacher.denoiser import Teacher
from teacher.trajectories import Targets

QUESTION = ["model", "nfe", "space", "sampler", "objective", "perceptual", "compare", "seeds", "budget", "tolerance", "seed"]


@dataclass(frozen=True)
class Campaign:
    """What every stage needs: the settings and what they name. spaces: by NFE."""

    settings: Settings
    directory: Path
    teacher: Teacher
    spaces: dict[int, Space]
    warm: tuple[Warm, ...]
    objective: Objective
    progress: Progress
    evaluators: dict[str, Evaluator] = field(default_factory=dict[str, Evaluator])

    @functools.cached_property
    def name(self) -> str:
        """The campaign's name, that of its directory when it was begun."""
        path = self.directory / "campaign.json"
        told = _told(path) if path.exists() else {}
        return told.get("name", self.directory.resolve().name)

    @functools.cached_property
    def question(self) -> dict[str, Any]:
        """Everything that decides the answer: what a directory belongs to."""
        settings = msgspec.to_builtins(self.settings)
        ours = {name: settings[name] for name in QUESTION}
        images = cache.key_of(self.teacher.facts(trajectories.seeds_of("fit", self.settings.seeds.fit)))
        ours |= {"images": images, "warm": [start.id for start in self.warm]}
        return json.loads(json.dumps(ours), parse_int=float)  # as it will be read back; 2 and 2.0 are one question

    @property
    def key(self) -> str:
        """What its records in a storage go by: another question under the same name finds none of them."""
        return f"{self.name} {cache.key_of(self.question)[:16]}"

    @property
    def budgets(self) -> list[int]:
        """Its NFE, ascending."""
        return list(self.spaces)

    def at(self, nfe: int) -> "Campaign":
        """The part that is one NFE: the campaign itself, if it has no other."""
        if self.budgets == [nfe]:
            return self
        return replace(self, directory=self.directory / f"{self.name}-nfe{nfe}", spaces={nfe: self.spaces[nfe]})

    @property
    def nfe(self) -> int:
        """Of a campaign over one."""
        (nfe,) = self.budgets
        return nfe

    @property
    def space(self) -> Space:
        """Of a campaign over one NFE."""
        return self.spaces[self.nfe]

    def on(self, block: trajectories.Block) -> Evaluator:
        """The evaluator of a block; the teacher's images come from the cache or are solved now."""
        if block not in self.evaluators:
            calls = callers(self.settings.workers, self.settings.device)
            goal = targets(self.teacher, block, self.settings.seeds, self.settings.tolerance, self.progress, calls)
            self.evaluators[block] = Evaluator(self.teacher, goal, self.settings.chunk, calls)
        return self.evaluators[block]

    def scores(self, tableaus: Sequence[Tableau], block: trajectories.Block) -> list[float]:
        """The objective of each candidate on a block; infinity where it diverges."""
        found = self.objective.together(self.on(block).errors(tableaus, self.objective.measure))
        return [float(value) if math.isfinite(value) else math.inf for value in found]


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def callers(workers: int, device: str) -> int:
    """How many threads ask the network side by side: as many as was said, or one per core, and one alone where it is not on the CPU."""
    return workers or (cores() if device == "cpu" else 1)


def targets(teacher: Teacher, block: trajectories.Block, seeds: Seeds, tolerance: float, progress: Progress, workers: int) -> Targets:
    """The teacher's images for as many seeds of the block as the settings say, several shards at a time, with a progress bar."""
    plan = trajectories.plan(block, getattr(seeds, block))
    with ThreadPoolExecutor(workers) as pool:
        shards = pool.map(lambda part: trajectories.shard(teacher, part, tolerance), plan)
        parts = list(progress.track(shards, total=len(plan), description=f"teacher, {block} seeds"))
    return trajectories.gather(teacher, block, plan, parts)


def campaign(settings: Settings, progress: Progress) -> Campaign:
    """Load what the settings name. Raises the rooms' one-sentence errors for bad input, before anything is written."""
    teacher = models.ready(settings.model.name, settings.model.options, settings.device, settings.chunk)
    words: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.space.items()}
    strange = sorted(words.keys() - {field.name for field in fields(Space)})
    if strange:
        raise CampaignError(f"The space does not take {', '.join(strange)}.")
    for name, value in words.items():
        if isinstance(getattr(Space, name, None), tuple) and not isinstance(value, tuple):
            raise CampaignError(f"space.{name} is a list, such as [{value}].")
    try:
        given = dict(teacher.knobs)
        spaces = {nfe: Space(teacher.process, teacher.start, teacher.end, nfe, **words, given=given) for nfe in settings.nfe}
    except ScheduleError:
        raise
    except (TypeError, AttributeError, ValueError) as error:
        raise CampaignError(f"A value of the space is not of the kind that its word takes: {error}.") from None
    if settings.perceptual not in ((), ("lpips-alex",), ("lpips-vgg",)):
        raise CampaignError("perceptual is [lpips-alex], [lpips-vgg] or []; compare=[...] takes more and others.")
    for name in (*settings.perceptual, *settings.compare):
        if teacher.makes_pictures or not looks(name):
            objective(name)  # missing LPIPS weights are found now, not after the search
    rehearse(settings.sampler.name, settings.sampler.options, spaces[settings.nfe[0]].distributions())  # as are its options
    aim, some, home = objective(settings.objective), spaces[settings.nfe[0]], directory_of(settings)
    if looks(settings.objective) and not teacher.makes_pictures:
        raise CampaignError(f"{teacher.name} makes no pictures, so {settings.objective!r} cannot judge them.")
    if some.method == "parallel" and (settings.warm or len(settings.nfe) > 1):
        raise CampaignError("Parallel steps cannot be inserted or deleted: their space takes one NFE and no warm starts.")
    if settings.learner:
        settings.learner.require(teacher, settings.seeds.fit)
        if some.eta[1]:
            raise CampaignError("Steps that inject noise (space.eta) cannot be learned; leave the learner out.")
        if not all(any(settings.learner.suits(space.decode({"answer0": a})) for a in space.answer) for space in spaces.values()):
            raise CampaignError(f"Schedules of this space cannot be learned at level {settings.learner.level!r}; choose another learner.")
    if aim.kind != "seeds" and min(settings.seeds.fit, settings.seeds.select, settings.seeds.test - 1) < 2:  # intervals leave one out
        raise CampaignError(f"{aim.name!r} compares sets, and one seed is none: give every block two or more, and test three.")
    if some.eta[1] and aim.kind == "seeds":
        raise CampaignError(
            f"Steps that inject noise (space.eta) leave the teacher's trajectories, so {aim.name!r} cannot judge them: "
            "choose an objective that compares sets, such as objective=frechet-alex."
        )
    return Campaign(settings, home, teacher, spaces, starts(settings.warm, teacher, home), aim, progress)


def card_of(teacher: Teacher, goal: Targets) -> FittedFor:
    """What a file says it was fitted for: the model's card, and what its images were solved with."""
    made_by = f"{trajectories.SOLVER}, {goal.nfe} evaluations"
    return msgspec.structs.replace(teacher.card, teacher=made_by, teacher_error=goal.error)


def directory_of(settings: Settings) -> Path:
    """Where the campaign lives: as said, or campaigns/MODEL-nfeN, over several NFE campaigns/MODEL-nfeN-M."""
    budgets = "-".join(str(nfe) for nfe in dict.fromkeys((settings.nfe[0], settings.nfe[-1])))
    return Path(settings.directory or f"campaigns/{settings.model.name.replace('/', '_').replace(':', '_')}-nfe{budgets}")


def claim(campaign: Campaign) -> None:
    """Make the directory this campaign's, or check that it is. Raises CampaignError naming what differs."""
    if not campaign.settings.storage and set("?%") & set(str(campaign.directory.resolve())):
        raise CampaignError(f"{campaign.directory} holds a character, ? or %, that the address of its study cannot have.")
    try:
        _claim(campaign.directory, campaign.question)
    except OSError as error:
        raise CampaignError(f"{campaign.directory} cannot be a campaign's directory: {error.strerror}.") from None


def _claim(directory: Path, ours: Mapping[str, Any]) -> None:
    path = directory / "campaign.json"
    there = {file.name for file in directory.iterdir()} if directory.exists() else set[str]()
    if path.name in there:
        agree(ours, _told(path), str(directory))
    elif any(not name.startswith(".fewstep-") for name in there):  # such a file is a lock, or another worker's claim being written
        raise CampaignError(f"{directory} is not empty and holds no campaign; choose another directory=....")
    else:
        told = {"name": directory.resolve().name} | dict(ours)  # the name stays when the directory gets another
        write_atomically(path, (json.dumps(told, indent=1) + "\n").encode())


def _told(path: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except msgspec.MsgspecError:
        raise CampaignError(f"{path} is damaged; move {path.parent} away to begin anew.") from None


def agree(ours: Mapping[str, Any], theirs: Mapping[str, Any], where: str) -> None:
    """Raise CampaignError naming what differs between two campaigns' questions."""
    differ = [name for name in ours if ours[name] != theirs.get(name)]
    if differ:
        raise CampaignError(f"{where} belongs to another campaign (other {', '.join(differ)}); choose another directory=... or move it.")
