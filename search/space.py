"""What a search may vary: a space of fixed shape per NFE, between parameters (Optuna's) and schedules (ours).

Every candidate takes the steps that the budget pays for between the teacher's two ends, at times of its own (search.gaps), and
every step chooses for itself (search.choices).

A first step without the network costs nothing, so a candidate that has one takes a step more: there are parameters for the
longer kind, and the shorter does without those of step 0.
"""

import functools
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from search.choices import Choices, Range, Table, check_range, closest
from search.gaps import Gaps
from solvers import Process, ScheduleError, SolverSchedule, Step, Tableau, compile
from solvers.base_process import name_of

Params = dict[str, Any]


@dataclass(frozen=True)
class Space(Choices):
    """The candidates of one budget: the ends, where they may stop between, and what every step may choose.

    times    the range of the fractions of stick breaking
    among    {grid, steps, its options} keeps times to the points of a grid; empty: all times

    Raises ScheduleError for words that exclude each other, or where no number of steps spends the budget.
    """

    process: Process
    start: float
    end: float
    nfe: int
    times: Range = (0.05, 0.95)
    among: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (isinstance(self.nfe, int) and 1 <= self.nfe <= 64):
            raise ScheduleError(f"nfe must be a whole number from 1 to 64, not {self.nfe}.")
        self.process.check_time(self.start, "start")
        self.process.check_time(self.end, "end")
        check_range("times", self.times)
        if not 0 < self.times[0] <= self.times[1] < 1:
            raise ScheduleError(f"Times split what is left of the way: between 0 and 1, not {self.times[0]:g} to {self.times[1]:g}.")
        if self.slots - 1 > (len(self.gaps.places) if self.among else math.inf):
            raise ScheduleError(f"{self.slots - 1} times cannot be chosen among {len(self.gaps.places)}.")

    @functools.cached_property
    def gaps(self) -> Gaps:
        """Where candidates may stop."""
        return Gaps(self.process, self.start, self.end, self.among)

    @functools.cached_property
    def lengths(self) -> dict[str, int]:
        """How many steps spend the budget, by the answer of the first one."""
        return {answer: self._length(answer) for answer in self.answer}

    @property
    def slots(self) -> int:
        """Steps of the longest kind of candidate."""
        return max(self.lengths.values())

    @functools.cached_property
    def tables(self) -> list[Table]:
        """What each step may choose."""
        return [self.at(i, self.slots) for i in range(self.slots)]

    def distributions(self) -> dict[str, BaseDistribution]:
        """Optuna's distributions of every parameter that is not switched off."""
        found: dict[str, BaseDistribution] = {"answer0": CategoricalDistribution(self.answer)}
        for i, table in enumerate(self.tables):
            found |= {f"gap{i + 1}": FloatDistribution(*self.times)} if i + 1 < self.slots else {}
            found |= {f"{name}{i}": distribution for name, distribution in table.items()}
        return {name: distribution for name, distribution in found.items() if not distribution.single()}

    def decode(self, params: Mapping[str, Any]) -> SolverSchedule:
        """The schedule of a point of the space."""
        answer = params.get("answer0", self.answer[0])
        first = self.slots - self.lengths[answer]
        times = self.gaps.times([params.get(f"gap{i}", self.times[0]) for i in range(first + 1, self.slots)])
        lambdas = self.gaps.lambdas(times)
        steps: list[Step] = []
        for k, to in enumerate(times[1:]):
            chosen = {name: params.get(f"{name}{first + k}", closest(d)) for name, d in self.tables[first + k].items()}
            label = self.gaps.label(chosen["label"], lambdas[k - 1 : k + 2]) if k else None
            steps.append(self.step(k, chosen, to=to, label=label, answer="network" if k else answer))
        return SolverSchedule(self.process, self.start, tuple(steps))

    def encode(self, schedule: SolverSchedule) -> Params:
        """The point of the space that decodes to `schedule` (to the same table within 1e-9). Raises ScheduleError if there is none."""
        params = self.nearest(schedule)
        if table_distance(compile(self.decode(params)), compile(schedule), self.given) > 1e-9:
            raise ScheduleError("The schedule does not lie in the space: it uses a word or a number that is switched off there.")
        return params

    def nearest(self, schedule: SolverSchedule) -> Params:
        """The point with the words and numbers of `schedule`, as far as the space has them. Raises ScheduleError for another budget."""
        answer, times = schedule.steps[0].answer, schedule.times
        if self.lengths.get(answer) != len(schedule.steps) or (times[0], times[-1]) != (self.start, self.end):
            raise ScheduleError("A schedule of another budget or with other ends does not lie in the space.")
        first, lambdas = self.slots - len(schedule.steps), self.gaps.lambdas(times)
        told: Params = {f"gap{first + k}": fraction for k, fraction in enumerate(self.gaps.fractions(times), 1)}
        told["answer0"] = answer
        for k, step in enumerate(schedule.steps):
            chosen = self.chosen(k, step)
            chosen |= {"domain": "t"} if step.domain == "rho" and name_of(self.process) == "ve" else {}  # there t is rho
            chosen |= {"label": self.gaps.shift(step.label, lambdas[k - 1 : k + 2])} if k else {}
            told |= {f"{name}{first + k}": value for name, value in chosen.items()}
        params = {name: closest(distribution, told.get(name)) for name, distribution in self.distributions().items()}
        return params

    def _length(self, answer: str) -> int:
        """How many steps spend the budget, whatever else they choose."""
        for count in range(self.nfe + 1, 0, -1):
            times = Gaps(self.process, self.start, self.end).times([1 / (count - k) for k in range(count - 1)])
            chosen = {name: closest(distribution) for name, distribution in self.at(0, count).items()} | {"eta": self.eta[1]}
            costs: set[int] = set()
            for order, domain, noise in itertools.product(self.order, self.domain, self.noise):
                chosen |= {"order": order, "domain": domain, "noise": noise}
                steps = [self.step(k, chosen, to=to, answer="network" if k else answer) for k, to in enumerate(times[1:])]
                costs.add(compile(SolverSchedule(self.process, self.start, tuple(steps))).nfe)
            if costs == {self.nfe}:
                return count
        raise ScheduleError(f"No number of steps of method {self.method!r} spends exactly {self.nfe} evaluations, whatever their order.")


def table_distance(ours: Tableau, theirs: Tableau, given: Mapping[str, float] | None = None) -> float:
    """Largest relative difference as an outsider sees it: labels, knobs (above those given), evaluated states and the sample."""
    if ours.nfe != theirs.nfe:
        return float("inf")
    worst = ours.apart(theirs)
    for a, b in zip(ours.evals, theirs.evals, strict=True):
        one, other = ({**(given or {}), **e.knobs} for e in (a, b))
        if one.keys() != other.keys():
            return float("inf")
        worst = max(worst, abs(float(a.label) - float(b.label)) / float(a.sigma), *(abs(one[name] - other[name]) for name in one))
    return worst
