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
from optuna.distributions import BaseDistribution
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

TOLD = {"seed", "describe", "foresee"}  # by whoever asks for a sampler; no options
STARTUP = 16  # random trials, at most, before Optuna's samplers propose, unless an option says more


def sampler(name: str, seed: int, generation: int, knowledge: Mapping[str, Any] | None = None, /, **options: Any) -> BaseSampler:
    """The sampler of one generation; s3 alone is told what else is known (describe, foresee). Raises CampaignError for unknown words."""
    if name not in SAMPLERS:
        raise CampaignError(f"There is no sampler {name!r}; there are {', '.join(SAMPLERS)}.")
    make = SAMPLERS[name]
    strange = sorted(options.keys() - inspect.signature(make).parameters.keys() | options.keys() & TOLD)
    if strange:
        raise CampaignError(f"Sampler {name!r} does not take the options {', '.join(strange)}.")
    digest = hashlib.sha256(f"{seed}:{generation}".encode()).digest()
    told = {"seed": int.from_bytes(digest[:4], "little")} | (dict(knowledge or {}) if name == "s3" else {})
    try:
        _check(make, options)
        return make(**told, **options)
    except (TypeError, ValueError) as error:
        raise CampaignError(f"Sampler {name!r} refuses its options: {error}.") from None


def rehearse(name: str, options: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]) -> None:
    """Propose once, as in a study that has begun: some options Optuna refuses no earlier. Raises CampaignError."""
    asked = sampler(name, 0, 0, **options)
    if not options or name == "s3":  # which checks its own
        return
    past = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    counts = [value for value in options.values() if isinstance(value, int) and value < 1000]
    for k in range(2 + max([STARTUP, *counts])):
        past.tell(past.ask(dict(distributions)), float(k))
    now = optuna.create_study(sampler=asked)
    now.add_trials(past.get_trials(deepcopy=False))
    try:
        now.ask(dict(distributions))
    except Exception as error:  # whatever it says of them
        raise CampaignError(f"Sampler {name!r} refuses its options: {str(error).rstrip('.') or type(error).__name__}.") from None


def _check(make: Callable[..., BaseSampler], options: Mapping[str, Any]) -> None:
    """Raise ValueError for a value of another kind than the option's default: Optuna would notice when it proposes, in mid-campaign."""
    taken = inspect.signature(make).parameters
    for name, value in options.items():
        kind = type(taken[name].default)
        if kind in (bool, int, float):
            try:
                msgspec.convert(value, kind)
            except msgspec.ValidationError as error:
                raise ValueError(f"{name}: {error}") from None
