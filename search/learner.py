"""What a fit is asked for: what may move, what it should make small, by which optimisers."""

from typing import Annotated, Literal, NamedTuple

import msgspec

from search.adam import Adam
from search.errors import CampaignError
from search.losses import SQUARES, Loss
from search.objective import looks
from search.parametrise import LEVELS, NESTED, check_words, suits
from search.paths import affordable
from search.trajectory import holdable
from solvers import SolverSchedule, compile
from teacher import cache
from teacher.denoiser import Teacher
from teacher.statistics import span

STATISTICS = "statistics"  # the level of search.by_statistics, which moves no number
Positive = Annotated[float, msgspec.Meta(gt=0, le=1e9)]  # not infinity


class Stage(NamedTuple):
    """A part of a fit."""

    level: str
    shrink: float
    optimiser: str

    @property
    def heading(self) -> str:
        """What a picture of the curve calls it."""
        return ", ".join(word for word in (self.level, f"{self.shrink:g}", self.optimiser) if word)


class Learner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What may move, what it should make small, and how hard it is held.

    level        one of LEVELS, or "statistics": of what follows objective and batch alone are for that
    through      levels on the way to it, each a stage before the next
    objective    one of losses.LOSSES
    consistency  "kept" or "relaxed": whether a row must be exact where all data is one point
    shrink       strengths towards the start, tried in this order at the last level; the first alone at those before, and on an emulator
    iterations   at most, of each stage
    patience     iterations without a better `select` that end a stage
    gain         a stage ends as well when an iteration lowers what it minimises by less than this fraction
    optimiser    "lm" (search.marquardt) or "adam" (search.adam), whose iterations are many and cheap; "emulated" (search.emulated) asks
                 the network least; "emulated+lm", "emulated+adam" go on from where that ends
    relax        how far the noise of a fit seed may move towards what ends nearer to the teacher, as a share of its norm (LD3: 0.001 P^1/2
                 / NFE^2 of P pixels); 0: every sample is held to its own noise. An emulator does not know it
    damping      where Marquardt's factor starts
    batch        seeds that go through the network together where a derivative is asked for
    """

    level: str = "rows"
    through: tuple[str, ...] = ()
    objective: str = "rmse"
    consistency: str = "relaxed"
    shrink: Annotated[tuple[Annotated[float, msgspec.Meta(ge=0, le=1e9)], ...], msgspec.Meta(min_length=1)] = (1e-3, 1e-4, 1e-5)
    iterations: Annotated[int, msgspec.Meta(ge=1)] = 15
    patience: Annotated[int, msgspec.Meta(ge=1)] = 4
    gain: Positive = 0.003
    optimiser: Literal["lm", "adam", "emulated", "emulated+lm", "emulated+adam"] = "emulated+lm"
    relax: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    damping: Positive = 1e-2
    adam: Adam = Adam()
    batch: Annotated[int, msgspec.Meta(ge=1)] = 16

    def __post_init__(self) -> None:
        check_words(self.level, self.consistency, (*LEVELS, STATISTICS))
        way = [NESTED.index(level) if level in NESTED else -1 for level in (*self.through, self.level)]
        if self.through and (-1 in way or way != sorted(set(way))):
            raise CampaignError(f"Levels are passed through in the order {', '.join(NESTED)}, up to the one that is asked for.")
        Loss(self.objective)  # proves its word
        if self.adam.adversary.weight and (not self.optimiser.endswith("adam") or self.adam.memory == "greedy"):
            raise CampaignError(
                "Only Adam plays against an adversary, with the end before it: learner=rows-adam learner.adam.memory=full or rows."
            )
        if self.adam.memory == "greedy" and (self.objective != "trajectory" or not self.optimiser.endswith("adam")):
            raise CampaignError("Only Adam learns greedily, and only by learner.objective=trajectory: others see nothing but the end.")
        if self.relax and self.optimiser == "emulated":
            raise CampaignError("An emulator keeps every seed to its own noise; choose learner.optimiser=lm, or learner.relax=0.")
        if self.optimiser == "emulated" and self.objective not in SQUARES:
            raise CampaignError(f"An emulator knows {', '.join(SQUARES)}, not {self.objective}; choose learner.optimiser=lm.")

    @property
    def mark(self) -> str:
        """What its files are called by: another learner has another."""
        return f"{self.level.replace('+', '-')}-{cache.key_of(msgspec.to_builtins(self))[:8]}"

    def require(self, teacher: Teacher, seeds: int) -> None:
        """Raise CampaignError if what should be small cannot be measured, or not be emulated on so many seeds, with this model.

        Raises TeacherError where it has no statistics and level "statistics" is asked for.
        """
        if self.level == STATISTICS:
            span(teacher)  # which says what it needs
        if self.optimiser == "emulated" and not affordable(teacher, seeds):
            raise CampaignError(f"{teacher.name} has too many pixels for an emulator of it; choose learner.optimiser=lm or adam.")
        if self.objective == "trajectory" and not holdable(teacher, seeds):
            ways = f"The ways of {seeds} seeds of {teacher.name}"
            raise CampaignError(f"{ways} are too large to be held; take fewer, or learner.objective=rmse.")
        judged = "an adversary" if self.adam.adversary.weight else repr(self.objective) if looks(self.objective) else ""
        if judged and not teacher.makes_pictures:
            raise CampaignError(f"{teacher.name} makes no pictures, so {judged} cannot be learned by.")
        Loss(self.objective).view  # noqa: B018 (missing LPIPS weights are found now)

    def suits(self, schedule: SolverSchedule) -> bool:
        """Whether it can move anything of the schedule."""
        if self.level == STATISTICS:
            return not compile(schedule).noises
        return suits(schedule, self.level, self.consistency)

    def stages(self, without: str = "") -> list[Stage]:
        """In order, and without those of one optimiser."""
        found = list[Stage]()
        for word in self.optimiser.split("+"):
            if word == without:
                continue
            through = () if found else self.through
            shrink = self.shrink[:1] if word == "emulated" else self.shrink
            found += [Stage(level, self.shrink[0], word) for level in through] + [Stage(self.level, s, word) for s in shrink]
        return found
