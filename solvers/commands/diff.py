"""`diff A B`: how two schedules differ, and whether they are the same sampler."""

from typing import Any, cast

import msgspec

from ..base_process import name_of
from ..records import ScheduleFile


def diff(a: ScheduleFile, b: ScheduleFile) -> list[str]:
    """One line for every difference that matters to the picture; a single line if there is none."""
    lines: list[str] = []
    if a.process != b.process:
        lines.append(
            f"process: {name_of(a.process)} and {name_of(b.process)}" + ", with other numbers" * (type(a.process) is type(b.process))
        )
    if a.tableau.layout != b.tableau.layout:
        return [*lines, f"coefficients: {_coefficients(a)} and {_coefficients(b)}"]
    if a.executable.nfe != b.executable.nfe:
        return [*lines, f"evaluations: {a.executable.nfe} and {b.executable.nfe}"]
    for i, (one, other) in enumerate(zip(a.tableau.evals, b.tableau.evals, strict=True)):
        for what in ("label", "sigma", "knobs"):
            mine, yours = getattr(one, what), getattr(other, what)
            if mine != yours:
                lines.append(f"evaluation {i}: {what} {_number(mine)} and {_number(yours)}")
    apart = a.tableau.apart(b.tableau)
    lines += [f"coefficients differ by up to {apart:.3g}, relative to the largest"] if apart > 1e-12 else []
    lines += _steps(a, b)
    return lines or ["the same sampler: equal evaluations, knobs and coefficients"]


def _steps(a: ScheduleFile, b: ScheduleFile) -> list[str]:
    if a.recipe is None or b.recipe is None or len(a.recipe.steps) != len(b.recipe.steps):
        return []
    lines: list[str] = []
    for i, (one, other) in enumerate(zip(a.recipe.steps, b.recipe.steps, strict=True)):
        changed = [f.name for f in msgspec.structs.fields(one) if getattr(one, f.name) != getattr(other, f.name)]
        lines += [f"step {i}: {name} {_number(getattr(one, name))} and {_number(getattr(other, name))}" for name in changed]
    return lines


def _coefficients(file: ScheduleFile) -> str:
    said = file.executable.coefficients
    return "numbers" if said == "scalar" else said.words


def _number(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_number(each)}" for name, each in cast("dict[str, Any]", value).items()) or "none"
    return f"{value:.6g}" if isinstance(value, float) else repr(value)
