"""`python -m solvers show FILE` says what a schedule file does, `check FILE` proves it, `schema` prints the JSON Schema."""

import argparse
import json
import sys

import msgspec

from .errors import ScheduleError
from .file import ScheduleFile, load, recipe_distance
from .golden import golden_run
from .process import name_of


def show(file: ScheduleFile) -> str:
    """The file in words: what it is for, its steps or rows, its scores."""
    process, fitted = file.process, file.fitted_for
    lines = [f"{file.executable.nfe} evaluations on process {name_of(process)}, id {file.id[:16]}"]
    if fitted is not None:
        guidance = "" if fitted.guidance is None else f", guidance {fitted.guidance:g}"
        lines.append(f"fitted for {fitted.model or 'an unnamed model'}{guidance}; teacher {fitted.teacher or 'not said'}")
    if file.recipe is not None:
        times = file.recipe.times
        for i, step in enumerate(file.recipe.steps):
            words = [step.method, f"order {step.order}", step.space, step.domain, step.moment]
            words += [f"corrector {step.corrector}"] if step.corrector else []
            words += [f"relax {step.relax:.3f}"] if step.relax != 1 else []
            words += [f"label {step.label:.5g}"] if step.label is not None else []
            words += [f"{step.noise} eta {step.eta:g}"] if step.eta else []
            lines.append(f"  step {i}: {times[i]:.5g} -> {step.to:.5g}   {', '.join(words)}")
    else:
        lines += [f"  row {row.slot}: {' + '.join(f'{c:.5g} {slot}' for slot, c in row.terms)}" for row in file.executable.rows]
    for score in file.scores:
        ratio = "" if score.ratio is None else f", {score.ratio:.3f} of {score.baseline} ({score.ratio_low:.3f} to {score.ratio_high:.3f})"
        lines.append(f"{score.metric} {score.value:.4g} ({score.low:.4g} to {score.high:.4g}) on {score.seeds} test seeds{ratio}")
    return "\n".join(lines)


def check(file: ScheduleFile) -> list[str]:
    """What was proved, a sentence each; raises ScheduleError at the first thing that fails. Loading has checked hashes and rows."""
    proved = ["its hashes, structure and rows are sound"]
    states = golden_run(file.tableau).states
    if len(states) != len(file.golden.states):
        raise ScheduleError("the golden example has another number of states than the rows.")
    worst = max(abs(a - b) / max(1.0, abs(b)) for a, b in zip(states, file.golden.states, strict=True))
    if not worst <= 1e-9:
        raise ScheduleError(f"the golden example differs by {worst:.3g} when its rows are executed.")
    proved.append(f"its golden example is reproduced within {worst:.1g}")
    if file.recipe is None:
        return [*proved, "it carries no recipe to compare with"]
    distance = recipe_distance(file.tableau, file.recipe)
    if not distance <= 1e-10:
        raise ScheduleError(
            f"its recipe, compiled by this release, differs from its rows by {distance:.3g}; the rows are what is executed."
        )
    return [*proved, f"its recipe compiles to its rows within {distance:.1g}"]


def main() -> None:
    """Parse, run, and end a user's mistake with one sentence and status 1."""
    parser = argparse.ArgumentParser(prog="python -m solvers", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("show", "check"):
        verbs.add_parser(verb).add_argument("file")
    verbs.add_parser("schema")
    asked = parser.parse_args()
    if asked.verb == "schema":
        sys.stdout.write(json.dumps(msgspec.json.schema(ScheduleFile), indent=1) + "\n")
        return
    try:
        file = load(asked.file)
        lines = [show(file)] if asked.verb == "show" else check(file)
    except ScheduleError as error:
        sys.exit(f"error: {error}")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
