"""What a campaign is told: plain records, checked when built. Hydra's files in conf/ are one way to write them."""

import re
from typing import Annotated, Any, Literal

import msgspec

from search.errors import CampaignError
from search.learner import Learner, Positive

Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Evaluations = Annotated[int, msgspec.Meta(ge=1, le=64)]


class _Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Named(_Settings, frozen=True):
    """Something that is chosen by name, and its options."""

    name: str
    options: dict[str, Any] = {}


class Seeds(_Settings, frozen=True):
    """How many seeds of each block."""

    fit: Count = 128
    select: Count = 128
    test: Count = 256


class Budget(_Settings, frozen=True):
    """How much is spent.

    trials      candidates the search may score on `fit`, of all NFE together; each NFE gets the same share, a generation in turn
    known       tuned known solvers of each NFE, at least, and never fewer than it has trials
    generation  candidates that are proposed and scored together
    blocks      blocks of fit seeds after each of which a candidate clearly worse than the best is stopped; 1: never
    risk        the chance to stop a candidate that is no worse in the mean over seeds (search.race)
    finalists   how many of each side are scored again on `select`
    """

    trials: Count = 240
    known: Count | None = None
    generation: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 8
    blocks: Annotated[int, msgspec.Meta(ge=1, le=64)] = 8
    risk: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.05
    finalists: Count = 16


class Tracker(_Settings, frozen=True):
    """W&B: "offline" (default), "online" or "disabled"."""

    mode: Literal["offline", "online", "disabled"] = "offline"
    project: str = "fewstep"


class Settings(_Settings, frozen=True):
    """One campaign: which model, which NFE, where, how.

    nfe         one number of evaluations, or several: then the campaign finds a front
    space       words of search.space.Space that are not to have their defaults
    warm        schedule files, or directories of them, from which the search starts too
    objective   what trials are scored by, search.objective; perceptual: the LPIPS reported beside RMSE, of which there is at most one
    compare     objectives whose rankings of some of the trials are compared (search.agreement)
    learner     polishes the finalists; none: they stay as they were found
    tolerance   RMSE between the teacher's images at N and at 2N evaluations, below which they have converged
    chunk       samples in one call of the network, at most
    directory   by default campaigns/MODEL-nfeN; storage: by default sqlite in there
    workers     calls of the network side by side; 0: one for each core, and one alone on another device
    grace       seconds after which what a silent worker had claimed goes to others
    rank        changes nothing: what a launcher sweeps to start several workers of one campaign
    """

    model: Named
    nfe: Annotated[tuple[Evaluations, ...], msgspec.Meta(min_length=1)]
    space: dict[str, Any] = {}
    sampler: Named = Named("s3")
    warm: tuple[str, ...] = ()
    objective: str = "rmse"
    perceptual: tuple[str, ...] = ("lpips-alex",)
    compare: tuple[str, ...] = ()
    seeds: Seeds = Seeds()
    budget: Budget = Budget()
    tracker: Tracker = Tracker()
    learner: Learner | None = None
    tolerance: Positive = 1e-3
    seed: int = 0
    chunk: Count = 64
    directory: str = ""
    storage: str = ""
    workers: Annotated[int, msgspec.Meta(ge=0)] = 0
    device: str = "cpu"
    grace: Positive = 60.0
    rank: int = 0

    @property
    def share(self) -> int:
        """How many trials each NFE gets, at most."""
        turns = -(-self.budget.trials // (self.budget.generation * len(self.nfe)))
        return min(self.budget.trials, turns * self.budget.generation)


def settings(values: dict[str, Any]) -> Settings:
    """The settings in a plain dictionary. Raises CampaignError naming what does not fit. nfe may be 5, [4, 6, 8] or "3..10"."""
    try:
        found = msgspec.convert(values | {"nfe": _budgets(values.get("nfe"))}, Settings)
    except msgspec.ValidationError as error:
        raise CampaignError(f"The settings do not fit: {error}.") from None
    least = found.budget.generation * (len(found.nfe) - 1) + 1
    if found.budget.trials < least:
        raise CampaignError(f"{found.budget.trials} trials do not reach {len(found.nfe)} budgets; budget.trials={least} is the least.")
    return found


def _budgets(nfe: Any) -> Any:
    """A list without repetitions, ascending, as far as it is one of whole numbers."""
    if isinstance(nfe, str):
        ends = re.fullmatch(r"(\d{1,2})\.\.(\d{1,2})", nfe)
        if not ends or not 1 <= int(ends[1]) <= int(ends[2]) <= 64:
            raise CampaignError(f"nfe is 5, [4,6,8], or the first and the last of a range such as 3..10, from 1 to 64; not {nfe!r}.")
        return list(range(int(ends[1]), int(ends[2]) + 1))
    return sorted(set(nfe)) if isinstance(nfe, list) and all(isinstance(n, int) for n in nfe) else nfe if isinstance(nfe, list) else [nfe]
