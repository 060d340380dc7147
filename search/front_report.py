"""What a campaign over several NFE leaves to read: a table for the terminal, and a page about the front.

Every NFE has a report of its own besides (search.report), in a directory inside.
"""

from pathlib import Path

from rich.table import Table

from search import page
from search.page import Cell, Picture, count, duration, interval_cell, number, ratio_cell
from search.result import Front
from solvers.atomic import write_atomically

NOTE = """<p class=note>RMSE to the teacher over seeds and pixels, in network units, on the test seeds; ratio: RMSE over the best known
solver's, on the same seeds; small: 95&nbsp;% bootstrap intervals over seeds; AFS: an analytical first step, without the network.
Every file has a report beside it.</p>"""


def headline(front: Front) -> tuple[str, str]:
    """What came out, in one plain sentence, and the numbers behind it in another."""
    judged = {part.nfe: part.found.aim_ratio or part.found.ratio for part in front.parts}  # by the campaign's objective
    better = [nfe for nfe, ratio in judged.items() if ratio.high < 1]
    worse = [nfe for nfe, ratio in judged.items() if ratio.low > 1]
    ratios = [ratio.value for ratio in judged.values()]
    sentence = f"The found schedule ends closer to the teacher ({front.objective}) than the best tuned known solver at "
    sentence += f"{len(better)} of {len(ratios)} budgets"
    sentence += f", and farther at {', '.join(map(str, worse))} evaluations." if worse else "."
    numbers = f"Ratios {min(ratios):.2f} to {max(ratios):.2f}, {front.seeds.get('test', 0):,} test seeds."
    gained = front.hypervolume[-1].hypervolume
    return sentence, f"{numbers} Hypervolume on the fit seeds {number(gained)}, of known solvers {number(front.known_hypervolume)}."


def table(front: Front) -> Table:
    """Found and best known at every NFE, for the terminal."""
    rows = [{name: cell for name, cell in row.items() if name != "file"} for row in _scores(front)]  # files are told below it
    return page.terminal(
        [*rows[0]],
        [[*row.values()] for row in rows],
        f"{front.model}, {front.seeds.get('test', 0)} test seeds",
        " ".join(headline(front)),
        None,
    )


def write(directory: Path, front: Front) -> Path:
    """Write report.html and its pictures (also as files, in pictures/)."""
    from search import charts, style  # here, because the terminal's table should not wait for matplotlib

    reach = f"{front.reference[0]} evaluations and the error {number(front.reference[1])}"
    made = [
        Picture(
            "front",
            style.png(charts.front(front)),
            "Error against evaluations",
            "Lower is better. Both were chosen on the selection seeds; bars are 95 % intervals on the test seeds.",
            False,
        ),
        Picture(
            "hypervolume",
            style.png(charts.hypervolume(front)),
            "The search",
            f"Area between the best errors so far and {reach}, over NFE and log10 error, on the fit seeds: what the search saw, no result.",
            False,
        ),
    ]
    for picture in made:
        write_atomically(directory / "pictures" / f"{picture.name}.png", picture.png)
    rows = _scores(front)
    scores = page.table([*rows[0]], [[*row.values()] for row in rows], "Scores on the test seeds", "front")
    title = f"{front.model}, {front.parts[0].nfe} to {count(front.parts[-1].nfe, 'evaluation')}"
    whole = page.document(
        title, headline(front), page.section("On the test seeds", scores, NOTE) + page.pictures(made) + page.facts(_facts(front))
    )
    return write_atomically(directory / "report.html", whole.encode())


def _scores(front: Front) -> list[dict[str, Cell]]:
    """A row for every NFE, by column."""
    perceptual = all(part.found.lpips_ratio for part in front.parts)
    return [
        {
            "NFE": Cell(str(part.nfe)),
            **({f"{front.objective} ratio": ratio_cell(part.found.aim_ratio)} if part.found.aim_ratio else {}),
            "RMSE ratio": ratio_cell(part.found.ratio),
            **({"LPIPS ratio": ratio_cell(part.found.lpips_ratio)} if perceptual and part.found.lpips_ratio else {}),
            "RMSE found": interval_cell(part.found.rmse),
            "RMSE best known": interval_cell(part.baseline.rmse),
            "best known": Cell(part.baseline.name),
            "file": Cell("/".join(Path(part.schedule_file).parts[-2:])),
        }
        for part in front.parts
    ]


def _facts(front: Front) -> dict[str, str]:
    trials = {part.nfe: part.trials for part in front.parts}
    reads = max(part.test_reads for part in front.parts)
    cost = {"search": front.search_cost, "known solvers": front.known_cost}
    return {
        "model": front.model,
        "objective": front.objective,
        "seeds": ", ".join(f"{n:,} {block}" for block, n in front.seeds.items()) + " (disjoint)",
        "teacher": f"{front.teacher_nfe:,} evaluations, own error {front.teacher_error:.2g} RMSE",
        "trials": f"{sum(trials.values()):,}, of every NFE {front.generation} in turn: "
        + ", ".join(f"{n:,} at {nfe}" for nfe, n in trials.items()),
        "known solvers": ", ".join(f"{part.known:,} at {part.nfe}" for part in front.parts),
        **{f"cost, {who}": f"{c.logical:,} evaluations of one sample, {c.physical:,} run" for who, c in cost.items()},
        **({"learning": f"finalists polished at level {front.learner.level}"} if front.learner else {}),
        "time": f"{duration(front.seconds)} since it was begun",
        "machine": front.machine,
        "test seeds read": "once for every NFE"
        if reads == 1
        else f"up to {reads} times; the intervals do not account for repeated reading",
        **{f"id at {part.nfe}": part.schedule_id for part in front.parts},
    }
