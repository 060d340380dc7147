"""What a finished campaign knows: plain records, one JSON file, read by the report, the table and the tracker.

result.json holds the Result of a campaign over one NFE, or of one NFE; front.json the Front of a campaign over several.
"""

from pathlib import Path
from typing import Any, TypeVar

import msgspec

from search.errors import CampaignError
from search.learner import Learner
from search.records import Agreement, Cost, Finished, Known, Ranked, Scored
from solvers.atomic import write_atomically


class Result(msgspec.Struct, frozen=True):
    """A campaign's outcome.

    found, baseline   the searched schedule and the best tuned known solver, on test seeds
    others            further known solvers on test seeds: every preset's best grid
    curves            for other budgets, the best known solvers on `select` (not test): [Known]
    known             every tuned known solver, best first
    ranks             how well the predictor ranked trials before they were scored
    learner, learned  what polished the finalists, and how it went; none: the found schedule is the searched one
    abstained         trials that were proposed without the predictor, because it ranked backwards
    agreement         how alike objectives rank some of the trials
    perceptual        the objective behind `Scored.lpips`
    """

    model: str
    nfe: int
    objective: str
    found: Scored
    baseline: Scored
    others: tuple[Scored, ...]
    curves: tuple[Known, ...]
    known: tuple[Known, ...]
    trials: tuple[Finished, ...]
    schedule_file: str
    schedule_id: str
    teacher_nfe: int
    teacher_error: float
    seeds: dict[str, int]
    calls_per_evaluation: int
    search_cost: Cost
    known_cost: Cost
    seconds: float
    test_reads: int
    machine: str
    ranks: tuple[Ranked, ...] = ()
    learner: Learner | None = None
    learned: str = ""
    abstained: int = 0
    agreement: Agreement | None = None
    perceptual: str = ""

    def beside(self, home: Path) -> "Result":
        """The same, of a campaign that lies in `home`."""
        return msgspec.structs.replace(self, schedule_file=str(home / Path(self.schedule_file).name))

    @property
    def schedule_files(self) -> tuple[str, ...]:
        """What it wrote."""
        return (self.schedule_file,)

    @property
    def report(self) -> Path:
        """The page beside its file."""
        return Path(self.schedule_file).parent / "report.html"

    @property
    def summary(self) -> dict[str, float]:
        """For the tracker."""
        return {"test/rmse": self.found.rmse.value, "test/ratio": self.found.ratio.value}


class Part(msgspec.Struct, frozen=True):
    """One NFE of a front: what was found and the best tuned known solver on test seeds, and how many were tried."""

    nfe: int
    found: Scored
    baseline: Scored
    schedule_file: str
    schedule_id: str
    trials: int
    known: int
    test_reads: int


class Moment(msgspec.Struct, frozen=True):
    """The hypervolume once so many evaluations of one sample were spent."""

    evaluations: int
    hypervolume: float


class Front(msgspec.Struct, frozen=True):
    """The outcome of a campaign over several NFE.

    reference     the hypervolumes' reference point: one evaluation more than the most, the best known solvers' largest error on `fit`
    hypervolume   of the best trials so far, after every trial; on `fit`
    generation    trials of one NFE in a row
    """

    model: str
    objective: str
    parts: tuple[Part, ...]
    reference: tuple[int, float]
    hypervolume: tuple[Moment, ...]
    known_hypervolume: float
    generation: int
    seeds: dict[str, int]
    teacher_nfe: int
    teacher_error: float
    search_cost: Cost
    known_cost: Cost
    seconds: float
    machine: str
    learner: Learner | None = None

    def beside(self, home: Path) -> "Front":
        """The same, of a campaign that lies in `home`."""
        files = [Path(part.schedule_file) for part in self.parts]
        there = [str(home / file.parent.name / file.name) for file in files]
        parts = (msgspec.structs.replace(part, schedule_file=file) for part, file in zip(self.parts, there, strict=True))
        return msgspec.structs.replace(self, parts=tuple(parts))

    @property
    def schedule_files(self) -> tuple[str, ...]:
        """What it wrote, by NFE."""
        return tuple(part.schedule_file for part in self.parts)

    @property
    def report(self) -> Path:
        """The page about all of them; each has one of its own beside its file."""
        return Path(self.schedule_files[0]).parents[1] / "report.html"

    @property
    def summary(self) -> dict[str, float]:
        """For the tracker."""
        ratios = {f"test/nfe{part.nfe}/ratio": part.found.ratio.value for part in self.parts}
        return ratios | {"search/hypervolume": self.hypervolume[-1].hypervolume}


Record = TypeVar("Record", Result, Front)
READS = "test-reads.json"


def count_read(directory: Path) -> int:
    """How often what lies in a directory has read its test seeds, this time included."""
    path = directory / READS
    reads = 1 + (decoded(path, int) if path.exists() else 0)
    write_atomically(path, msgspec.json.encode(reads))
    return reads


def write(outcome: Result | Front, path: Path) -> None:
    """Atomically."""
    write_atomically(path, msgspec.json.format(msgspec.json.encode(outcome), indent=1) + b"\n")


def read(path: Path, kind: type[Record] = Result) -> Record:
    """The inverse of `write`; files are named where they lie now, should the directory have been moved."""
    return decoded(path, kind).beside(path.parent)


def decoded(path: Path, kind: Any) -> Any:
    """What JSON in a file says. Raises CampaignError if it is damaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except msgspec.MsgspecError:
        raise CampaignError(f"{path} is damaged; remove it, and it is made anew.") from None


def concluded(path: Path, learner: Learner | None, kind: type[Record] = Result) -> Record | None:
    """What `write` left there, if it and its files are there and it was polished as is asked now. No learner: as it is."""
    found = read(path, kind) if path.exists() else None
    whole = found and learner in (None, found.learner) and all(Path(file).exists() for file in found.schedule_files)
    return found if whole else None
