"""The executable table: rows over named slots, and what each row asks of the network.

    slot_r = sum over terms of coefficient * slot,      then perhaps   D_k = denoiser(slot_r, at)

Slots: "xT" is where sampling starts, "x0", "x1", ... are states, "D0", "D1", ... the denoiser's answers in order, "z0", ...
noise of unit variance, "mu" the anchor of a mean-reverting process, which is given with x_T, "one" is 1 everywhere (what it is
multiplied with is a bias); any other name is a register (compiled tables keep eps or flow outputs in "eps0", "flow0", ...).
A coefficient is a float, or a float64 tensor: a scalar that carries a gradient, or [batch] for a batch of candidates. An
operator of `kinds.py` (per element, per frequency, a small matrix) may stand in its place.
A Tableau checks itself when it is built; an illegal one cannot exist.
"""

import functools
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from .errors import ScheduleError
from .kinds import Layout, Operator

Number = float | Tensor
Coefficient = Number | Operator
START, MU, ONE = "xT", "mu", "one"
ANSWER = re.compile(r"D\d+")
MAX_COEFFICIENT = 1e8
_SLOT = re.compile(r"[A-Za-z]\w{0,31}", re.ASCII)
_RESERVED = re.compile(r"[Dz]\d+|xT|mu|one")


class At(NamedTuple):
    """Where the denoiser is asked: the time told to the network, and alpha and sigma of the state (float64, [] or [batch])."""

    label: Tensor
    alpha: Tensor
    sigma: Tensor


def scalar(coefficient: Coefficient) -> Number:
    """The coefficient, if it is a number. Raises ScheduleError if it is an operator."""
    if isinstance(coefficient, Operator):
        raise ScheduleError(f"This table has coefficients of kind {coefficient.kind!r}; only numbers are possible here.")
    return coefficient


def living(rows: Sequence["Row"]) -> list["Row"]:
    """The rows without those that neither evaluate nor are read."""
    read = {slot for row in rows for slot in row.terms}
    return [row for row in rows if row.evaluation or row.slot in read or row is rows[-1]]


def number(coefficient: Coefficient) -> float:
    """A coefficient as a float. Raises ScheduleError if it is an operator."""
    return float(scalar(coefficient))


@dataclass(frozen=True)
class Evaluation:
    """One call of the denoiser at the state its row wrote. The label may differ from the state's time."""

    label: Number
    alpha: Number
    sigma: Number
    knobs: Mapping[str, float] = field(default_factory=dict[str, float])

    @functools.cached_property
    def at(self) -> At:
        """The same as tensors, as the denoiser gets them."""
        return At(*(torch.as_tensor(v, dtype=torch.float64) for v in (self.label, self.alpha, self.sigma)))


@dataclass(frozen=True)
class Row:
    """Writes `slot`, the state at `time`, as a sum of `terms`; then evaluates there if `evaluation` is given."""

    slot: str
    time: Number
    terms: Mapping[str, Coefficient]
    evaluation: Evaluation | None = None

    def settled(self) -> "Row":
        """The same row with floats for tensors and without terms that are zero. Raises ScheduleError if one is an operator."""
        terms = {slot: number(c) + 0.0 for slot, c in self.terms.items()}  # + 0.0 turns -0.0 into 0.0: equal tables have equal files
        terms = {slot: c for slot, c in terms.items() if c} or dict(list(terms.items())[:1])
        e = self.evaluation
        told = e and Evaluation(number(e.label), number(e.alpha), number(e.sigma), e.knobs)
        return Row(self.slot, number(self.time), terms, told)


class Dense(NamedTuple):
    """x_r = a_r x_T + sum_j B_rj D_j + sum_m G_rm xi_m + M_r mu + bias_r, a row per row of the table, float64.

    Shapes: a, M, bias [rows], B [rows, NFE], G [rows, noises]; a table of batched coefficients puts its batch axis last, one
    of operators the values of their kind.
    """

    a: Tensor
    B: Tensor
    G: Tensor
    M: Tensor
    bias: Tensor

    def at(self, rows: Sequence[int]) -> "Dense":
        """Some of the rows."""
        return Dense(*(part[list(rows)] for part in self))

    def apart(self, other: "Dense") -> float:
        """The largest difference, relative to a part's largest number where that is above one; infinite if shapes differ."""
        pairs = list(zip(self, other, strict=True))
        if any(x.shape != y.shape for x, y in pairs):
            return float("inf")
        return max((float((x - y).abs().max() / x.abs().max().clamp_min(1)) for x, y in pairs if x.numel()), default=0.0)


