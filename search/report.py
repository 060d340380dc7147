"""What a campaign leaves to read: a table for the terminal, and one self-contained page with pictures.

The page has no scripts and loads nothing: its pictures are inside, so it can be mailed. Everything in it that came from
outside (names of models, solvers and machines) is escaped.
"""

import base64
import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import NamedTuple

from rich.table import Table
from rich.text import Text
from torch import Tensor

from search.result import Agreement, Interval, Result, Scored
from solvers import SolverSchedule
from solvers.atomic import write_atomically
from solvers.commands.show import in_words
from solvers.process import name_of


class Cell(NamedTuple):
    """A table's entry: what is read first, and what stands small beside it."""

    main: str
    minor: str = ""


class Picture(NamedTuple):
    """A picture of the page. `wide` ones take its whole width."""

    name: str
    png: bytes
    title: str
    caption: str
    wide: bool


def headline(result: Result) -> tuple[str, str]:
    """What came out, in one plain sentence, and the numbers behind it in another."""
    found, aim = result.found, result.found.aim_ratio
    ratio = aim or found.ratio
    teacher = f"the teacher ({result.objective})" if aim else "the teacher"
    rival = f"the best of {len(result.known):,} tuned known solvers"
    budget = f"at {_count(result.nfe, 'evaluation')}"
    if ratio.low > 1:
        sentence = f"The found schedule is not better: {budget} it ends {_percent(ratio.value - 1)} farther from {teacher} than {rival}."
    elif ratio.high >= 1:
        sentence = f"The found schedule is not shown to be better: {budget} it ends about as far from {teacher} as {rival}."
    else:
        sentence = f"{budget.capitalize()} the found schedule ends {_percent(1 - ratio.value)} closer to {teacher} than {rival}."
    numbers = f"{result.objective} ratio {_ratio(aim)}. " if aim else ""
    numbers += f"RMSE ratio {_ratio(found.ratio)}, {result.seeds.get('test', 0):,} test seeds."
    if found.lpips_ratio:
        numbers += f" LPIPS ratio {_ratio(found.lpips_ratio)}."
    return sentence, f"{numbers} The best known solver is {result.baseline.name}."


def table(result: Result) -> Table:
    """The samplers on the test seeds, for the terminal."""
    caption = " ".join(headline(result))
    shown = Table(title=Text(f"{result.model}, {result.seeds.get('test', 0)} test seeds"), caption=Text(caption), caption_justify="left")
    header, rows = _scores(result)
    for number, name in enumerate(header):
        shown.add_column(name, justify="right" if number else "left", overflow="fold")
    for number, row in enumerate(rows):
        cells = [Text.assemble(cell.main, (f"\n{cell.minor}", "dim")) if cell.minor else Text(cell.main) for cell in row]
        shown.add_row(*cells, style="bold" if number == 0 else "")
    return shown


def write(
    directory: Path, result: Result, found_schedule: SolverSchedule, known_schedule: SolverSchedule | None, images: Mapping[str, Tensor]
) -> Path:
    """Write report.html and its pictures (also as files, in pictures/). `images`: "teacher", "baseline" and "found", same seeds."""
    made = list(_pictures(result, found_schedule, known_schedule, images))
    for picture in made:
        write_atomically(directory / "pictures" / f"{picture.name}.png", picture.png)
    return write_atomically(directory / "report.html", _page(result, found_schedule, made, images).encode())


def _pictures(result: Result, found: SolverSchedule, known: SolverSchedule | None, images: Mapping[str, Tensor]) -> Iterable[Picture]:
    from search import pictures  # here, because the terminal's table should not wait for matplotlib

    other = " Grids were tuned at this budget and kept at the others." if len({item.nfe for item in result.curves}) > 1 else ""
    caption = f"Lower is better. Lines are known solvers on the selection seeds.{other} Bars are 95 % intervals on the test seeds."
    yield Picture("work-precision", pictures.png(pictures.work_precision(result)), "Error against evaluations", caption, False)
    caption = "Values on the fit seeds: what the search saw. They choose the finalists and are no result."
    yield Picture("progress", pictures.png(pictures.progress(result)), "The search", caption, False)
    names = ("found", f"best known: {result.baseline.name}")
    caption = "Every marker is a step's first evaluation, its number the step's order. Noise falls from left to right."
    yield Picture("steps", pictures.png(pictures.steps(found, known, names)), "Where and how it steps", caption, True)
    if {"teacher", "baseline", "found"} <= images.keys() and len(images["teacher"]):
        shown = pictures.samples(images["teacher"], images["baseline"], images["found"], ("teacher", "best known", "found"))
        caption = f"The first test seeds, not chosen. The teacher spends {result.teacher_nfe:,} evaluations, the others {result.nfe}."
        yield Picture("samples", pictures.png(shown), "Same seeds, same noise", caption, True)


