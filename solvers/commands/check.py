"""`check FILE`: prove a file."""

import torch

from ..errors import ScheduleError
from ..file import recipe_distance
from ..golden import golden_run
from ..records import ScheduleFile


def check(file: ScheduleFile) -> list[str]:
    """What was proved, a sentence each; raises ScheduleError at the first thing that fails. Loading has checked hashes and rows."""
    proved = ["its hashes, structure and rows are sound"]
    states = golden_run(file.tableau).states
    if len(states) != len(file.golden.states):
        raise ScheduleError("the golden example has another number of states than the rows.")
    worst = max(abs(a - b) / max(1.0, abs(b)) for a, b in zip(states, file.golden.states, strict=True))
    if not worst <= 1e-9:
        raise ScheduleError(f"the golden example differs by {worst:.3g} when its rows are executed.")
    proved += [f"its golden example is reproduced within {worst:.1g}", _point_mass(file)]
    if file.recipe is None:
        return [*proved, "it carries no recipe to compare with"]
    distance = recipe_distance(file.tableau, file.recipe)
    if not distance <= 1e-10:
        raise ScheduleError(
            f"its recipe, compiled by this release, differs from its rows by {distance:.3g}; the rows are what is executed."
        )
    return [*proved, f"its recipe compiles to its rows within {distance:.1g}"]


def _point_mass(file: ScheduleFile) -> str:
    """Where all data is one point mu, D = mu, and a consistent sampler keeps x = alpha mu + sigma z: how far the rows are off.

    alpha: a_r alpha_T + sum_j B_rj = alpha_r;  sigma^2: (a_r sigma_T)^2 + sum_m G_rm^2 = sigma_r^2. Learned rows may give this up.
    """
    if file.tableau.layout is not None:
        return "its coefficients are operators, whose states on a point mass are not compared"
    seen, rows, process = file.tableau.visible, file.tableau.rows, file.process
    dense = file.tableau.dense().at(seen)
    times = torch.tensor([float(rows[i].time) for i in seen], dtype=torch.float64)
    start = torch.tensor(float(rows[0].time), dtype=torch.float64)
    data = dense.a * process.alpha(start) + dense.B.sum(1) - process.alpha(times)
    noise = ((dense.a * process.sigma(start)) ** 2 + (dense.G**2).sum(1)).sqrt() - process.sigma(times)
    worst = max(float(data.abs().max()), float(noise.abs().max()))
    return f"on a point mass its states are exact within {worst:.1g}"
