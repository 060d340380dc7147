"""`NAME.schedule.json`: the one file that any runtime can execute, version 1.

Strict JSON. `executable` holds the rows, the truth a sampler runs; `recipe` the steps they were compiled from, as
provenance; `golden` a tiny worked example with which a consumer proves its executor. `id` is the sha256 of the executable
part alone, so re-scoring does not rename a sampler; `digest` covers everything else. Both hash Python's
`json.dumps(part, sort_keys=True, separators=(",", ":"))`. Nothing in a file is ever imported or called; the one path it names is
that of its sidecar (`sidecar.py`), a hash in the same folder.

To execute a file: start with slots = {"xT": x, "one": 1} (and "mu", where rows read it); for each row, slots[row.slot] = sum of
c * slots[name] over its terms, and if it has an evaluation, the next slot D0, D1, ... = denoiser(slots[row.slot], label, alpha,
sigma). The last row is the sample.
"""

import functools
import hashlib
import json
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import torch

from .atomic import write_atomically
from .compile import compile
from .errors import ScheduleError
from .golden import Golden, golden_run
from .kinds import Operator
from .prediction import check as check_prediction
from .process import Process
from .schedule import KnobName, SolverSchedule
from .sidecar import MAX_SIDECAR, Operators, key, packed, unpacked
from .tableau import Evaluation, Row, Tableau, number

FORMAT, VERSION = "fewstep-schedule", 1
MAX_BYTES = 1 << 20
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
        return _tableau(self.executable, {})

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


def _tableau(executable: Executable, operators: Mapping[str, Operator]) -> Tableau:
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