def _scores(result: Result) -> tuple[list[str], list[list[Cell]]]:
    everyone = (result.found, result.baseline, *result.others)
    further = {"LPIPS": [s.lpips for s in everyone], result.objective: [s.aim for s in everyone]}
    further = {name: column for name, column in further.items() if any(column)}
    header = ["sampler", "ratio", "RMSE", "median", "worst 3 %", *further, "NFE", "calls"]
    rows = []
    for k, scored in enumerate(everyone):
        row = [Cell(scored.name), _relative(scored, result.baseline), _interval(scored.rmse)]
        trimmed = "" if scored.trimmed is None else f"{_number(scored.trimmed)} trimmed"
        row += [Cell(_number(scored.median), trimmed), Cell("" if scored.worst is None else _percent(scored.worst))]
        row += [_interval(value) if (value := column[k]) else Cell("") for column in further.values()]
        rows.append([*row, Cell(str(scored.nfe)), Cell(str(scored.nfe * result.calls_per_evaluation))])
    rows[1][0] = Cell(result.baseline.name, "best known")
    return header, rows


def _steps(schedule: SolverSchedule) -> tuple[list[str], list[list[Cell]]]:
    rows = []
    for number, (step, start) in enumerate(zip(schedule.steps, schedule.times[:-1], strict=True), 1):
        told = "its own time" if step.label is None else f"{step.label:.4g}"
        rows.append([Cell(text) for text in (str(number), f"{start:.4g}", f"{step.to:.4g}", in_words(step), told)])
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
        "trials": f"{len(result.trials):,} ({sum(t.fit is None for t in result.trials):,} diverged, {stopped:,} stopped early)",
        **({"predictor": _ranks(result)} if result.ranks else {}),
        **({"learning": result.learned} if result.learned else {}),
        "time": _duration(result.seconds),
        "machine": result.machine,
        "test seeds read": "once" if reads == 1 else f"{reads} times; the intervals do not account for repeated reading",
        "schedule": f"{Path(result.schedule_file).name}, id {result.schedule_id}",
    }


def _ranks(result: Result) -> str:
    def words(taus: Mapping[str, float]) -> str:
        return ", ".join(f"{name} {tau:.2f}" for name, tau in taus.items())

    moments = "; ".join(f"after {r.seen}: {words(r.taus)}" for r in result.ranks)
    asked = f". It abstained from {_count(result.abstained, 'proposal')}, where it was shown to rank backwards" if result.abstained else ""
    return f"Kendall's tau of the ranking of the next {result.ranks[0].ahead} trials with their values, {moments}{asked}"


def _agreement(agreement: Agreement) -> str:
    """The section on how alike objectives rank."""
    rows = [[Cell(n), *(Cell(f"{t:.2f}") for t in row)] for n, row in zip(agreement.names, agreement.taus, strict=True)]
    table = _html(["", *agreement.names], rows, "Rank correlation of objectives", "words")
    note = f"Kendall's tau over {agreement.trials} trials, from the best to the worst, drawn on {agreement.seeds} selection seeds."
    return f"<section><h2>Do the objectives agree?</h2>{table}<p class=note>{note}</p></section>"


def _page(result: Result, schedule: SolverSchedule, made: Sequence[Picture], images: Mapping[str, Tensor]) -> str:
    sentence, numbers = headline(result)
    shape = next((tuple(x.shape[1:]) for x in images.values()), ())
    facts = "".join(f"<tr><th scope=row>{escape(name)}<td>{escape(value)}" for name, value in _facts(result).items())
    return PAGE.substitute(
        title=escape(f"{result.model}, {_count(result.nfe, 'evaluation')}"),
        sentence=escape(sentence).replace(" %", "&nbsp;%"),
        numbers=escape(numbers).replace(" %", "&nbsp;%"),
        scores=_html(*_scores(result), "Scores on the test seeds", "first"),
        pictures="".join(map(_html_picture, made)),
        process=escape(name_of(schedule.process)),
        steps=_html(*_steps(schedule), "Steps of the found schedule", "words"),
        snippet=escape(snippet(result, schedule, shape)),
        agreement=_agreement(result.agreement) if result.agreement else "",
        facts=facts,
    )


def _html(header: Sequence[str], rows: Iterable[Sequence[Cell]], label: str, kind: str) -> str:
    head = "".join(f"<th scope=col>{escape(name)}" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(c.main)}{c.minor and f'<small>{escape(c.minor)}</small>'}" for c in row) for row in rows)
    return f'<div class=scroll tabindex=0 role=region aria-label="{label}"><table class={kind}><thead><tr>{head}<tbody>{body}</table></div>'


def _html_picture(picture: Picture) -> str:
    source = base64.b64encode(picture.png).decode()
    image = f'<img src="data:image/png;base64,{source}" alt="{escape(picture.title)}: {escape(picture.caption)}">'
    box = f'<div class=scroll tabindex=0 role=region aria-label="{escape(picture.title)}">{image}</div>' if picture.wide else image
    kind = " class=wide" if picture.wide else ""
    return f"<figure{kind}><h2>{escape(picture.title)}</h2>{box}<figcaption>{escape(picture.caption)}</figcaption></figure>"


