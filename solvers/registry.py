"""Every family the runtime knows. To add one, write its file and name it in `FILES`: one line."""

from importlib import import_module

from .family import Family, Method, Preset

FILES = (
    "adams",
    "deis",
    "dpm_solver",
    "unipc",
    "res",
    "sa_solver",
    "er_sde",
    "consistency",
    "runge_kutta",
    "dpm_solver_single",
    "restart",
    "ancestral",
    "seeds",
    "momentum",
    "bdia",
    "dc_solver",
    "taylor",
    "mrs",
    "parallel",
    "weights",
)
FAMILIES: tuple[Family, ...] = tuple(import_module(f".{file}", __package__).FAMILY for file in FILES)

METHODS: dict[str, Method] = {name: method for family in FAMILIES for name, method in family.methods.items()}
PRESETS: dict[str, Preset] = {name: preset for family in FAMILIES for name, preset in family.presets.items()}
DISTINCT: dict[str, Preset] = {next(n for n, other in PRESETS.items() if other is known): known for known in PRESETS.values()}
"""The presets without their aliases, each under its first name."""
