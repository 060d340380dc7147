"""`import SOURCE --from KIND`: another tool's schedule as a file of ours."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..compile import compile
from ..errors import ScheduleError
from ..file import save
from ..importers.black_box import from_diffusers, left_out, predicted
from ..importers.document import Asked, read
from ..importers.lists import from_dc_solver, from_ld3, from_sigmas, from_timesteps
from ..importers.tables import from_gs, from_neuralsolver
from ..importers.usf import from_usf
from ..records import FittedFor, Provenance
from ..schedule import SolverSchedule

KINDS: dict[str, Callable[[Any, Asked], Any]] = {
    "dc-solver": from_dc_solver,
    "diffusers": from_diffusers,
    "gs": from_gs,
    "ld3": from_ld3,
    "neuralsolver": from_neuralsolver,
    "sigmas": from_sigmas,
    "timesteps": from_timesteps,
    "usf": from_usf,
}
# What a source must be told, where that is not its process.
TAKES = {kind: ("process", "sampler") for kind in ("ld3", "sigmas", "timesteps")} | {"diffusers": ("nfe",), "neuralsolver": ()}


def import_(source: Path, kind: str, asked: Asked, destination: Path) -> list[str]:
    """Read `source`, a JSON file of `kind`, and write a schedule file. Raises ScheduleError."""
    if kind not in KINDS:
        raise ScheduleError(f"There is no import from {kind!r}; there are {', '.join(KINDS)}.")
    for name in ("process", "sampler", "nfe"):
        if getattr(asked, name) not in (None, "") and name not in TAKES.get(kind, ("process",)):
            raise ScheduleError(f"An import from {kind} takes no --{name}.")
    document = read(source)
    found = KINDS[kind](document, asked)
    said = "flow" if kind == "neuralsolver" else predicted(document) if kind == "diffusers" else asked.prediction
    if asked.prediction not in ("", said):
        raise ScheduleError(f"{source} is of a network that predicts {said}, not {asked.prediction}.")
    missing = left_out(document) if kind == "diffusers" else ""
    provenance = Provenance(note=f"imported from {kind}: {source.name}" + (missing and f"; {missing}"))
    card = FittedFor(prediction=said) if said else None
    if isinstance(found, SolverSchedule):
        file = save(compile(found), destination, recipe=found, provenance=provenance, fitted_for=card)
    else:
        table, process = found
        file = save(table, destination, process=process, provenance=provenance, fitted_for=card)
    wrote = f"wrote {destination}: {file.executable.nfe} evaluations, id {file.id[:16]}"
    return [wrote, missing] if missing else [wrote]
