"""`python -m solvers COMMAND`: look at schedule files, prove them, and take them from and to other programs."""

import argparse
import json
import sys
from pathlib import Path

import msgspec

from .commands.check import check
from .commands.diff import diff
from .commands.export import KINDS, export
from .commands.import_ import KINDS as SOURCES
from .commands.import_ import import_
from .commands.interpolate import interpolate
from .commands.show import show
from .errors import ScheduleError
from .file import load
from .importers.document import Asked, process_of
from .records import ScheduleFile


def parser() -> argparse.ArgumentParser:
    """The words of the command line."""
    top = argparse.ArgumentParser(prog="python -m solvers", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    for name, words in (("show", "draw the steps and say what they do"), ("check", "prove a file")):
        commands.add_parser(name, help=words).add_argument("file", type=Path)
    two = commands.add_parser("diff", help="how two schedules differ")
    two.add_argument("file", type=Path)
    two.add_argument("other", type=Path)
    out = commands.add_parser("export", help="write what another program reads")
    out.add_argument("file", type=Path)
    out.add_argument("--to", required=True, choices=KINDS)
    out.add_argument("destination", type=Path)
    out.add_argument(
        "--prediction",
        default="",
        help="for diffusers: what the pipeline's network answers, eps, x0, v or flow (default: what the file says)",
    )
    new = commands.add_parser("interpolate", help="the same schedule for another number of evaluations")
    new.add_argument("file", type=Path)
    new.add_argument("--nfe", type=int, required=True)
    new.add_argument("destination", type=Path)
    into = commands.add_parser("import", help="make a schedule file from another tool's JSON")
    into.add_argument("file", type=Path)
    into.add_argument("--from", dest="kind", required=True, choices=SOURCES)
    into.add_argument("destination", type=Path)
    into.add_argument("--process", help="ve, vp-linear, vp-cosine, flow, or a diffusers scheduler_config.json")
    into.add_argument("--sampler", default="", help="for lists of times: a sampler's name (default: ddim)")
    into.add_argument("--nfe", type=int, help="for schedulers: their num_inference_steps")
    into.add_argument("--prediction", default="", choices=("", "eps", "x0", "v", "flow"), help="what the network answers")
    commands.add_parser("schema", help="print the JSON Schema of a file")
    return top


def answer(asked: argparse.Namespace) -> list[str]:
    """Run a command. Raises ScheduleError."""
    match asked.command:
        case "schema":
            return [json.dumps(msgspec.json.schema(ScheduleFile), indent=1)]
        case "show":
            return show(load(asked.file))
        case "check":
            return check(load(asked.file))
        case "diff":
            return diff(load(asked.file), load(asked.other))
        case "interpolate":
            return interpolate(load(asked.file), asked.nfe, asked.destination)
        case "import":
            said = Asked(asked.process and process_of(asked.process), asked.sampler, asked.nfe, asked.prediction)
            return import_(asked.file, asked.kind, said, asked.destination)
        case _:
            return export(load(asked.file), asked.file, asked.to, asked.destination, asked.prediction)


def main() -> None:
    """Parse, run, and end a user's mistake with one sentence and status 1."""
    try:
        lines = answer(parser().parse_args())
    except ScheduleError as error:
        sys.exit(f"error: {error}")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
