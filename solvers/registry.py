"""Every family the runtime knows. To add one, write its file and name it here."""

from . import (
    adams,
    ancestral,
    bdia,
    consistency,
    dc_solver,
    deis,
    dpm_solver,
    dpm_solver_single,
    er_sde,
    momentum,
    mrs,
    parallel,
    res,
    restart,
    runge_kutta,
    sa_solver,
    seeds,
    taylor,
    unipc,
)
from .family import Method, Preset

FAMILIES = (
    adams.FAMILY,
    deis.FAMILY,
    dpm_solver.FAMILY,
    unipc.FAMILY,
    res.FAMILY,
    sa_solver.FAMILY,
    er_sde.FAMILY,
    consistency.FAMILY,
    runge_kutta.FAMILY,
    dpm_solver_single.FAMILY,
    restart.FAMILY,
    ancestral.FAMILY,
    seeds.FAMILY,
    momentum.FAMILY,
    bdia.FAMILY,
    dc_solver.FAMILY,
    taylor.FAMILY,
    mrs.FAMILY,
    parallel.FAMILY,
)

METHODS: dict[str, Method] = {name: method for family in FAMILIES for name, method in family.methods.items()}
PRESETS: dict[str, Preset] = {name: preset for family in FAMILIES for name, preset in family.presets.items()}
DISTINCT: dict[str, Preset] = {next(n for n, other in PRESETS.items() if other is known): known for known in PRESETS.values()}
"""The presets without their aliases, each under its first name."""
