"""Commands as a shell runs them, each a fork of a process that has imported what they do, which takes seconds."""

import multiprocessing
import os
import runpy
import shutil
import signal
import sys
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from subprocess import CompletedProcess

ROOT = Path(__file__).parents[1]
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["hydra", "search.run", "search.learn", "search.front_report", "solvers.commands.show"])


def run(*words: object, cwd: Path = ROOT, **environment: str) -> CompletedProcess[str]:
    """A command to its end: a script of the repository or "-m" and a module, and its words."""
    return Command(*words, cwd=cwd, **environment).wait()


class Command:
    """A command that is running."""

    def __init__(self, *words: object, cwd: Path = ROOT, **environment: str) -> None:
        self.words = [str(word) for word in words]
        self._said = Path(tempfile.mkdtemp(prefix="fewstep-command-"))
        weakref.finalize(self, shutil.rmtree, self._said)
        self._process = _forks.Process(target=_become, args=(self.words, cwd, environment, self._said))
        self._process.start()

    @property
    def pid(self) -> int:
        """Its number, to the machine."""
        return self._process.pid

    def poll(self) -> int | None:
        """Its exit status, minus a signal's number if that ended it; None while it is running."""
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def wait(self, timeout: float = 300) -> CompletedProcess[str]:
        """Its status, and what it said. Seconds after which it is killed, and has failed."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            self._process.kill()
            raise TimeoutError(f"{' '.join(self.words)} took more than {timeout:g} seconds")
        out, err = ((self._said / name).read_text() for name in ("1", "2"))
        return CompletedProcess(self.words, self._process.exitcode, out, err)


def _become(words: list[str], cwd: Path, environment: Mapping[str, str], said: Path) -> None:
    for number in (1, 2):
        os.dup2(os.open(said / str(number), os.O_WRONLY | os.O_CREAT), number)
    os.chdir(cwd)
    os.environ.update(environment)
    sys.argv = words[1:] if words[0] == "-m" else words
    if words[0] == "-m":
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(str(ROOT / words[0]), run_name="__main__")
