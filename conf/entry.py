"""How the two scripts start: Hydra's own refusals end like all others, in one line and a status."""

import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

OPEN = ("model.options.", "sampler.options.", "space.among.", "space.counts.", "space.numbers.", "space.knobs.")


def start(main: Callable[[], None], lists: Sequence[str] = ()) -> None:
    """Run a function that Hydra has wrapped. `lists`: the settings that may be given as NAME=A,B, which to Hydra means two runs."""
    sys.argv[1:] = [spelled for word in sys.argv[1:] for spelled in as_hydra_spells(word, lists)]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever is asked to end, as by Slurm or Kubernetes, ends as by Ctrl-C
    sys.unraisablehook = ask_again
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # or Hydra prints a page of its own
    try:
        main()
    except (HydraException, OmegaConfBaseException) as error:
        refuse(error)


def plain(config: DictConfig) -> dict[str, Any]:
    """The settings as a plain dictionary, their ${...} filled in: here, where Hydra does not yet count their errors as the script's."""
    try:
        return OmegaConf.to_container(config, resolve=True)  # pyright: ignore[reportReturnType]
    except OmegaConfBaseException as error:
        refuse(error)


def refuse(error: Exception) -> NoReturn:
    """End with what Hydra says, in one line. Of a setting that there is not it says how to add one, which nothing would read."""
    told = " ".join(str(error).split("Config search path")[0].split())
    if unknown := re.match("Could not override ('.*?')", told):
        told = f"There is no setting {unknown[1]} here; --cfg job prints those that there are."
    sys.exit(f"error: {told}")


def ask_again(unraisable: "sys.UnraisableHookArgs") -> None:
    """For sys.unraisablehook: Python drops a KeyboardInterrupt that arrives within a destructor; here it comes once more, shortly after."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
    else:
        sys.__unraisablehook__(unraisable)


def as_hydra_spells(word: str, lists: Sequence[str] = ()) -> list[str]:
    """A word of the command line as Hydra wants it: what may hold anything takes new keys, and own models have a group."""
    name, _, value = word.partition("=")
    if value == "null" and (Path(__file__).parent / name).is_dir():
        return [f"~{name}"]
    if name in lists and "," in value and not value.startswith("["):
        return [f"{name}=[{value}]"]
    if name == "model" and ":" in value and value[0] not in "{'\"":
        quoted = value.replace("\\", "\\\\").replace("'", "\\'")
        return ["model=own", f"model.name='{quoted}'"]
    return [f"++{word}"] if f"{name}.".startswith(OPEN) else [word]
