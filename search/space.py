"""What a search may vary: a space of fixed shape per NFE, between parameters (Optuna's) and schedules (ours).

Every candidate has nfe multistep steps between the teacher's two ends. Per step: where it goes, order, space, domain,
moment, corrector, relaxation, and the label its evaluation is given. A choice with one word is switched off.

Times by stick breaking in lambda: with r_i in (0, 1),
    lambda_i = lambda_{i-1} + r_i (lambda_N - lambda_{i-1}),    so any values decode to decreasing times.
Labels by bounded shifts: the label of evaluation i lies |shift_i| of the gap towards the next (+) or the last (-) node.
Where an end of the process is infinite in lambda, +-8 stands for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from solvers import Process, ScheduleError, SolverSchedule, Step, Tableau, compile
from solvers.process import name_of

LIMIT = 8.0
Params = dict[str, Any]


@dataclass(frozen=True)
class Space:
    """The candidates of one budget. The tuples are the words a step may take, the pairs the range of a number.

    order and corrector are cut at step i to the i + 1 evaluations that exist there. Raises ScheduleError if nothing is left.
    """

    process: Process
    start: float
    end: float
    nfe: int
    times: tuple[float, float] = (0.05, 0.95)
    order: tuple[int, ...] = (1, 2, 3, 4)
    space: tuple[str, ...] = ("x0", "eps", "flow")
    domain: tuple[str, ...] = ("lambda", "t", "index")
    moment: tuple[str, ...] = ("exact", "bh2")
    corrector: tuple[int, ...] = (0, 1, 2, 3)
    relax: tuple[float, float] = (0.4, 1.6)
    label: tuple[float, float] = (-0.4, 0.4)

    def __post_init__(self) -> None:
        if not (isinstance(self.nfe, int) and 1 <= self.nfe <= 64):
            raise ScheduleError(f"nfe must be a whole number from 1 to 64, not {self.nfe}.")
        self.process.check_time(self.start, "start")
        self.process.check_time(self.end, "end")
        words = {"order": self.order, "space": self.space, "domain": self.domain, "moment": self.moment, "corrector": self.corrector}
        for name, choices in words.items():
            if not choices:
                raise ScheduleError(f"The space leaves no {name}.")

    def distributions(self) -> dict[str, BaseDistribution]:
        """Optuna's distributions of every parameter that is not switched off."""
        found: dict[str, BaseDistribution] = {}
        for i in range(self.nfe):
            if i + 1 < self.nfe:
                found[f"gap{i + 1}"] = FloatDistribution(*self.times)
            choices: dict[str, tuple[Any, ...]] = {"order": self._up_to(self.order, i), "space": self.space}
            choices |= {"domain": self.domain, "moment": self.moment} if i or any(self.corrector) else {}
            choices |= {"corrector": self._up_to(self.corrector, i)} if i + 1 < self.nfe else {}
            found |= {f"{name}{i}": CategoricalDistribution(words) for name, words in choices.items() if len(words) > 1}
            if i:
                found |= {f"{n}{i}": FloatDistribution(*b) for n, b in (("relax", self.relax), ("label", self.label)) if b[0] < b[1]}
        return found

    def decode(self, params: Mapping[str, Any]) -> SolverSchedule:
        """The schedule of a point of the space."""
        lambdas = [self._lambda(self.start)]
        last = self._lambda(self.end)
        for i in range(1, self.nfe):
            lambdas.append(lambdas[-1] + params[f"gap{i}"] * (last - lambdas[-1]))
        inner = self.process.time_of(torch.tensor(lambdas[1:], dtype=torch.float64)).tolist()
        grid = [self.start, *inner, self.end]
        lambdas.append(last)
        steps: list[Step] = []
        for i in range(self.nfe):

            def word(name: str, words: tuple[Any, ...], i: int = i) -> Any:
                return params.get(f"{name}{i}", words[0])

            shift = params.get(f"label{i}", 0.0)
            label = None
            if shift:
                gap = lambdas[i + 1] - lambdas[i] if shift > 0 else lambdas[i] - lambdas[i - 1]
                label = float(self.process.time_of(lambdas[i] + shift * gap))
            steps.append(
                Step(
                    to=grid[i + 1],
                    order=word("order", self._up_to(self.order, i)),
                    space=word("space", self.space),
                    domain=word("domain", self.domain),
                    moment=word("moment", self.moment),
                    corrector=word("corrector", self._up_to(self.corrector, i)) if i + 1 < self.nfe else 0,
                    relax=params.get(f"relax{i}", 1.0),
                    label=label,
                )
            )
        return SolverSchedule(self.process, self.start, tuple(steps))  # pyright: ignore[reportArgumentType]

    def encode(self, schedule: SolverSchedule) -> Params:
        """The point of the space that decodes to `schedule` (to the same table within 1e-9). Raises ScheduleError if there is none."""
        params = self.nearest(schedule)
        if table_distance(compile(self.decode(params)), compile(schedule)) > 1e-9:
            raise ScheduleError("The schedule does not lie in the space: it uses a word or a number that is switched off there.")
        return params

    def nearest(self, schedule: SolverSchedule) -> Params:
        """The point with the words and numbers of `schedule`, as far as the space has them. Raises ScheduleError for another budget."""
        if len(schedule.steps) != self.nfe or (schedule.start, schedule.times[-1]) != (self.start, self.end):
            raise ScheduleError("A schedule of another budget or with other ends does not lie in the space.")
        lambdas = [self._lambda(t) for t in schedule.times]
        given: Params = {}
        for i, step in enumerate(schedule.steps):
            if i + 1 < self.nfe:
                given[f"gap{i + 1}"] = (lambdas[i + 1] - lambdas[i]) / (lambdas[-1] - lambdas[i])
            domain = "t" if step.domain == "rho" and name_of(self.process) == "ve" else step.domain  # there t is rho
            given |= {f"order{i}": min(step.order, i + 1), f"space{i}": step.space, f"domain{i}": domain, f"moment{i}": step.moment}
            given |= {f"corrector{i}": min(step.corrector, i + 1), f"relax{i}": step.relax}
            given[f"label{i}"] = 0.0 if step.label is None or not i else self._shift(step.label, lambdas[i - 1 : i + 2])
        params: Params = {}
        for name, distribution in self.distributions().items():
            if isinstance(distribution, CategoricalDistribution):
                params[name] = given[name] if given[name] in distribution.choices else distribution.choices[0]
            elif isinstance(distribution, FloatDistribution):
                params[name] = min(max(given[name], distribution.low), distribution.high)
        return params

    def _lambda(self, t: float) -> float:
        return min(max(float(self.process.lambda_of(t)), -LIMIT), LIMIT)

    def _shift(self, label: float, lambdas: list[float]) -> float:
        before, here, after = lambdas
        distance = self._lambda(label) - here
        return distance / (after - here if distance > 0 else here - before)

    @staticmethod
    def _up_to(orders: tuple[int, ...], i: int) -> tuple[int, ...]:
        return tuple(order for order in orders if order <= i + 1) or orders[:1]


def table_distance(ours: Tableau, theirs: Tableau) -> float:
    """Largest relative difference between two tables as an outsider sees them: labels, evaluated states and the sample in closed form."""
    if ours.nfe != theirs.nfe:
        return float("inf")
    worst = max(abs(float(a.label) - float(b.label)) / float(a.sigma) for a, b in zip(ours.evals, theirs.evals, strict=True))
    return max(worst, ours.apart(theirs))
