"""Every few-step sampler as a table of rows, and one loop that runs it. Needs torch, numpy and msgspec, nothing else.

from solvers import process, preset, compile, sample, initial
p = process("ve")
t = compile(preset("dpmpp-2m", [80.0, 10.0, 1.0, 0.0], p))
x = sample(denoiser, initial(range(4), (3, 32, 32), t), t)
"""

from .adaptive import Tolerance, adaptive
from .average_first import average_first
from .compile import compile
from .dpm_solver_v3 import Statistics, dpm_solver_v3
from .errors import ScheduleError
from .file import load, save
from .gddim import gddim_bdm, gddim_cld
from .grids import GRIDS, lambdas, named_grid, sigmas, times
from .invert import growth, invert
from .noise import draw, initial
from .presets import preset, preset_for_nfe
from .probe import probe
from .process import PROCESSES, Process, process
from .records import FittedFor, Provenance, ScheduleFile, Score
from .registry import DISTINCT, METHODS, PRESETS
from .sample import State, advance, begin, sample
from .schedule import SolverSchedule, Step
from .tableau import At, Dense, Evaluation, Row, Tableau

__all__ = [
    "DISTINCT",
    "GRIDS",
    "METHODS",
    "PRESETS",
    "PROCESSES",
    "At",
    "Dense",
    "Evaluation",
    "FittedFor",
    "Process",
    "Provenance",
    "Row",
    "ScheduleError",
    "ScheduleFile",
    "Score",
    "SolverSchedule",
    "State",
    "Statistics",
    "Step",
    "Tableau",
    "Tolerance",
    "adaptive",
    "advance",
    "average_first",
    "begin",
    "compile",
    "dpm_solver_v3",
    "draw",
    "gddim_bdm",
    "gddim_cld",
    "growth",
    "initial",
    "invert",
    "lambdas",
    "load",
    "named_grid",
    "preset",
    "preset_for_nfe",
    "probe",
    "process",
    "sample",
    "save",
    "sigmas",
    "times",
]
