"""A content-addressed store of tensors: the key is the sha256 of everything that decides them.

One safetensors file per entry, written atomically, with a checksum of the tensors in its header (safetensors itself does
not notice a flipped bit). A damaged entry is set aside and made again, never used.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from solvers.atomic import write_atomically

from .errors import TeacherError

ROOT = Path(".cache") / "trajectories"


def key_of(facts: Mapping[str, Any]) -> str:
    """The sha256 of the facts in canonical JSON."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, allow_nan=False).encode()).hexdigest()


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, shapes, dtypes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def fetch(root: Path, facts: Mapping[str, Any], make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors that belong to `facts`, from the store or else from `make()`, which are then stored."""
    path = root / f"{key_of(facts)}.safetensors"
    if path.exists():
        try:
            found = _read(path)
        except OSError as error:
            raise TeacherError(f"{path} cannot be read: {error.strerror or error}.") from None
        if found is not None:
            return found
        with suppress(FileNotFoundError):  # another process was first
            path.replace(path.with_suffix(".damaged"))
    tensors = make()
    header = {"checksum": checksum(tensors), "facts": json.dumps(facts, sort_keys=True)}
    try:
        write_atomically(path, safetensors.torch.save({k: v.contiguous() for k, v in tensors.items()}, header))
    except OSError as error:
        raise TeacherError(f"{path} cannot be written: {error.strerror or error}.") from None
    return tensors


def _read(path: Path) -> dict[str, Tensor] | None:
    try:
        with safetensors.safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
    except safetensors.SafetensorError:
        return None
    return tensors if header.get("checksum") == checksum(tensors) else None
