"""One way to put bytes on disk: a reader sees the old file or the new one, never a part, after kill -9 or power loss."""

import errno
import os
import tempfile
from pathlib import Path


def write_atomically(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write `data` beside `path`, flush it to the disk, rename it over `path`, flush the directory. Returns the path."""
    target = Path(path)
    if target.exists() and not target.is_file():  # a device would become a file
        raise OSError(errno.EINVAL, "it is a folder; name a file to write" if target.is_dir() else "it is there, and is no regular file")
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".fewstep-", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as stream:
            mask = os.umask(0)
            os.umask(mask)
            os.fchmod(stream.fileno(), 0o666 & ~mask)  # mkstemp makes 0600, which would break a shared cache
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    directory = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return target
