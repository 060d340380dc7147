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

import hashlib
import json
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch

from .atomic import write_atomically
from .compile import compile
from .errors import ScheduleError
from .golden import golden_run
from .kinds import Operator
from .process import Process
from .records import Executable, FittedFor, Provenance, ScheduleFile, Score, record, tableau_of
from .schedule import SolverSchedule
from .sidecar import MAX_SIDECAR, Operators, packed, unpacked
from .tableau import Tableau

FORMAT, VERSION = "fewstep-schedule", 1
MAX_BYTES = 1 << 20


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
        tableau = tableau_of(file.executable, _operators(file.executable, sidecar))
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
