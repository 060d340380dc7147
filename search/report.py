"""What a campaign over one NFE leaves to read: a table for the terminal, and a page with pictures."""

import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from rich.table import Table
from torch import Tensor

from search import page
from search.page import Cell, Picture, count, duration, interval_cell, number, percent, ratio_cell, ratio_words
from search.records import Agreement, Scored
from search.result import Result
from solvers import SolverSchedule
from solvers.atomic import write_atomically
from solvers.base_process import name_of
from solvers.commands.show import in_words

NOTE = """<p class=note>RMSE to the teacher over seeds and pixels, in network units, and the median of the
seeds' own; trimmed: without the worst 3&nbsp;% of seeds, beside the share of the squared error that these hold; ratio: RMSE over the
best known solver's, on the same seeds; small: 95&nbsp;% intervals over seeds (bootstrap; of distances of sets, jackknife); NFE: network
evaluations per sample; calls: network calls behind them; AFS: an analytical first step, without the network.</p>"""


def headline(result: Result) -> tuple[str, str]:
    """What came out, in one plain sentence, and the numbers behind it in another."""
    found, aim = result.found, result.found.aim_ratio
    ratio = aim or found.ratio
    teacher = f"the teacher ({result.objective})" if aim else "the teacher"
    rival = f"the best of {len(result.known):,} tuned known solvers"
    budget = f"at {count(result.nfe, 'evaluation')}"
    if ratio.low > 1:
        sentence = f"The found schedule is not better: {budget} it ends {percent(ratio.value - 1)} farther from {teacher} than {rival}."
    elif ratio.high >= 1:
        sentence = f"The found schedule is not shown to be better: {budget} it ends about as far from {teacher} as {rival}."
    else:
        sentence = f"{budget.capitalize()} the found schedule ends {percent(1 - ratio.value)} closer to {teacher} than {rival}."
    numbers = f"{result.objective} ratio {ratio_words(aim)}. " if aim else ""
    numbers += f"RMSE ratio {ratio_words(found.ratio)}, {result.seeds.get('test', 0):,} test seeds."
    if found.lpips_ratio and result.perceptual != result.objective:
        numbers += f" {result.perceptual} ratio {ratio_words(found.lpips_ratio)}."
    return sentence, f"{numbers} The best known solver is {result.baseline.name}."


def table(result: Result) -> Table:
    """The samplers on the test seeds, for the terminal."""
    caption = " ".join(headline(result))
    header, rows = _scores(result)
    kept = [k for k, name in enumerate(header) if name not in ("median", "worst 3 %", "calls")]  # the rest is on the page
    shown = [header[k] for k in kept], [[row[k] for k in kept] for row in rows]
    return page.terminal(*shown, f"{result.model}, {result.seeds.get('test', 0)} test seeds", caption)


def write(
    directory: Path, result: Result, found_schedule: SolverSchedule, known_schedule: SolverSchedule | None, images: Mapping[str, Tensor]
) -> Path:
    """Write report.html and its pictures (also as files, in pictures/). `images`: "teacher", "baseline" and "found", same seeds."""
    made = list(_pictures(result, found_schedule, known_schedule, images))
    for picture in made:
        write_atomically(directory / "pictures" / f"{picture.name}.png", picture.png)
    return write_atomically(directory / "report.html", _page(result, found_schedule, made, images).encode())


def _pictures(result: Result, found: SolverSchedule, known: SolverSchedule | None, images: Mapping[str, Tensor]) -> Iterable[Picture]:
    from search import charts, lanes, strips, style  # here, because the terminal's table should not wait for matplotlib

    kept = any(item.fit is None for item in result.curves)  # at other budgets nobody tuned them
    other = " Grids were tuned at this budget and kept at the others." if kept else ""
    caption = f"Lower is better. Lines are known solvers on the selection seeds.{other} Bars are 95 % intervals on the test seeds."
    yield Picture("work-precision", style.png(charts.work_precision(result)), "Error against evaluations", caption, False)
    caption = "Values on the fit seeds: what the search saw. They choose the finalists and are no result."
    yield Picture("progress", style.png(charts.progress(result)), "The search", caption, False)
    names = ("found", f"best known: {result.baseline.name}")
    caption = "Every marker is a step's first evaluation, its number the step's order. Noise falls from left to right."
    yield Picture("steps", style.png(lanes.steps(found, known, names)), "Where and how it steps", caption, True)
    if {"teacher", "baseline", "found"} <= images.keys() and len(images["teacher"]):
        shown = strips.samples(images["teacher"], images["baseline"], images["found"], ("teacher", "best known", "found"))
        caption = f"The first test seeds, not chosen. The teacher spends {result.teacher_nfe:,} evaluations, the others {result.nfe}."
        yield Picture("samples", style.png(shown), "Same seeds, same noise", caption, True)


def _scores(result: Result) -> tuple[list[str], list[list[Cell]]]:
    everyone = (result.found, result.baseline, *result.others)
    further = {result.perceptual: [s.lpips for s in everyone], result.objective: [s.aim for s in everyone]}
    further = {name: column for name, column in further.items() if any(column)}
    header = ["sampler", "ratio", "RMSE", "median", "worst 3 %", *further, "NFE", "calls"]
    rows = []
    for k, scored in enumerate(everyone):
        row = [Cell(scored.name), _relative(scored, result.baseline), interval_cell(scored.rmse)]
        trimmed = "" if scored.trimmed is None else f"{number(scored.trimmed)} trimmed"
        row += [Cell(number(scored.median), trimmed), Cell("" if scored.worst is None else percent(scored.worst))]
        row += [interval_cell(value) if (value := column[k]) else Cell("") for column in further.values()]
        rows.append([*row, Cell(str(scored.nfe)), Cell(str(scored.nfe * result.calls_per_evaluation))])
    rows[1][0] = Cell(result.baseline.name, "best known")
    return header, rows


