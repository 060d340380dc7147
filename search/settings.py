"""What a campaign is told: plain records, checked when built. Hydra's files in conf/ are one way to write them."""

from typing import Annotated, Any

import msgspec

from search.errors import CampaignError
from search.fit import Learner

Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]


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

    trials      candidates the search may score on `fit`
    known       tuned known solvers, at least; none: as many as trials
    generation  candidates that are proposed and scored together
    blocks      blocks of fit seeds after each of which a candidate clearly worse than the best is stopped; 1: never
    risk        the chance to stop a candidate that is no worse
    finalists   how many of each side are scored again on `select`
    """

    trials: Count = 400
    known: Count | None = None
    generation: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 8
    blocks: Annotated[int, msgspec.Meta(ge=1, le=64)] = 8
    risk: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.05
    finalists: Count = 16


class Tracker(_Settings, frozen=True):
    """W&B: "offline" (default), "online" or "disabled"."""

    mode: str = "offline"
    project: str = "fewstep"


class Settings(_Settings, frozen=True):
    """One campaign: which model, which budget, where, how. learner: polishes the finalists; none: they stay as they were found."""

    model: Named
    nfe: Annotated[int, msgspec.Meta(ge=1, le=64)]
    space: dict[str, Any] = {}
    sampler: Named = Named("s3")
    objective: str = "rmse"
    perceptual: tuple[str, ...] = ("lpips-alex",)
    compare: tuple[str, ...] = ()
    seeds: Seeds = Seeds()
    budget: Budget = Budget()
    tracker: Tracker = Tracker()
    learner: Learner | None = None
    tolerance: Annotated[float, msgspec.Meta(gt=0)] = 1e-3
    seed: int = 0
    chunk: Count = 128
    directory: str = ""
    storage: str = ""
    workers: Annotated[int, msgspec.Meta(ge=0)] = 0
    grace: Annotated[float, msgspec.Meta(gt=0)] = 60.0
    rank: int = 0


def settings(values: dict[str, Any]) -> Settings:
    """The settings in a plain dictionary. Raises CampaignError naming what does not fit."""
    try:
        return msgspec.convert(values, Settings)
    except msgspec.ValidationError as error:
        raise CampaignError(f"The settings do not fit: {error}.") from None
