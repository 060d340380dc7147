"""What a finished campaign knows: plain records, one JSON file, read by the report, the table and the tracker.

result.json holds the Result of a campaign over one NFE, or of one NFE; front.json the Front of a campaign over several.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from search.errors import CampaignError
from search.learner import Learner
from solvers.atomic import write_atomically

WARM = "warm: "  # the origin of a trial that is from another campaign's file begins so


class Interval(msgspec.Struct, frozen=True):
    """An estimate with its 95 % bootstrap interval over seeds."""

    value: float
    low: float
    high: float


class Scored(msgspec.Struct, frozen=True):
    """One sampler on the test seeds. ratio: its RMSE over the best known solver's, paired on the same seeds.

    median is that of the per-seed RMSE: a few bifurcating seeds can carry most of a mean square. trimmed is the RMSE without the
    worst 3 % of seeds, worst the share of the squared error that these hold.
    aim is the campaign's objective where that is another one than RMSE, with the ratio.
    """

    name: str
    nfe: int
    rmse: Interval
    median: float
    ratio: Interval
    lpips: Interval | None = None
    lpips_ratio: Interval | None = None
    aim: Interval | None = None
    aim_ratio: Interval | None = None
    trimmed: float | None = None
    worst: float | None = None


class Known(msgspec.Struct, frozen=True):
    """One known solver on one grid, as it scored while it was tuned (None: not scored, or diverged).

    `options` go to `preset`, `grid_options` to `named_grid`. answer: that of the first step (`Step.answer`); where nobody is asked
    for it there is a step more.
    """

    solver: str
    options: dict[str, str | int | float]
    grid: str
    grid_options: dict[str, float]
    nfe: int
    answer: str = "network"
    fit: float | None = None
    select: float | None = None

    @property
    def kind(self) -> str:
        """The solver, and whether its first step is the analytical one (AFS)."""
        return self.solver if self.answer == "network" else f"{self.solver} with AFS"

    @property
    def name(self) -> str:
        """What a table calls it."""
        words = [f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in (self.options | self.grid_options).items()]
        return f"{self.kind} on {self.grid}" + (f" ({', '.join(words)})" if words else "")


class Finished(msgspec.Struct, frozen=True):
    """One trial of the search: its number, its value on `fit` (None if it diverged), and on `select` if it was a finalist.

    origin: the known solver it is, or the file it is from; empty if the search proposed it.
    seeds: how many fit seeds it saw; fewer than all if it was stopped, and then its value is an estimate; none if it was given up.
    """

    number: int
    fit: float | None
    select: float | None = None
    origin: str = ""
    seeds: int = 0


class Cost(msgspec.Struct, frozen=True):
    """Evaluations times samples, as asked for (logical) and as the network was called (physical: shared prefixes once)."""

    logical: int = 0
    physical: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        """Both together."""
        return Cost(self.logical + other.logical, self.physical + other.physical)


class Ranked(msgspec.Struct, frozen=True):
    """Kendall's tau of each predictor on the `ahead` trials that followed the first `seen`."""

    seen: int
    ahead: int
    taus: dict[str, float]


class Agreement(msgspec.Struct, frozen=True):
    """Kendall's tau between objectives, a row and a column for each, over so many trials drawn on so many select seeds."""

    names: tuple[str, ...]
    taus: tuple[tuple[float, ...], ...]
    trials: int
    seeds: int


def beginning_alike(known: Sequence[Known], seeds: int) -> Cost:
    """What known solvers cost: those that ask at x_T share that evaluation, and no other is shared."""
    asked, alike = sum(item.nfe for item in known), sum(item.answer == "network" for item in known)
    return Cost(asked * seeds, (asked - max(0, alike - 1)) * seeds)


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
