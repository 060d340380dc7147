"""What a campaign measures on its way, as plain records: scores, known solvers, trials, costs. `result.py` puts them together."""

from collections.abc import Sequence

import msgspec

WARM = "warm: "  # the origin of a trial that is from another campaign's file begins so


class Interval(msgspec.Struct, frozen=True):
    """An estimate with its 95 % interval over seeds: by the bootstrap, of distances of sets by the jackknife."""

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
