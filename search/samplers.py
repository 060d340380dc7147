"""Which of Optuna's samplers proposes: one word in conf/sampler.

A fresh sampler is made for every generation from (seed, generation), so that its proposals depend on nothing but those two
and the trials before: a resumed campaign goes on exactly as an undisturbed one.
"""

import hashlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import optuna
from optuna.samplers import BaseSampler

from search.errors import CampaignError
from search.s3 import S3Sampler

SAMPLERS: dict[str, Callable[..., BaseSampler]] = {
    "s3": S3Sampler,
    "tpe": optuna.samplers.TPESampler,
    "random": optuna.samplers.RandomSampler,
    "cmaes": optuna.samplers.CmaEsSampler,
    "nsgaii": optuna.samplers.NSGAIISampler,
    "gp": optuna.samplers.GPSampler,
}


def sampler(name: str, seed: int, generation: int, knowledge: Mapping[str, Any] | None = None, /, **options: Any) -> BaseSampler:
    """The sampler of one generation; s3 alone is told what else is known (describe, foresee). Raises CampaignError for unknown words."""
    if name not in SAMPLERS:
        raise CampaignError(f"There is no sampler {name!r}; there are {', '.join(SAMPLERS)}.")
    digest = hashlib.sha256(f"{seed}:{generation}".encode()).digest()
    told = {"seed": int.from_bytes(digest[:4], "little")} | (dict(knowledge or {}) if name == "s3" else {})
    try:
        _check(SAMPLERS[name], options)
        return SAMPLERS[name](**told, **options)
    except TypeError:
        raise CampaignError(f"Sampler {name!r} does not take the options {', '.join(options)}.") from None
    except ValueError as error:
        raise CampaignError(f"Sampler {name!r} refuses its options: {error}.") from None


def _check(make: Callable[..., BaseSampler], options: Mapping[str, Any]) -> None:
    """Raise ValueError for a value of another kind than the option's default: Optuna would notice when it proposes, in mid-campaign."""
    taken = inspect.signature(make).parameters
    for name, value in options.items():
        kind = type(taken[name].default) if name in taken else object
        if kind in (bool, int, float):
            try:
                msgspec.convert(value, kind)
            except msgspec.ValidationError as error:
                raise ValueError(f"{name}: {error}") from None
