"""The cells of `make bench-learn`: what is asked, and what was found. One file each, in docs/learning/."""

import json
from pathlib import Path
from typing import NamedTuple

import msgspec

from search.records import Interval
from solvers.atomic import write_atomically

CELLS = Path(__file__).parents[1] / "docs" / "learning"
FURTHER = 1024  # test seeds after those of all cells, where what was searched and learned is held against the rows
LEVELS = ("statistics", "compensation", "times+labels", "weights", "rows")
WHAT = ("known", "known without AFS", *LEVELS, "rows by adam", "rows as GS", "rows emulated", "starts", "searched", "searched+learned")


class Question(NamedTuple):
    """A model, an NFE, a number of fit seeds and what is fitted."""

    model: str
    nfe: int
    seeds: int
    what: str

    @property
    def path(self) -> Path:
        """Where its cell is kept."""
        model, what = self.model.replace(" ", "-"), self.what.replace("+", "-").replace(" ", "-")
        return CELLS / f"{model}-{self.nfe}-{self.seeds}-{what}.json"

    def read(self) -> "Cell | None":
        """Its cell, if it is there."""
        return msgspec.json.decode(self.path.read_bytes(), type=Cell) if self.path.exists() else None


class Cell(msgspec.Struct, frozen=True):
    """RMSE on all three blocks, the rest on test; `lpips` by network, none where its weights are missing."""

    sampler: str
    parameters: int
    fit: float
    select: float
    test: Interval
    median: float
    trimmed: float
    worst: float
    ratio: Interval
    lpips: dict[str, float]
    cost: float  # CPU time of the fit, in that of a thousand evaluations of 64 seeds, so that it means the same on any machine
    seconds: float
    memory: int  # peak of the process, MiB
    errors: tuple[float, ...] = ()  # mean square of every test seed, for pairing with other cells; older cells have none
    further: tuple[float, ...] = ()  # of FURTHER ones, in "rows" and "searched+learned" alone

    def write(self, question: Question) -> None:
        """Keep it, a line for each field."""
        lines = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in msgspec.to_builtins(self).items()]
        write_atomically(question.path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())


def questions() -> list[Question]:
    """All of them, in the order in which they are run."""
    plain = [(model, nfe, 64) for nfe in (5, 4, 6, 8, 10, 3, 7, 9) for model in ("galaxies", "digits")]
    guided = [("digits guided", nfe, 64) for nfe in (5, 8)]
    fewer_or_more = [("galaxies", nfe, seeds) for nfe in (5, 8) for seeds in (16, 1024)]  # how much the rows over-fit
    more = [("galaxies", nfe, 256) for nfe in (5, 8, 4, 6, 10)]  # rows, and what was searched on 64 seeds and learned on these
    whole = [Question(*q, what) for q in (*plain, *guided) for what in WHAT if what != "rows as GS" or q[1] == 5]
    return [*whole, *(Question(*q, "rows") for q in fewer_or_more + more), *(Question(*q, "searched+learned") for q in more)]
