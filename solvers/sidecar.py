"""Coefficients that are operators, on disk: `<sha256>.safetensors` beside the schedule file, named by the hash of its bytes.

A term of the file then holds the name of a tensor, "SLOT/TERM", where it would hold a number; the tensors are float64 and of
one kind and shape (`kinds.py`). The rows name the hash and the id is that of the rows, so another sidecar is another sampler.
A name that depends on the contents alone lets it be written before the file that needs it, whatever was there before.
"""

from collections.abc import Collection
from hashlib import sha256
from typing import Annotated, Literal

import msgspec
import torch

from .errors import ScheduleError
from .kinds import Layout, Operator
from .tableau import Row, Tableau

MAX_SIDECAR = 1 << 30
Size = Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]


class Operators(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the tensors are: a factor per element, a factor per frequency of the last axes, or a matrix along an axis of the sample."""

    kind: Literal["tensor", "dct", "matrix"]
    shape: Annotated[tuple[Size, ...], msgspec.Meta(min_length=1, max_length=8)]
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
    axis: Annotated[int, msgspec.Meta(ge=0, le=7)] = 0

    @property
    def name(self) -> str:
        """The file's name."""
        return f"{self.sha256}.safetensors"

    @property
    def layout(self) -> Layout:
        """The same as the runtime knows it."""
        return Layout(self.kind, self.shape, self.axis)

    @property
    def words(self) -> str:
        """The same for people."""
        size = " x ".join(map(str, self.shape))
        said = {
            "tensor": f"a factor per element ({size})",
            "dct": f"a factor per frequency of the last axes ({size})",
            "matrix": f"matrices ({size}) along axis {self.axis} of a sample",
        }
        return f"{said[self.kind]}, in {self.name}"


def key(row: Row, slot: str) -> str:
    """What a term's tensor is called."""
    return f"{row.slot}/{slot}"


def packed(table: Tableau, layout: Layout) -> tuple[Operators, bytes]:
    """The operators of a table as the bytes of a safetensors file, and what the schedule file says of them. Raises ScheduleError."""
    save = _safetensors().save
    given = {key(row, slot): c.values.detach() for row in table.rows for slot, c in row.terms.items() if isinstance(c, Operator)}
    tensors = {name: v.to("cpu", torch.float64, copy=True).contiguous() for name, v in given.items()}  # which may share memory
    size = sum(v.numel() * v.element_size() for v in tensors.values())
    if size > MAX_SIDECAR:
        raise ScheduleError(f"These coefficients take {size} bytes, more than the {MAX_SIDECAR} that a schedule may have.")
    data: bytes = save(tensors)
    return Operators(layout.kind, layout.shape, sha256(data).hexdigest(), layout.axis), data  # pyright: ignore[reportArgumentType]


def unpacked(said: Operators, names: Collection[str], data: bytes) -> dict[str, Operator]:
    """The operators of these names. Raises ScheduleError in one sentence if `data` is not what was said of it."""
    if sha256(data).hexdigest() != said.sha256:
        raise ScheduleError(f"its sidecar {said.name} was changed or damaged after it was written, or belongs to another file.")
    try:
        tensors: dict[str, torch.Tensor] = _safetensors().load(data)
    except Exception as error:  # safetensors has an exception of its own, which is only known once it is imported
        raise ScheduleError(f"its sidecar {said.name} holds no tensors: {error}.") from None
    if set(tensors) != set(names) or any(v.dtype != torch.float64 for v in tensors.values()):
        raise ScheduleError(f"its sidecar {said.name} holds other tensors than its rows name.")
    return {name: said.layout.operator(values) for name, values in tensors.items()}


def _safetensors():  # noqa: ANN202 (a module)
    """Imported when needed: everything else here runs without it."""
    try:
        import safetensors.torch
    except ImportError:
        raise ScheduleError("Coefficients that are operators are kept with the package safetensors: pip install safetensors.") from None
    return safetensors.torch
