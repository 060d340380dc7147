"""Models that users bring: MODULE:FUNCTION names a function that returns a `Teacher`, and model.options are its arguments."""

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from solvers import At
from teacher.denoiser import Teacher
from teacher.errors import TeacherError
from teacher.torchvision_repair import repair_torchvision


def load(name: str, options: Mapping[str, Any]) -> Teacher:
    """Import the module, looked for in the current folder too, and call the function. Raises TeacherError naming what fails."""
    module_name, _, function_name = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(1, os.getcwd())  # behind the folder of the script
    _running(name, repair_torchvision)  # or diffusers and transformers cannot be imported beside some builds of torch
    module = _running(name, lambda: importlib.import_module(module_name))
    function = getattr(module, function_name, None)
    if not callable(function):
        raise TeacherError(f"Module {module_name!r} has no function {function_name!r} that could make a model.")
    require(function, name, options)
    teacher = _running(name, lambda: function(**options))
    if not isinstance(teacher, Teacher):
        raise TeacherError(f"Model {name!r} is a {type(teacher).__name__}; the function should return a teacher.denoiser.Teacher.")
    if teacher.network is not None:
        teacher.network.eval().requires_grad_(False)
    return teacher


def require(loader: Callable[..., Any], name: str, options: Mapping[str, Any]) -> None:
    """Raise TeacherError unless the loader takes these options."""
    try:
        inspect.signature(loader).bind(**options)
    except (TypeError, ValueError) as error:  # some functions in C have no signature
        raise TeacherError(f"Model {name!r} does not take these options: {error}.") from None


@torch.no_grad()
def tried(teacher: Teacher) -> Teacher:
    """The same teacher, once it has answered for two samples at its start. Raises TeacherError where it does not answer as it should."""
    t = torch.tensor(teacher.start, dtype=torch.float64)
    once = At(t, teacher.process.alpha(t), teacher.process.sigma(t))
    x = float(once.sigma) * torch.randn(2, *teacher.shape, generator=torch.Generator().manual_seed(0))
    cond = _running(teacher.name, lambda: teacher.conditions([0, 1]))
    if cond is not None and (not isinstance(cond, Tensor) or cond.ndim < 1 or len(cond) != 2):
        raise TeacherError(f"The conditions of model {teacher.name!r} should be a tensor with a row for each seed, or None.")
    for at in (once, At(*(value.expand(2) for value in once))):  # one time for all, as a sampler asks, and one each, as a search does
        answer = _running(teacher.name, lambda at=at: teacher.denoiser(x, at, cond=cond, **dict(teacher.knobs)))
        found = (tuple(answer.shape), answer.dtype) if isinstance(answer, Tensor) else type(answer).__name__
        if found != (tuple(x.shape), x.dtype):
            raise TeacherError(f"Model {teacher.name!r} should answer {(tuple(x.shape), x.dtype)} when asked for two samples, not {found}.")
    return teacher


def _running(name: str, run: Callable[[], Any]) -> Any:
    """What comes of it; whatever goes wrong in code of others is said in a sentence, with the newest line that is not a library's."""
    try:
        return run()
    except TeacherError:
        raise
    except (Exception, SystemExit) as error:  # a script without a main guard may exit
        own = [f for f in traceback.extract_tb(error.__traceback__)[1:] if f.filename != __file__ and not _of_library(f.filename)]
        where = f" at {own[-1].filename}, line {own[-1].lineno}" if own else ""
        said = str(error).strip().splitlines() or ["no more is said"]
        raise TeacherError(f"Model {name!r} failed{where}: {type(error).__name__}: {said[0]}") from error


def _of_library(filename: str) -> bool:
    return filename.startswith("<") or "site-packages" in filename or filename.startswith(os.path.dirname(os.__file__))