def _steps(schedule: SolverSchedule) -> tuple[list[str], list[list[Cell]]]:
    rows = []
    for k, (step, start) in enumerate(zip(schedule.steps, schedule.times[:-1], strict=True), 1):
        told = "its own time" if step.label is None else f"{step.label:.4g}"
        rows.append([Cell(text) for text in (str(k), f"{start:.4g}", f"{step.to:.4g}", in_words(step), told)])
    return ["", "from", "to", "method", "told to the network"], rows


def snippet(result: Result, schedule: SolverSchedule, shape: Sequence[int]) -> str:
    """How to use the file, as Python."""
    noise = ", noise=seeds" if any(step.eta for step in schedule.steps) else ""
    return textwrap.dedent(f"""\
        from solvers import initial, load, sample

        file = load({json.dumps(Path(result.schedule_file).name)})
        seeds = range(16)
        x = initial(seeds, {tuple(shape)}, file.tableau)  # the same seeds give the same noise everywhere
        x = sample(denoiser, x, file.tableau{noise})

        # denoiser(x, at) answers E[x0 | x]; at.label is the time to tell the network""")


def _facts(result: Result) -> dict[str, str]:
    seeds, reads = result.seeds, result.test_reads
    stopped = sum(t.fit is not None and 0 < t.seeds < seeds.get("fit", 0) for t in result.trials)
    lost = sum(t.fit is None and not t.seeds for t in result.trials)
    diverged = sum(t.fit is None for t in result.trials) - lost
    endings = f"{diverged:,} diverged, {stopped:,} stopped early" + (f", {lost:,} given up: their workers died" if lost else "")
    cost = {"search": result.search_cost, "known solvers": result.known_cost}
    return {
        "model": result.model,
        "objective": result.objective,
        "seeds": ", ".join(f"{count:,} {block}" for block, count in seeds.items()) + " (disjoint)",
        "teacher": f"{result.teacher_nfe:,} evaluations, own error {result.teacher_error:.2g} RMSE",
        "network calls per evaluation": str(result.calls_per_evaluation),
        **{
            f"cost, {who}": f"{c.logical:,} evaluations of one sample, {c.physical:,} run (shared beginnings once)"
            for who, c in cost.items()
        },
        "trials": f"{len(result.trials):,} ({endings})",
        **({"predictor": _ranks(result)} if result.ranks else {}),
        **({"learning": result.learned} if result.learned else {}),
        "time": f"{duration(result.seconds)} since it was begun",
        "machine": result.machine,
        "test seeds read": "once" if reads == 1 else f"{reads} times; the intervals do not account for repeated reading",
        "schedule": f"{Path(result.schedule_file).name}, id {result.schedule_id}",
    }


def _ranks(result: Result) -> str:
    def words(taus: Mapping[str, float]) -> str:
        return ", ".join(f"{name} {tau:.2f}" for name, tau in taus.items())

    moments = "; ".join(f"after {r.seen}: {words(r.taus)}" for r in result.ranks)
    asked = f". It abstained from {count(result.abstained, 'proposal')}, where it was shown to rank backwards" if result.abstained else ""
    return f"Kendall's tau of the ranking of the next {result.ranks[0].ahead} trials with their values, {moments}{asked}"


def _agreement(agreement: Agreement) -> str:
    """The section on how alike objectives rank."""
    rows = [[Cell(n), *(Cell(f"{t:.2f}") for t in row)] for n, row in zip(agreement.names, agreement.taus, strict=True)]
    shown = page.table(["", *agreement.names], rows, "Rank correlation of objectives", "words")
    note = f"Kendall's tau over {agreement.trials} trials, from the best to the worst, drawn on {agreement.seeds} selection seeds."
    return page.section("Do the objectives agree?", shown, f"<p class=note>{note}</p>")


def _page(result: Result, schedule: SolverSchedule, made: Sequence[Picture], images: Mapping[str, Tensor]) -> str:
    shape = next((tuple(x.shape[1:]) for x in images.values()), ())
    return page.document(
        f"{result.model}, {count(result.nfe, 'evaluation')}",
        headline(result),
        page.section("On the test seeds", page.table(*_scores(result), "Scores on the test seeds", "first"), NOTE)
        + page.pictures(made)
        + page.section(
            "The steps found",
            f"<p>Times are those of the process <b>{escape(name_of(schedule.process))}</b>, from noise to data.</p>",
            page.table(*_steps(schedule), "Steps of the found schedule", "words"),
        )
        + page.section("Use it", f"<pre tabindex=0>{escape(snippet(result, schedule, shape))}</pre>")
        + (_agreement(result.agreement) if result.agreement else "")
        + page.facts(_facts(result)),
    )


def _relative(scored: Scored, baseline: Scored) -> Cell:
    if scored is baseline:
        return Cell("1")
    return ratio_cell(scored.ratio)