def canonical(part: Any) -> bytes:
    """The bytes that are hashed."""
    return json.dumps(msgspec.to_builtins(part), sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _hashes(document: Mapping[str, Any]) -> tuple[str, str]:
    """Of what is written, not of what it is read into: a later release may give its records more fields with defaults."""
    rest = {k: v for k, v in document.items() if k not in ("executable", "digest")}
    rest["id"] = identity = hashlib.sha256(canonical(document["executable"])).hexdigest()
    return identity, hashlib.sha256(canonical(rest)).hexdigest()


def save(
    tableau: Tableau,
    path: str | os.PathLike[str],
    *,
    recipe: SolverSchedule | None = None,
    process: Process | None = None,
    fitted_for: FittedFor | None = None,
    scores: Sequence[Score] = (),
    provenance: Provenance | None = None,
) -> ScheduleFile:
    """Write a table atomically and return the file as it was written. Operators go into a sidecar beside it.

    Give `recipe` (whose process is used, and which must compile to these rows within 1e-10) or `process`. Raises
    ScheduleError, and then writes nothing.
    """
    if recipe is not None:
        _agree(tableau, recipe)
    owner = recipe.process if recipe is not None else process
    if owner is None:
        raise ScheduleError("A file needs the process its times belong to: give recipe= or process=.")
    for row in tableau.rows:
        if any(isinstance(c, torch.Tensor) and c.ndim for c in row.terms.values()):
            raise ScheduleError("Only scalar coefficients go into a version-1 file; this table holds a batch of candidates.")
    start = "mu + sigma * standard_normal" if owner.anchored else "sigma * standard_normal"
    said, tensors = packed(tableau, tableau.layout) if tableau.layout else ("scalar", b"")
    executable = Executable(owner, tableau.nfe, tuple(map(record, tableau.rows)), start, said)
    sigmas = tuple(float(owner.sigma_of(float(row.time))) for row in tableau.rows)
    blank = ScheduleFile(
        FORMAT, VERSION, "", "", executable, golden_run(tableau), sigmas, recipe, fitted_for, tuple(scores), provenance or Provenance()
    )
    try:
        identity, digest = _hashes(msgspec.to_builtins(blank))
        file = msgspec.structs.replace(blank, id=identity, digest=digest)
        text = json.dumps(msgspec.to_builtins(file), indent=1, allow_nan=False) + "\n"
    except ValueError:
        raise ScheduleError("A number that belongs into the file is not finite.") from None
    file = parse(text.encode(), lambda name: tensors)  # a file that could not be read again must not be written
    try:
        if isinstance(said, Operators):
            write_atomically(Path(path).parent / said.name, tensors)
        write_atomically(path, text.encode())
    except (OSError, ValueError) as error:  # ValueError: a path that no system accepts
        raise ScheduleError(f"{str(path)!r} cannot be written: {getattr(error, 'strerror', error)}.") from None
    return file


def load(path: str | os.PathLike[str]) -> ScheduleFile:
    """Read and check a file: size, structure, version, both hashes, the table's own laws. Raises ScheduleError."""
    data = read_bytes(path, MAX_BYTES)
    try:
        return parse(data, lambda name: read_bytes(Path(path).resolve().parent / name, MAX_SIDECAR))
    except ScheduleError as error:
        raise ScheduleError(f"{Path(path)}: {error}") from None


def read_bytes(path: str | os.PathLike[str], most: int) -> bytes:
    """The bytes of a regular file, one more than `most` if there are more. Raises ScheduleError."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (OSError, ValueError) as error:  # ValueError: a path that no system accepts
        raise ScheduleError(f"{str(path)!r} cannot be read: {getattr(error, 'strerror', error)}.") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ScheduleError(f"{Path(path)} is not a regular file.")
    with os.fdopen(handle, "rb") as stream:
        return stream.read(most + 1)


class _Header(msgspec.Struct):
    format: str = ""
    version: int = 0


def parse(data: bytes, sidecar: Callable[[str], bytes] | None = None) -> ScheduleFile:
    """The checked file in `data`; `sidecar` gives the bytes of the file of that name, where one is needed. Raises ScheduleError."""
    if len(data) > MAX_BYTES:
        raise ScheduleError(f"it is larger than {MAX_BYTES} bytes, more than any schedule.")
    try:
        header = msgspec.json.decode(data, type=_Header)
        if header.format != FORMAT:
            raise ScheduleError("this is not a Fewstep schedule (its format is not 'fewstep-schedule').")
        if header.version != VERSION:
            raise ScheduleError(
                f"it has version {header.version}, and this release reads version {VERSION}; use the release that wrote it."
            )
        file = msgspec.json.decode(data, type=ScheduleFile)
        document = json.loads(data, object_pairs_hook=_no_duplicates)  # two readers must not disagree about a repeated key
        tableau = _tableau(file.executable, _operators(file.executable, sidecar))
        vars(file)["tableau"] = tableau  # where it is cached
    except ScheduleError:
        raise
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ScheduleError(f"it is damaged or not a schedule: {error}.") from None
    if tableau.nfe != file.executable.nfe:
        raise ScheduleError(f"it claims {file.executable.nfe} evaluations, but its rows make {tableau.nfe}.")
    if (file.id, file.digest) != _hashes(document):
        raise ScheduleError("its hashes do not fit its contents: it was changed or damaged after it was written.")
    return file


def _operators(executable: Executable, sidecar: Callable[[str], bytes] | None) -> dict[str, Operator]:
    said = executable.coefficients
    if not isinstance(said, Operators):
        return {}
    if sidecar is None:
        raise ScheduleError(f"its coefficients are in {said.name}, which goes with it.")
    names = [c for row in executable.rows for _, c in row.terms if isinstance(c, str)]
    if len(set(names)) != len(names):
        raise ScheduleError("two terms name the same tensor.")
    return unpacked(said, names, sidecar(said.name))


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ScheduleError("a key is given twice.")
    return found


def _agree(tableau: Tableau, recipe: SolverSchedule) -> None:
    distance = recipe_distance(tableau, recipe)
    if not distance <= 1e-10:
        raise ScheduleError(f"The recipe does not compile to these rows: coefficients differ by {distance:.3g}, more than 1e-10.")


def recipe_distance(tableau: Tableau, recipe: SolverSchedule) -> float:
    """Largest difference between the closed forms of the rows and of the recipe as compiled today.

    Relative to the largest coefficient where that is above one; infinite if their shapes differ.
    """
    return tableau.dense().apart(compile(recipe).dense())