@dataclass(frozen=True)
class Tableau:
    """The rows of one sampler. The last row is the sample. `starts`: what must be given, x_T; an inverse starts from states.

    sigma: that of x_T where nothing is asked there (`initial_sigma`).
    """

    rows: tuple[Row, ...]
    starts: tuple[str, ...] = (START,)
    sigma: Number | None = None

    def __post_init__(self) -> None:
        if not self.rows:
            raise ScheduleError("A table needs at least one row.")
        known, answers = {*self.starts, MU, ONE}, 0
        for number, row in enumerate(self.rows):
            where = f"row {number} ({row.slot!r})"
            if not _SLOT.fullmatch(row.slot) or _RESERVED.fullmatch(row.slot) or row.slot in known:
                raise ScheduleError(f"{where} writes a slot that is badly named, reserved, or written before.")
            if not row.terms:
                raise ScheduleError(f"{where} has no terms.")
            for slot, coefficient in row.terms.items():
                if slot not in known and not re.fullmatch(r"z\d+", slot):
                    raise ScheduleError(f"{where} reads {slot!r}, which no earlier row has written.")
                if isinstance(coefficient, float | int) and not abs(coefficient) <= MAX_COEFFICIENT:
                    raise ScheduleError(
                        f"{where} weighs {slot!r} by {coefficient:g}; a coefficient is finite and at most {MAX_COEFFICIENT:g}."
                    )
            known.add(row.slot)
            if row.evaluation is not None:
                _check_evaluation(row.evaluation, where)
                known.add(f"D{answers}")
                answers += 1
        if self.noises != tuple(f"z{m}" for m in range(len(self.noises))):
            raise ScheduleError(f"Noise slots must be z0, z1, ... without gaps, not {', '.join(self.noises)}.")

    @functools.cached_property
    def evals(self) -> tuple[Evaluation, ...]:
        """The evaluations in the order in which they happen; the k-th answer is slot "Dk"."""
        return tuple(row.evaluation for row in self.rows if row.evaluation is not None)

    @property
    def initial_sigma(self) -> Number:
        """The sigma of x_T: of the first evaluation, unless the first step goes without one."""
        if self.sigma is not None:
            return self.sigma
        return self.evals[0].sigma if self.evals else 1.0

    @functools.cached_property
    def knobs(self) -> frozenset[str]:
        """The names of all knobs that an evaluation sets."""
        return frozenset(name for evaluation in self.evals for name in evaluation.knobs)

    @property
    def nfe(self) -> int:
        """Denoiser evaluations per sample."""
        return len(self.evals)

    @functools.cached_property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """The evaluations, by number, in runs of which none reads what another of the run answers: a run may be asked as one batch.

        len(groups) is how many times the network must be waited for; NFE counts every evaluation.
        """
        groups, unanswered, answers = list[tuple[int, ...]](), set[str](), itertools.count()
        for row in self.rows:
            if not groups or not unanswered.isdisjoint(row.terms):  # this row cannot be written before the answers are there
                groups, unanswered = [*groups, ()], set[str]()
            if row.evaluation is not None:
                number = next(answers)
                groups[-1], unanswered = (*groups[-1], number), unanswered | {f"D{number}"}
        return tuple(group for group in groups if group)

    @functools.cached_property
    def visible(self) -> tuple[int, ...]:
        """The rows an outsider sees, by number: where the denoiser is asked, and the sample."""
        return tuple(i for i, row in enumerate(self.rows) if row.evaluation is not None or i + 1 == len(self.rows))

    @property
    def asked(self) -> tuple[float, ...]:
        """The time of every state that is evaluated, which need not be the one the network is told."""
        return tuple(float(row.time) for row in self.rows if row.evaluation is not None)

    @property
    def times(self) -> tuple[Number, ...]:
        """The time of the state each row writes."""
        return tuple(row.time for row in self.rows)

    @functools.cached_property
    def noises(self) -> tuple[str, ...]:
        """The noise slots the rows read: z0, z1, ..."""
        found = {slot for row in self.rows for slot in row.terms if re.fullmatch(r"z\d+", slot)}
        return tuple(sorted(found, key=lambda z: int(z[1:])))

    @functools.cached_property
    def layout(self) -> Layout | None:
        """What its operators are; None where all coefficients are numbers. Raises ScheduleError where they are not all alike."""
        found = {c.layout for row in self.rows for c in row.terms.values() if isinstance(c, Operator)}
        if len(found) > 1:
            raise ScheduleError("Operators of different kinds or shapes do not compose to a closed form.")
        return next(iter(found), None)

    @functools.cached_property
    def anchored(self) -> bool:
        """Whether a row reads mu."""
        return any(MU in row.terms for row in self.rows)

    @functools.cached_property
    def releases(self) -> tuple[tuple[str, ...], ...]:
        """For each row, the slots that no later row reads: what an executor may free after it."""
        last: dict[str, int] = {}
        answers = iter(range(self.nfe))
        for number, row in enumerate(self.rows):
            last |= dict.fromkeys((*row.terms, row.slot), number)
            if row.evaluation is not None:
                last[f"D{next(answers)}"] = number
        del last[self.rows[-1].slot]
        dead: list[list[str]] = [[] for _ in self.rows]
        for slot, number in last.items():
            dead[number].append(slot)
        return tuple(map(tuple, dead))

    def dense(self) -> Dense:
        """Compose the rows to their closed form, which identifies the sampler. Raises ScheduleError unless it starts from x_T alone."""
        if self.starts != (START,):
            raise ScheduleError(f"The closed form is that of a table that starts from xT; this one starts from {', '.join(self.starts)}.")
        columns = [START, *(f"D{k}" for k in range(self.nfe)), *self.noises, MU, ONE]
        coefficients = [c for row in self.rows for c in row.terms.values()]
        layout = self.layout
        batch = max((len(c) for c in coefficients if isinstance(c, Tensor) and c.ndim), default=0)
        unit = layout.identity() if layout else torch.ones((batch,) if batch else (), dtype=torch.float64)
        forms = {slot: torch.zeros(len(columns), *unit.shape, dtype=torch.float64) for slot in columns}
        for index, slot in enumerate(columns):
            forms[slot][index] = unit
        for row in self.rows:
            terms = [_composed(c, forms[slot]) for slot, c in row.terms.items()]
            forms[row.slot] = functools.reduce(torch.add, terms)
        table = torch.stack([forms[row.slot] for row in self.rows])
        return Dense(table[:, 0], table[:, 1 : 1 + self.nfe], table[:, 1 + self.nfe : -2], table[:, -2], table[:, -1])

    def settled(self) -> "Tableau":
        """The same table with floats for tensors, as it is saved."""
        return replace(self, rows=tuple(row.settled() for row in self.rows))

    def apart(self, other: "Tableau") -> float:
        """How far two tables are apart as an outsider sees them, by `Dense.apart` on the visible rows; infinite if their kinds differ."""
        if self.layout != other.layout:
            return float("inf")
        return self.dense().at(self.visible).apart(other.dense().at(other.visible))


def _composed(coefficient: Coefficient, form: Tensor) -> Tensor:
    if isinstance(coefficient, Operator):
        return coefficient.after(form)
    return form * (coefficient.double() if isinstance(coefficient, Tensor) else coefficient)


def _check_evaluation(evaluation: Evaluation, where: str) -> None:
    for name in ("label", "alpha", "sigma"):
        value = getattr(evaluation, name)
        if isinstance(value, float) and not abs(value) < float("inf"):
            raise ScheduleError(f"{where} evaluates at {name} {value}, which is not finite.")
    if isinstance(evaluation.sigma, float) and not evaluation.sigma > 0:
        raise ScheduleError(f"{where} evaluates at sigma {evaluation.sigma:g}; the denoiser is asked only where there is noise.")
