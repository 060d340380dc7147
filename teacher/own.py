"""Models that users bring: MODULE:FUNCTION names a function that returns a `Teacher`, and model.options are its arguments."""

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from teacher.denoiser import Teacher
from teacher.errors import TeacherError
from teacher.torchvision_repair import repair_torchvision


def load(name: str, options: Mapping[str, Any]) -> Teacher:
    """Import the module, from the current folder too, and call the function. Raises TeacherError naming what fails."""
    module_name, _, function_name = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    repair_torchvision()  # or diffusers and transformers cannot be imported beside some builds of torch
    module = _running(name, lambda: importlib.import_module(module_name))
    function = getattr(module, function_name, None)
    if not callable(function):
        raise TeacherError(f"Module {module_name!r} has no function {function_name!r} that could make a model.")
    require(function, name, options)
    teacher = _running(name, lambda: function(**options))
    if not isinstance(teacher, Teacher):
        raise TeacherError(f"Model {name!r} is a {type(teacher).__name__}; the function should return a teacher.denoiser.Teacher.")
    return teacher


def require(loader: Callable[..., Any], name: str, options: Mapping[str, Any]) -> None:
    """Raise TeacherError unless the loader takes these options."""
    try:
        inspect.signature(loader).bind(**options)
    except TypeError as error:
        raise TeacherError(f"Model {name!r} does not take the options {', '.join(options) or 'given, none'}: {error}.") from None


def _running(name: str, run: Callable[[], Any]) -> Any:
    try:
        return run()
    except TeacherError:
        raise
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise TeacherError(f"Model {name!r} failed at {where.filename}, line {where.lineno}: {type(error).__name__}: {error}") from error
