"""The genotype: a solver is a list of steps. It is what a search varies and what `compile` turns into rows.

Every choice of a step is a number or a word. `to` and `label` are times in the process's own t.
"""

import functools
import itertools
import math
from typing import Annotated, Literal

import msgspec

from .errors import ScheduleError
from .process import Process

MAX_STEPS = 1024
KnobName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_]\w{0,63}$")]
Order = Annotated[int, msgspec.Meta(ge=1, le=4)]


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One step: evaluate the network at the current state, then move to time `to`.

    method      a name of METHODS: "multistep" (Adams: uses past evaluations), "heun" (one more evaluation inside the step), ...
    space       what is interpolated: "x0", "eps" or "flow" (eps - x0)
    domain      in which variable it is a polynomial: "lambda", "rho", "t" or "index" (the step number, as iPNDM does)
    order       number of evaluations the predictor interpolates, 1..4; fewer at the start, where fewer exist
    corrector   0, or the number of evaluations that are interpolated together with the new one (UniC)
    mode        what a corrector leaves to history: "pec", the evaluation at the predicted state; "pece", a new one at the corrected
    moment      how a formula of few points weighs: "exact", UniPC's "bh1" / "bh2" (bh2 is DPM-Solver's midpoint rule), or as a
                public implementation does: "half", "slip", "difference", "gamma", "vary" (see moments.py)
    relax       multiplies what the step adds to the first-order step; 1 is the method itself
    answer      what is taken for the network's answer at the start of the first step: "network", or a guess that costs nothing,
                "zero-x0" (no data) or "unit-eps" (eps = x / sqrt(alpha^2 + sigma^2), the analytical first step); the mean of the
                data is a picture and no word: `average_first`
    label       the time told to the network at the start of the step; none: the time of the state
    eta, noise  noise injected, as fractions of the reverse-time SDE's: "ancestral" or "rectified" (flow), "sde" (x0 or eps), "er" (x0)
    numbers     further numbers of the method, by the names that it declares (where a stage lies, momentum, ...)
    knobs       handed verbatim to the denoiser at the start of the step (guidance scale, ...)
    """

    to: float
    method: str = "multistep"
    space: Literal["x0", "eps", "flow"] = "x0"
    domain: Literal["lambda", "rho", "t", "index"] = "lambda"
    order: Order = 1
    corrector: Annotated[int, msgspec.Meta(ge=0, le=4)] = 0
    mode: Literal["pec", "pece"] = "pec"
    moment: Literal["exact", "bh1", "bh2", "half", "slip", "difference", "gamma", "vary"] = "exact"
    relax: Annotated[float, msgspec.Meta(ge=-8, le=8)] = 1.0
    answer: Literal["network", "zero-x0", "unit-eps"] = "network"
    label: float | None = None
    eta: Annotated[float, msgspec.Meta(ge=0, le=4)] = 0.0
    noise: Literal["ancestral", "rectified", "sde", "er"] = "ancestral"
    numbers: dict[KnobName, float] = {}
    knobs: dict[KnobName, float] = {}

    def __post_init__(self) -> None:
        try:  # a step made in code is held to the same types and ranges as one in a file
            msgspec.convert(self, _Fields, from_attributes=True)
        except msgspec.ValidationError as error:
            what, _, where = str(error).partition(" - at ")
            raise ScheduleError(f"A step cannot have this {where.replace('`', '').replace('$.', '')}: {what}.") from None
        numbers = [
            self.to,
            self.relax,
            self.eta,
            *self.numbers.values(),
            *self.knobs.values(),
            *([] if self.label is None else [self.label]),
        ]
        if not all(map(math.isfinite, numbers)):
            raise ScheduleError("A step holds a number that is not finite.")
        if self.eta and self.space not in {"sde": ("x0", "eps"), "er": ("x0",)}.get(self.noise, ("x0", "eps", "flow")):
            raise ScheduleError(f"Noise of kind {self.noise!r} is not defined in space {self.space!r}.")
        if self.eta and self.corrector and self.noise in ("ancestral", "rectified"):
            raise ScheduleError("A corrector cannot follow ancestral noise: use noise 'sde' or 'er'.")
        if self.moment == "bh1" and (self.space == "flow" or self.domain != "lambda"):
            raise ScheduleError("The bh1 moment is defined in the spaces 'x0' and 'eps' with domain 'lambda' only.")


_Fields = msgspec.defstruct("_Fields", [(field.name, field.type) for field in msgspec.structs.fields(Step)])  # without __post_init__


class SolverSchedule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """A process, a start time and the steps from there: the whole sampler, before compilation."""

    process: Process
    start: float
    steps: Annotated[tuple[Step, ...], msgspec.Meta(min_length=1, max_length=MAX_STEPS)]

    def __post_init__(self) -> None:
        if not 1 <= len(self.steps) <= MAX_STEPS:
            raise ScheduleError(f"A schedule needs 1 to {MAX_STEPS} steps, not {len(self.steps)}.")
        self.process.check_time(self.start, "start")
        for index, step in enumerate(self.steps):
            self.process.check_time(step.to, f"step {index}: time")
            if step.label is not None:
                self.process.check_time(step.label, f"step {index}: label")
        for index, (before, after) in enumerate(itertools.pairwise(self.times)):
            if not after < before:
                raise ScheduleError(f"Times must decrease from noise to data, but step {index} goes from {before:g} to {after:g}.")

    @functools.cached_property
    def times(self) -> tuple[float, ...]:
        """The start and the end of every step, N + 1 numbers."""
        return (self.start, *(step.to for step in self.steps))
