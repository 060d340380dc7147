"""What a family of samplers tells the registry: its methods, which write the rows of a step, and its presets, which list steps."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .build import Builder
from .errors import ScheduleError
from .schedule import Step

StepsOf = Callable[..., list[Step]]
Cost = Callable[[int, bool], int]


def each(evaluations: int) -> Cost:
    """So many evaluations per step; a step of several cannot ask at sigma = 0, so the last one there is of first order and costs one."""
    return lambda steps, clean_end: evaluations * steps - (evaluations - 1 if clean_end else 0)


ONE = each(1)


@dataclass(frozen=True)
class Method:
    """How a step becomes rows: `rows(builder, i)` writes those of step i. `numbers`: what Step.numbers may hold, with defaults.

    noises: the words of Step.noise that it knows.
    """

    rows: Callable[[Builder, int], None]
    numbers: Mapping[str, float] = field(default_factory=dict[str, float])
    noises: tuple[str, ...] = ()


@dataclass(frozen=True)
class Preset:
    """A named sampler: a function from times to steps, and declared facts that the tests hold it to.

    order        slope of the error on smooth grids whose first steps are graded (a first-order start caps any method at 2;
                 so does UniPC's lower-order tail, its default: with tail="full" it has order 3 and 4); for a stochastic
                 sampler the slope of the error of the mean and the variance (the weak order)
    rough_order  the same on a grid whose steps alternate 1:3
    source       paper and equation, and the options
    nfe          evaluations that (steps, clean end) cost
    noise        "none", or "injected" where the table reads noise
    point_mass   whether every row maps the data alpha x0 + sigma z of a point mass to itself
    processes    names of the processes it is defined on; empty: all
    """

    steps: StepsOf
    order: float
    rough_order: float
    source: str
    nfe: Cost = ONE
    noise: str = "none"
    point_mass: bool = True
    processes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Family:
    """Methods and presets that share their mathematics, in one file. The registry names the family in one line."""

    presets: Mapping[str, Preset]
    methods: Mapping[str, Method] = field(default_factory=dict[str, Method])


def one_of(what: str, word: Any, words: Sequence[Any]) -> None:
    """Raise ScheduleError unless the option is one of the words."""
    if word not in words:
        raise ScheduleError(f"There is no {what} {word!r}; there are {', '.join(map(str, words))}.")
