"""Where a teacher's network is, how many samples it is asked for at once, and what becomes of the memory that it has used."""

import ctypes
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from solvers import At
from teacher.denoiser import Teacher, at_of
from teacher.errors import TeacherError

MMAP_THRESHOLD, TRIM_THRESHOLD, LARGE = -3, -1, 2**30  # of glibc's mallopt


def placed(teacher: Teacher, device: str = "cpu", chunk: int = 64) -> Teacher:
    """The same teacher with its network on one of torch's devices ("cpu", "cuda", "cuda:1"), asked for `chunk` samples in one call at most.

    States and answers stay where they are. Raises TeacherError if there is no such device here, no network to move, or no chunk of samples.
    """
    if chunk < 1:
        raise TeacherError(f"A chunk has one sample or more, not {chunk}.")
    if teacher.network is None and device != "cpu":
        raise TeacherError(f"Model {teacher.name!r} has no network that could be moved to {device!r}.")
    try:
        if torch.device(device).type == "cuda":  # its answers would be a thousandth off, which is as near as a teacher is solved
            torch.backends.cudnn.allow_tf32 = False
        if teacher.network is not None:
            teacher.network.to(device)
    except (RuntimeError, AssertionError, ValueError) as error:  # a torch that was built without the device asserts
        raise TeacherError(f"The network cannot be moved to {device!r}: {str(error).splitlines()[0]}.") from None

    keep_freed_memory()

    def ask(x: Tensor, at: At, cond: Tensor | None, knobs: dict[str, Any]) -> Tensor:
        return teacher.denoiser(x.to(device), at, cond=None if cond is None else cond.to(device), **knobs).to(x.device)

    def denoiser(x: Tensor, at: At, *, cond: Tensor | None = None, **knobs: Any) -> Tensor:
        if len(x) <= chunk:
            return ask(x, at, cond, knobs)
        parts = [slice(first, first + chunk) for first in range(0, len(x), chunk)]
        return torch.cat([ask(x[part], at_of(at, part), None if cond is None else cond[part], knobs) for part in parts])

    return replace(teacher, denoiser=denoiser)


def keep_freed_memory() -> None:
    """Have glibc keep blocks of up to 1 GiB that were freed, instead of mapping every activation of some MB page by page again.

    It changes no number, and the peak of memory hardly; elsewhere than on glibc it does nothing.
    """
    with suppress(AttributeError, OSError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(MMAP_THRESHOLD, LARGE)
        libc.mallopt(TRIM_THRESHOLD, 2 * LARGE - 1)
