"""What one step may choose: a table of distributions, and the way between its values and a `Step`."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from solvers import METHODS, ScheduleError, Step

Range = tuple[float, float]
Table = dict[str, BaseDistribution]
ESTIMATES = ("estimate", "linear", "exp")  # of a Taylor step: another moment than the exact one leaves nothing to estimate or relax


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Tuples are the words a step may take, pairs the range of a number. One word, or one number, switches a choice off.

    order and corrector are cut at step i to the i + 1 evaluations that exist there, counts to the i states before.

    method    of every step; answer: of the first one
    counts    whole numbers of the method by name (taylor: origin, estimate)
    numbers   further numbers of the method by name (taylor: linear, exp; parallel: at1, weight1, ...)
    label     shift of the time told to the network, as a part of the gap towards the next (+) or the last (-) node
    eta       noise, of the kind `noise`; the last step injects none
    knobs     handed to the denoiser, by name; given: what it is handed where a schedule says nothing

    Raises ScheduleError for words that exclude each other.
    """

    method: str = "multistep"
    answer: tuple[str, ...] = ("network", "unit-eps")
    order: tuple[int, ...] = (1, 2, 3, 4)
    space: tuple[str, ...] = ("x0", "eps", "flow")
    domain: tuple[str, ...] = ("lambda", "t", "index")
    moment: tuple[str, ...] = ("exact", "bh2")
    corrector: tuple[int, ...] = (0, 1, 2, 3)
    counts: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    relax: Range = (0.4, 1.6)
    numbers: Mapping[str, Range] = field(default_factory=dict[str, Range])
    label: Range = (-0.4, 0.4)
    eta: Range = (0.0, 0.0)
    noise: tuple[str, ...] = ("sde",)
    knobs: Mapping[str, Range] = field(default_factory=dict[str, Range])
    given: Mapping[str, float] = field(default_factory=dict[str, float])

    def __post_init__(self) -> None:
        words = {name: getattr(self, name) for name in ("space", "domain", "moment", "corrector", "noise")}
        for name, choices in {"answer": self.answer, "order": self.order, **words, **self.counts}.items():
            if not choices:
                raise ScheduleError(f"The space leaves no {name}.")
        ranges = {"relax": self.relax, "label": self.label, "eta": self.eta, **self.numbers, **self.knobs}
        for name, pair in ranges.items():
            check_range(name, pair)
        if not -1 <= self.label[0] <= self.label[1] <= 1:
            raise ScheduleError("A label is shifted by at most the whole gap to the node before or after: space.label lies in -1 to 1.")
        for strange in set(self.knobs) - set(self.given):
            raise ScheduleError(f"The model is not asked with a knob {strange!r}, so none can be searched: give it one in model.options.")
        for relax in self.relax:
            Step(to=0.0, relax=relax)  # proves itself
        for together in itertools.product(*words.values()):
            Step(to=0.0, eta=self.eta[1], **dict(zip(words, together, strict=True)))

    def at(self, i: int, steps: int) -> Table:
        """What step i of so many may choose; what is `single` is switched off. Names of the method's and the model's end in "_"."""
        one, last = i == 0 and not any(self.corrector), i + 1 == steps
        words = {
            "order": _up_to(i + 1, self.order),
            "space": self.space,
            "domain": self.domain[:1] if one else self.domain,  # one evaluation knows none
            "moment": self.moment[:1] if one else self.moment,
            "corrector": (0,) if last else _up_to(i + 1, self.corrector),
            "noise": self.noise,
            **{f"{name}_": _up_to(i, counts) for name, counts in self.counts.items()},
        }
        ranges = {
            "relax": self.relax if i else (1.0, 1.0),
            **{f"{name}_": pair for name, pair in self.numbers.items()},
            "label": self.label if i else (0.0, 0.0),
            "eta": (0.0, 0.0) if last else self.eta,
            **{f"{name}_": pair for name, pair in self.knobs.items()},
        }
        return {**{n: CategoricalDistribution(w) for n, w in words.items()}, **{n: FloatDistribution(*r) for n, r in ranges.items()}}

    def step(self, k: int, chosen: Mapping[str, Any], **told: Any) -> Step:
        """Step k of a schedule, of values of the table (its label aside) and of what else is told."""
        words = {name: value for name, value in chosen.items() if name[-1] != "_" and name != "label"}
        numbers = {name: float(min(chosen[f"{name}_"], k)) for name in self.counts} | {name: chosen[f"{name}_"] for name in self.numbers}
        if words["moment"] != "exact":
            numbers = {name: value for name, value in numbers.items() if name not in ESTIMATES}
        knobs = {name: chosen[f"{name}_"] for name in self.knobs}
        return Step(method=self.method, numbers=numbers, knobs=knobs, **words, **told)

    def chosen(self, k: int, step: Step) -> dict[str, Any]:
        """The inverse, of step k, without the label."""
        words = {name: getattr(step, name) for name in ("space", "domain", "moment", "relax", "eta", "noise")}
        words |= {"order": min(step.order, k + 1), "corrector": min(step.corrector, k + 1)}
        further = {**METHODS[self.method].numbers, **step.numbers, **self.given, **step.knobs}
        return words | {f"{name}_": value for name, value in further.items()}


def check_range(name: str, pair: Sequence[Any]) -> None:
    """Raise ScheduleError unless it is two numbers, in order."""
    if len(pair) != 2 or not all(isinstance(value, int | float) for value in pair) or not pair[0] <= pair[1]:
        raise ScheduleError(f"The range of {name} is its least and its greatest value, not {', '.join(map(str, pair)) or 'nothing'}.")


def closest(distribution: BaseDistribution, wanted: Any = None) -> Any:
    """The value nearest to the one wanted; the first without a wish."""
    if isinstance(distribution, CategoricalDistribution):
        return wanted if wanted in distribution.choices else distribution.choices[0]
    assert isinstance(distribution, FloatDistribution)
    return distribution.low if wanted is None else min(max(wanted, distribution.low), distribution.high)


def _up_to(most: int, choices: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n for n in choices if n <= most) or choices[:1]