def _number(value: float) -> str:
    return f"{value:#.3g}".rstrip(".")


def _ratio(interval: Interval) -> str:
    return f"{interval.value:.2f}, 95 % interval {interval.low:.2f} to {interval.high:.2f}"


def _interval(interval: Interval) -> Cell:
    return Cell(_number(interval.value), f"{_number(interval.low)} to {_number(interval.high)}")


def _relative(scored: Scored, baseline: Scored) -> Cell:
    if scored is baseline:
        return Cell("1")
    return Cell(f"{scored.ratio.value:.2f}", f"{scored.ratio.low:.2f} to {scored.ratio.high:.2f}")


def _percent(part: float) -> str:
    return f"{100 * part:.0f} %" if part >= 0.1 else f"{100 * part:.2g} %"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


PAGE = Template("""<!doctype html>
<html lang=en>
<meta charset=utf-8>
<meta name=viewport content="width=device-width, initial-scale=1">
<meta name=color-scheme content="light dark">
<meta http-equiv=Content-Security-Policy content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>Fewstep: $title</title>
<style>
:root { --paper: #fff; --ink: #1d1f21; --soft: #5f6670; --line: #dfe2e6; --wash: #f6f7f8; --found: #b84e00; --shade: #0002 }
@media (prefers-color-scheme: dark) {
  :root { --paper: #16181b; --ink: #e6e7e9; --soft: #9aa1aa; --line: #33373d; --wash: #1f2226; --found: #ff9a4d; --shade: #000a }
}
* { box-sizing: border-box }
body { margin: 0 auto; padding: 2.5rem clamp(1rem, 4vw, 3rem) 4rem; max-width: 76rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; overflow-wrap: anywhere }
header { max-width: 52rem; margin-bottom: 2rem }
h1 { font-size: clamp(1.45rem, 1rem + 2vw, 2.2rem); line-height: 1.22; font-weight: 650; margin: .3rem 0 .8rem; text-wrap: balance }
h2 { font-size: 1.1rem; font-weight: 650; margin: 0 0 .6rem }
p { margin: 0 0 .8rem }
header p, figcaption, .note, small { color: var(--soft) }
section, figure { margin: 0 0 2.75rem; min-width: 0 }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 28rem), 1fr)); gap: 0 2.5rem }
.wide { grid-column: 1 / -1 }
.scroll { overflow-x: auto; background: linear-gradient(90deg, var(--paper) 40%, transparent) left / 3rem 100% local no-repeat,
  linear-gradient(270deg, var(--paper) 40%, transparent) right / 3rem 100% local no-repeat,
  linear-gradient(90deg, var(--shade), transparent) left / .8rem 100% no-repeat,
  linear-gradient(270deg, var(--shade), transparent) right / .8rem 100% no-repeat }
.scroll:focus-visible { outline: 2px solid var(--found); outline-offset: 3px }
img { display: block; width: 100%; height: auto; background: #fff; border: 1px solid var(--line); border-radius: 8px }
.wide img { min-width: 40rem }
figcaption, .note { margin-top: .6rem; font-size: .9rem; max-width: 46rem }
table { border-collapse: collapse; font-size: .94rem; font-variant-numeric: tabular-nums; overflow-wrap: normal }
thead th { color: var(--soft); font-weight: 500; border-bottom: 1px solid var(--line); vertical-align: bottom }
th, td { padding: .5rem .9rem .5rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line) }
.scroll table { min-width: 100% }
.scroll th, .scroll td { white-space: nowrap }
small { display: block; font-size: .82em }
.first th:not(:first-child), .first td:not(:first-child) { text-align: right }
.first td:first-child { white-space: normal; min-width: 11rem }
.first tbody tr:first-child { font-weight: 650; color: var(--found) }
.first tbody tr:first-child small { font-weight: 400 }
.facts th { font-weight: 400; color: var(--soft); width: min(14rem, 36vw) }
.facts td { overflow-wrap: anywhere }
pre { margin: 0; padding: 1rem 1.2rem; background: var(--wash); border: 1px solid var(--line); border-radius: 8px; overflow-x: auto;
  font: .88rem/1.55 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace }
</style>
<header><p>Fewstep, $title</p><h1>$sentence</h1><p>$numbers</p></header>
<section><h2>On the test seeds</h2>$scores<p class=note>RMSE to the teacher over seeds and pixels, in network units, and the median of the
seeds' own; trimmed: without the worst 3&nbsp;% of seeds, beside the share of the squared error that these hold; ratio: RMSE over the best
known solver's, on the same seeds; small: 95&nbsp;% bootstrap intervals over seeds; NFE: network evaluations per sample; calls: network
calls behind them.</p></section>
<div class=pictures>$pictures</div>
<section><h2>The steps found</h2><p>Times are those of the process <b>$process</b>, from noise to data.</p>$steps</section>
<section><h2>Use it</h2><pre tabindex=0>$snippet</pre></section>
$agreement
<section><h2>Facts</h2><table class=facts>$facts</table></section>
</html>
""")
