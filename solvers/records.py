"""What a schedule file holds, as plain records (`file.py` writes and reads them), and a table's rows as such."""

import functools
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from .errors import ScheduleError
from .golden import Golden
from .kinds import Operator
from .prediction import check as check_prediction
from .process import Process
from .schedule import KnobName, SolverSchedule
from .sidecar import Operators, key
from .tableau import Evaluation, Row, Tableau, number

Text = Annotated[str, msgspec.Meta(max_length=512, pattern=r"^(?![\s\S]*[\x00-\x1f\x7f-\x9f])")]
Slot = Annotated[str, msgspec.Meta(max_length=32)]
Tensor = Annotated[str, msgspec.Meta(max_length=65)]
Hash = Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?$")]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class EvaluationRecord(_Strict, frozen=True):
    """One call of the denoiser."""

    label: float
    alpha: float
    sigma: float
    knobs: dict[KnobName, float] = {}


class RowRecord(_Strict, frozen=True):
    """slot = sum of coefficient * term. A coefficient is a number, or the name of a tensor in the sidecar."""

    slot: Slot
    time: float
    terms: Annotated[tuple[tuple[Slot, float | Tensor], ...], msgspec.Meta(max_length=8192)]
    evaluation: EvaluationRecord | None = None


class Executable(_Strict, frozen=True):
    """All that sampling needs. initial_noise: how x_T is made from standard normal noise, with the sigma of the first row.

    coefficients: "scalar" where all are numbers; otherwise what the tensors of the sidecar are.
    """

    process: Process
    nfe: int
    rows: Annotated[tuple[RowRecord, ...], msgspec.Meta(min_length=1, max_length=8192)]
    initial_noise: Literal["sigma * standard_normal", "mu + sigma * standard_normal"] = "sigma * standard_normal"
    coefficients: Literal["scalar"] | Operators = "scalar"


class FittedFor(_Strict, frozen=True):
    """What the numbers were found on; None or "" is "not said". guidance and shift as the model's own users count them."""

    model: Text = ""
    model_sha256: Hash = ""
    prediction: Text = ""
    guidance: float | None = None
    shift: float | None = None
    resolution: tuple[int, ...] = ()
    dtype: Text = ""
    teacher: Text = ""
    teacher_error: float | None = None


class Score(_Strict, frozen=True):
    """An error on seeds that nothing was tuned on, beside the best known solver's on the same seeds, with 95 % intervals."""

    metric: Text
    seeds: int
    value: float
    low: float
    high: float
    baseline: Text = ""
    baseline_value: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None


class Provenance(_Strict, frozen=True):
    """Where the file comes from."""

    tool: Text = "fewstep"
    version: Text = ""
    study: Text = ""
    trial: int | None = None
    licence: Text = ""
    calls_per_evaluation: int = 1
    test_reads: int = 0
    note: Text = ""


class ScheduleFile(_Strict, frozen=True, dict=True):
    """A whole file. `tableau` is built from the rows and the sidecar when the file is loaded."""

    format: Literal["fewstep-schedule"]
    version: Literal[1]
    id: Hash
    digest: Hash
    executable: Executable
    golden: Golden
    sigmas: tuple[float, ...] = ()
    recipe: SolverSchedule | None = None
    fitted_for: FittedFor | None = None
    scores: tuple[Score, ...] = ()
    provenance: Provenance = Provenance()

    @functools.cached_property
    def tableau(self) -> Tableau:
        """The rows, checked, ready for `sample`. Its tensors come with `load` and `save`: without them it raises ScheduleError."""
        return tableau_of(self.executable, {})

    @property
    def process(self) -> Process:
        """The process the times belong to."""
        return self.executable.process

    def predicted(self, said: str = "") -> str:
        """What its network predicts: what is said, else what it was fitted for, else nothing. Raises ScheduleError if those differ."""
        fitted = self.fitted_for.prediction if self.fitted_for else ""
        if said:
            check_prediction(said)
        if said and fitted not in ("", said):
            raise ScheduleError(f"This schedule was fitted for a network that predicts {fitted}, not {said}.")
        return said or fitted

    def require(self, card: FittedFor | Mapping[str, Any], insist: bool = False) -> None:
        """Raise ScheduleError in one sentence if this file was fitted for something else than `card` says. insist=True lets it pass."""
        try:
            wanted = card if isinstance(card, FittedFor) else msgspec.convert(dict(card), FittedFor)
        except msgspec.ValidationError as error:
            raise ScheduleError(f"This is no description of a model: {error}.") from None
        if insist or self.fitted_for is None:
            return
        fields = ("model", "model_sha256", "prediction", "guidance", "shift", "resolution", "dtype")
        pairs = [(name, getattr(self.fitted_for, name), getattr(wanted, name)) for name in fields]
        differ = [f"{n} is {theirs!r} but was {ours!r}" for n, ours, theirs in pairs if ours not in (None, "", ()) and ours != theirs]
        if differ:
            raise ScheduleError(
                f"This schedule was fitted for another model ({'; '.join(differ)}); pass insist=True to use it all the same."
            )


def tableau_of(executable: Executable, operators: Mapping[str, Operator]) -> Tableau:
    """The rows, checked, with the operators of the sidecar. Raises ScheduleError."""
    rows = tuple(_row(record, operators) for record in executable.rows)
    return Tableau(rows, sigma=None if not rows or rows[0].evaluation else float(executable.process.sigma(rows[0].time)))


def _row(record: RowRecord, operators: Mapping[str, Operator]) -> Row:
    lost = [c for _, c in record.terms if isinstance(c, str) and c not in operators]
    if lost:
        raise ScheduleError(f"Row {record.slot!r} needs the tensor {lost[0]!r}, which is not there.")
    terms = {slot: operators[c] if isinstance(c, str) else c for slot, c in record.terms}
    if len(terms) != len(record.terms):
        raise ScheduleError(f"Row {record.slot!r} names a term twice.")
    e = record.evaluation
    return Row(record.slot, record.time, terms, e and Evaluation(e.label, e.alpha, e.sigma, e.knobs))


def record(row: Row) -> RowRecord:
    """A row as a file has it."""
    terms = tuple((slot, key(row, slot) if isinstance(c, Operator) else number(c)) for slot, c in row.terms.items())
    e = row.evaluation
    return RowRecord(
        row.slot, float(row.time), terms, e and EvaluationRecord(float(e.label), float(e.alpha), float(e.sigma), dict(e.knobs))
    )
