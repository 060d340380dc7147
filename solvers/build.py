"""What the methods write on: nodes, evaluations so far, and the rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .diffusion import Diffusion
from .errors import ScheduleError
from .quadrature import Node, nodes, transfer, weights
from .schedule import SolverSchedule, Step
from .tableau import START, Evaluation, Row

Form = dict[str, Tensor]


def add(form: Form, scale: Tensor | float, other: Mapping[str, Tensor]) -> None:
    """Form += scale * other, slot by slot."""
    for slot, coefficient in other.items():
        form[slot] = form[slot] + scale * coefficient if slot in form else scale * coefficient


@dataclass(frozen=True)
class Evaluated:
    """An answer of the denoiser: where it was asked, at which state, and its number."""

    node: Node
    state: str
    answer: str

    def form(self, space: str) -> Form:
        """F in the given space as a linear form of the state and the answer."""
        if space == "x0":
            return {self.answer: torch.ones_like(self.node.sigma)}
        scale = self.node.sigma.reciprocal()
        data = -self.node.alpha * scale
        return {self.state: scale, self.answer: data - 1 if space == "flow" else data}


@dataclass(frozen=True)
class Guessed(Evaluated):
    """An answer that nobody was asked for: D = gain x."""

    gain: Tensor

    def form(self, space: str) -> Form:
        """F as a multiple of the state."""
        if space == "x0":
            return {self.state: self.gain}
        extra = self.gain if space == "flow" else 0 * self.gain
        return {self.state: 1 / self.node.sigma - self.node.alpha / self.node.sigma * self.gain - extra}


def _guess(word: str, at: Node, state: str) -> Guessed:
    """zero-x0: D = 0, eps = x / sigma. unit-eps: eps = x / sqrt(alpha^2 + sigma^2), D what belongs to it (also at alpha = 0)."""
    size = (at.alpha**2 + at.sigma**2).sqrt()
    gain = at.alpha / (size * (size + at.sigma)) if word == "unit-eps" else torch.zeros_like(at.sigma)
    return Guessed(at, state, f"G{state}", gain)


class Builder:
    """Collects the rows of one schedule. `times` is [..., N + 1]; all numbers are float64 tensors of shape [...]."""

    def __init__(self, schedule: SolverSchedule, times: Tensor, labels: Tensor | None, numbers: Mapping[str, Tensor]) -> None:
        self.schedule, self.labels, self.numbers = schedule, labels, numbers
        self.nodes = nodes(schedule.process, times, schedule.times)
        self.rows: list[Row] = []
        self.history: list[Evaluated] = []  # the evaluation at the start of each step, oldest first
        self.read = set[str]()  # the names of numbers that a method asked for
        self.answers = 0
        self.noises = 0
        self.states: list[str] = []  # the slot of the state at each node, the corrected one where there is a corrector
        self.registers: dict[tuple[str, str], str] = {}
        if self.nodes[0].clean:
            raise ScheduleError("A schedule cannot start where there is no noise.")
        self.arrive(0, {START: torch.ones_like(self.nodes[0].time)})

    @property
    def state(self) -> str:
        """The slot of the current state."""
        return self.states[-1]

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps of the schedule."""
        return self.schedule.steps

    def number(self, i: int, name: str) -> Tensor | float:
        """A number of step i: what `compile` was given for it, else the step's own."""
        self.read.add(name)
        return self.numbers[name][..., i] if name in self.numbers else self.steps[i].numbers[name]

    def write(self, slot: str, at: Node, form: Form) -> str:
        """A row without evaluation; returns its slot."""
        self.rows.append(Row(slot, at.time, form))
        return slot

    def ask(self, slot: str, at: Node, form: Form, label: Tensor | None = None, knobs: Mapping[str, float] | None = None) -> Evaluated:
        """A row that is evaluated."""
        if at.clean:
            raise ScheduleError("A schedule cannot evaluate the denoiser at sigma = 0: only its last step may end there.")
        label = at.time if label is None else label
        self.rows.append(Row(slot, at.time, form, Evaluation(label, at.alpha, at.sigma, knobs or {})))
        self.answers += 1
        return Evaluated(at, slot, f"D{self.answers - 1}")

    def arrive(self, i: int, form: Form) -> None:
        """Write the state at node i and, unless it is the last, evaluate there for step i."""
        slot = f"x{i}"
        self.states.append(slot)
        if i == len(self.steps):
            self.write(slot, self.nodes[i], form)
            return
        if self.steps[i].answer != "network":
            if i:
                raise ScheduleError(f"Step {i} goes without the network: only the first step may.")
            self.history.append(_guess(self.steps[i].answer, self.nodes[i], self.write(slot, self.nodes[i], form)))
            return
        if i and self.steps[i].numbers.get("churn"):
            form = self.churned(i, form)
        step, label = self.steps[i], None
        if self.labels is not None:
            label = self.labels[..., i]
        elif step.label is not None:
            label = torch.tensor(step.label, dtype=torch.float64)
        self.history.append(self.ask(slot, self.nodes[i], form, label, step.knobs))

    def churned(self, i: int, form: Form) -> Form:
        """The state at node i with noise on top, and the node moved up: to rho (1 + churn), but not above where sampling starts.

        Karras et al. 2022, algorithm 2, for any alpha. The start itself stays: the network knows nothing noisier.
        """
        numbers, s, first = self.steps[i].numbers, self.nodes[i], self.nodes[0]
        rho = torch.minimum(s.sigma / s.alpha * (1 + numbers["churn"]), first.sigma / first.alpha)
        up = nodes(self.schedule.process, self.schedule.process.time_of(-rho.log())[..., None], [self.schedule.times[i]])[0]
        scale = up.alpha / s.alpha
        self.nodes[i] = up
        added = numbers["s_noise"] * (up.sigma**2 - (scale * s.sigma) ** 2).sqrt()
        return {slot: scale * c for slot, c in form.items()} | {self.noise(): added}

    def correct(self, form: Form, mode: str = "pec") -> None:
        """Replace the current state; the evaluation made there stays ("pec") or is made again at the new state ("pece")."""
        slot, predicted = f"c{len(self.states) - 1}", self.history[-1]
        if mode == "pece":
            asked = self.rows[-1].evaluation
            assert asked is not None  # a corrector follows the evaluation it uses
            self.history[-1] = self.ask(slot, predicted.node, form, torch.as_tensor(asked.label), asked.knobs)
        else:
            self.write(slot, predicted.node, form)
        self.states[-1] = slot

    def noise(self) -> str:
        """The next noise slot."""
        self.noises += 1
        return f"z{self.noises - 1}"

    def output(self, evaluated: Evaluated, space: str) -> Form:
        """F of an evaluation: its register where there is one, else spelled out."""
        slot = self.registers.get((space, evaluated.answer))
        return {slot: torch.ones_like(evaluated.node.sigma)} if slot else evaluated.form(space)

    def keep(self, i: int) -> None:
        """Write evaluation i into a register for every space in which a later step looks back to it.

        One tensor is then alive instead of two (state and answer), as in the methods' own implementations.
        """
        soon = self.steps[i + 1 : i + 4]  # no method that keeps registers looks further back than four evaluations
        later = [step for k, step in enumerate(soon, 1) if max(step.order, step.corrector) > k]
        evaluated = self.history[i]
        lost = ("lambda", "rho") if evaluated.node.pure else ()  # where this node lies at infinity, so that nothing reads it
        for space in sorted({step.space for step in later if step.domain not in lost} - {"x0"}):
            form = evaluated.form(space)
            self.registers[space, evaluated.answer] = self.write(f"{space}{evaluated.answer[1:]}", evaluated.node, form)

    def step_form(
        self,
        step: Step,
        s: Evaluated,
        t: Node,
        others: list[Evaluated],
        state: str,
        relax: float = 1.0,
        found: Sequence[Tensor] | None = None,
    ) -> Form:
        """The formula of `quadrature` from s to t with the other evaluations as nodes, or with the weights `found`, as a linear form."""
        process = self.schedule.process
        diffusion = Diffusion.of(step, t.clean)
        space = "x0" if step.space == "eps" and s.node.pure else step.space
        keep, gain = transfer(space, s.node, t, diffusion)
        if found is None:
            found = weights(step.space, step.domain, step.moment, process, s.node, t, [other.node for other in others], diffusion)
        moved = [c * relax for c in found] if relax != 1 else found
        form: Form = {state: keep}
        add(form, gain - sum(moved) if moved else gain, self.output(s, space))
        for other, c in zip(others, moved, strict=True):
            add(form, c, self.output(other, step.space))
        return form
