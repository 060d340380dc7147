"""What may move: from a flat vector of parameters to the table of one schedule. The zero vector gives the schedule itself.

Levels, each with the parameters of the one before it first, so that a vector padded with zeros means the same sampler:

    times           r_i = sigmoid(logit(r_i^0) + theta_i),   lambda_i = lambda_{i-1} + r_i (lambda_N - lambda_{i-1})
    times+labels    label_i moves by tanh(phi_i)/2 of the gap to the nearer neighbour, in lambda (LD3: Tong et al. 2025)
    weights         the coefficients that the schedule's rows have (S4S: Frankel et al. 2025, but as theory + delta)
    rows            every coefficient of a table over the full history (BNS: Shaul et al. 2024; GS: Oganov et al. 2025)

And two that stand alone and move numbers of the steps; times stay:

    compensation    ratio_i of step i >= 2: its newest answer is moved in time (DC-Solver: Zhao et al. 2024)
    parallel        of each evaluation inside a step: where it lies, as r_i does, its weight, scale and label (EPD: Zhu et al. 2025)

Coefficients are theory(times) + delta. A row, written from the last state x_s that is noisier than it,

    x_r = K (1 + delta) x_s + sum_j (C_j + gain delta_j) D_j,    gain = alpha_r - sigma_r / sigma_s alpha_s,

where K and C come from `compile` at the present times, and K = sigma_r / sigma_s wherever data that is one point is solved exactly.
A history of states adds nothing: any table over states and answers has this form. Consistency "kept" holds sum delta = 0, which
keeps that exactness; "relaxed" frees it, and K too.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import torch
from torch import Tensor

from search.errors import CampaignError
from search.gaps import jumps, levels, time_at
from solvers import METHODS, ScheduleError, SolverSchedule, Step, Tableau, compile
from solvers.anchor import anchored
from solvers.tableau import START, Coefficient, Row

NESTED = ("times", "times+labels", "weights", "rows")
ALONE = ("compensation", "parallel")
LEVELS = (*NESTED, *ALONE)
CONSISTENCY = ("kept", "relaxed")


def check_words(level: str, consistency: str, levels: Sequence[str] = LEVELS) -> None:
    """Raise CampaignError for a word that does not exist."""
    if level not in levels:
        raise CampaignError(f"There is no learner level {level!r}; there are {', '.join(levels)}.")
    if consistency not in CONSISTENCY:
        raise CampaignError(f"There is no consistency {consistency!r}; there are {', '.join(CONSISTENCY)}.")


def suits(schedule: SolverSchedule, level: str, consistency: str) -> bool:
    """Whether the level can move anything of the schedule."""
    try:
        return Parametrisation(schedule, level, consistency).count > 0
    except ScheduleError:
        return False


@dataclass(frozen=True)
class Parametrisation:
    """theta [P] -> a table whose numbers are tensors, differentiable in theta."""

    schedule: SolverSchedule
    level: str = "times+labels"
    consistency: str = "kept"

    def __post_init__(self) -> None:
        check_words(self.level, self.consistency)
        if compile(self.schedule).noises:
            raise ScheduleError("A schedule that injects noise cannot be learned towards a deterministic teacher.")
        if self.level == "compensation":
            methods = {step.method for step in self.schedule.steps} - {"multistep", "dc-solver"}
            if methods or self.inner < 2:
                raise ScheduleError("Compensation needs three multistep steps or more, and no other steps.")
            steps = (msgspec.structs.replace(step, method="dc-solver") for step in self.schedule.steps)
            object.__setattr__(self, "schedule", msgspec.structs.replace(self.schedule, steps=tuple(steps)))  # the same sampler at ratio 1
        if self.level == "parallel" and not self.count:
            raise ScheduleError("This schedule has no parallel evaluations inside its steps (preset epd, space=epd), so none can be moved.")

    @property
    def inner(self) -> int:
        """How many times lie strictly between the ends."""
        return len(self.schedule.steps) - 1

    @property
    def count(self) -> int:
        """P."""
        if self.level in ALONE:
            return len(self._moving)
        return self.inner * (1 if self.level == "times" else 2) + len(self.deltas)

    def zeros(self) -> Tensor:
        """The parameters of the schedule itself."""
        return torch.zeros(self.count, dtype=torch.float64)

    @functools.cached_property
    def _moving(self) -> tuple[tuple[str, int], ...]:
        """(name, step) of every number of a step that moves: levels that stand alone have some, the others none."""
        if self.level not in ALONE:
            return ()
        if self.level == "compensation":
            return tuple(("ratio", i) for i in range(2, len(self.schedule.steps)))
        inside = [(i, step.order) for i, step in enumerate(self.schedule.steps) if step.method == "parallel"]
        inside = [(i, order) for i, order in inside if self.schedule.times[i + 1] != self.schedule.process.t_clean]  # there it has none
        names = ("at", "weight", "direction", "clock")  # weights are divided by their sum, so that the first may stay
        return tuple((f"{name}{k}", i) for i, order in inside for k in range(1, order + 1) for name in names if (name, k) != ("weight", 1))

    @functools.cached_property
    def deltas(self) -> tuple[tuple[int, int], ...]:
        """(row, answer) of every free coefficient; what the row has of its own comes first. Answer -1 is the state."""
        if self.level in ("times", "times+labels", *ALONE):
            return ()
        forms = self._forms
        free = [(r, j) for r in range(1, len(forms)) for j in range(r if self.consistency == "relaxed" else r - 1)]
        own, other = [pair for pair in free if pair in self._own], [pair for pair in free if pair not in self._own]
        kept = len(forms) - (self.schedule.times[-1] == self.schedule.process.t_clean)  # a clean end keeps nothing of its state
        states = [(r, -1) for r in range(1 if forms[0][0] == 0 else 0, kept)] if self.consistency == "relaxed" else []
        return (*own, *states, *(other if self.level == "rows" else ()))

    @functools.cached_property
    def _own(self) -> frozenset[tuple[int, int]]:
        """(row, answer) of the coefficients that the schedule's rows have."""
        forms, table, found = self._forms, self._start.dense(), set[tuple[int, int]]()
        for r in range(1, len(forms)):
            index, source = forms[r][0], forms[forms[r][1]][0]
            added = table.B[index] - _share(table.a[index], table.a[source]) * table.B[source]
            found |= {(r, j) for j in range(r) if abs(float(added[j])) > 1e-12}
        return frozenset(found)

    @functools.cached_property
    def _start(self) -> Tableau:
        """The table of the schedule itself."""
        return compile(self.schedule)

    @functools.cached_property
    def _forms(self) -> list[tuple[int, int]]:
        """For each evaluated state and the end: its row in the compiled table, and the state x_s it is written from."""
        table = self._start
        sigmas = [float(self.schedule.process.sigma(table.rows[i].time)) for i in table.visible]
        return [(i, max((s for s in range(r) if sigmas[s] > sigmas[r] * (1 + 1e-9)), default=0)) for r, i in enumerate(table.visible)]

    def times_and_labels(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Times [N + 1] and labels [N]: the schedule's own plus what theta moves them by, which is nothing at zero."""
        own = torch.tensor(self.schedule.times, dtype=torch.float64)
        labels = [t if step.label is None else step.label for t, step in zip(self.schedule.times, self.schedule.steps, strict=False)]
        told = torch.tensor(labels, dtype=torch.float64)
        if self.level in ALONE:
            return own, told
        moved, still = self._curve(theta), self._curve(torch.zeros_like(theta))
        return own + (moved[0] - still[0]), told + (moved[1] - still[1])

    def numbers(self, theta: Tensor) -> dict[str, Tensor]:
        """The numbers of the steps that theta moves, as `compile` takes them."""
        found = {name: [_number(step, name) for step in self.schedule.steps] for name, _ in self._moving}
        for (name, i), moved in zip(self._moving, theta[: len(self._moving)], strict=True):
            found[name][i] = found[name][i] + (_inside(found[name][i], moved) if name.startswith("at") else moved)
        return {name: torch.stack(column) for name, column in found.items()}

    def _curve(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        process, inner = self.schedule.process, self.inner
        own = levels(process, torch.tensor(self.schedule.times, dtype=torch.float64))
        own[-1] += jumps(self.schedule.times[-1])  # so that a time may be at the last noise
        fractions = (own[1:-1] - own[:-2]) / (own[-1] - own[:-2])
        lambdas = [own[0]]
        for i in range(inner):
            r = torch.sigmoid(torch.logit(fractions[i]) + theta[i])
            lambdas.append(lambdas[-1] + r * (own[-1] - lambdas[-1]))
        lambdas.append(own[-1])
        phi = torch.zeros(inner, dtype=torch.float64) if self.level == "times" else theta[inner : 2 * inner]
        told = [own[0]]
        for i in range(1, inner + 1):
            gap = torch.minimum(lambdas[i + 1] - lambdas[i], lambdas[i] - lambdas[i - 1])
            label = self.schedule.steps[i].label
            shift = torch.zeros((), dtype=torch.float64) if label is None else process.lambda_of(label) - own[i]
            told.append(lambdas[i] + shift + torch.tanh(phi[i - 1]) / 2 * gap)
        return time_at(process, torch.stack(lambdas)), time_at(process, torch.stack(told))

    def __call__(self, theta: Tensor) -> Tableau:
        """The table at theta."""
        theory = compile(self.schedule, *self.times_and_labels(theta), self.numbers(theta))
        if not self.deltas:
            return theory
        delta = dict(zip(self.deltas, theta[2 * self.inner :], strict=True))
        dense, forms, process = theory.dense(), self._forms, self.schedule.process
        end = torch.tensor(self.schedule.times[-1], dtype=torch.float64)
        points = [(e.alpha, e.sigma) for e in theory.evals] + [(process.alpha(end), process.sigma(end))]
        before = [] if theory.rows[0].evaluation else [theory.rows[0]]  # a first step that guesses its answer
        names = [f"x{r + len(before)}" for r in range(len(forms))]
        opening = theory.rows[forms[0][0]]
        scale = dense.a[forms[0][0]] * (1 + delta.get((0, -1), torch.zeros((), dtype=torch.float64)))
        rows = [*before, Row(names[0], opening.time, {START: scale}, opening.evaluation)]
        for r in range(1, len(forms)):
            (i, s), newest = forms[r], r - 1
            source = forms[s][0]
            gain = points[r][0] - points[r][1] / points[s][1] * points[s][0]
            keep = _share(dense.a[i], dense.a[source])
            terms: dict[str, Coefficient] = {names[s]: keep * (1 + delta[r, -1]) if (r, -1) in delta else keep}
            moved = [delta.get((r, j), torch.zeros((), dtype=torch.float64)) for j in range(r)]
            if self.consistency == "kept":
                moved[newest] = moved[newest] - sum(moved[:newest])
            read = [j for j in range(r) if j == newest or (r, j) in delta or (r, j) in self._own]
            terms |= {f"D{j}": dense.B[i, j] - keep * dense.B[source, j] + gain * moved[j] for j in read}
            rows.append(Row(names[r], theory.rows[i].time, terms, theory.rows[i].evaluation))
        return Tableau(tuple(anchored(rows, [row.slot for row in rows]) if process.anchored else rows), sigma=theory.sigma)

    def recipe(self, theta: Tensor) -> SolverSchedule:
        """The steps with the times and labels of theta, in floats: what the rows are the theory and the deltas of."""
        times, labels = (value.tolist() for value in self.times_and_labels(theta))
        numbers, moved = [dict(step.numbers) for step in self.schedule.steps], self.numbers(theta)
        for name, i in self._moving:
            numbers[i][name] = float(moved[name][i])
        steps = [
            msgspec.structs.replace(step, to=times[i + 1], label=labels[i] if labels[i] != times[i] else None, numbers=numbers[i])
            for i, step in enumerate(self.schedule.steps)
        ]
        return SolverSchedule(self.schedule.process, self.schedule.start, tuple(steps))

    def table(self, theta: Tensor) -> Tableau:
        """The table at theta in floats, as it is saved. Raises ScheduleError where two times have met."""
        recipe = self.recipe(theta)
        return compile(recipe) if not self.deltas else self(theta).settled()


def _share(a: Tensor, of: Tensor) -> Tensor:
    """What a state keeps of the one it is written from, where that keeps `of` of x_T: nothing of a state that keeps none."""
    return torch.where(of == 0, a, a / torch.where(of == 0, 1, of))


def _number(step: Step, name: str) -> Tensor:
    return torch.tensor(step.numbers.get(name, METHODS[step.method].numbers.get(name, 0.0)), dtype=torch.float64)


def _inside(own: Tensor, moved: Tensor) -> Tensor:
    """How far a fraction goes where its logit moves, which is nowhere at zero."""
    return torch.sigmoid(torch.logit(own) + moved) - torch.sigmoid(torch.logit(own))
