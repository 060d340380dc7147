"""What reports are made of: tables for the terminal, and a page.

The page is one file with no scripts that loads nothing, so it can be mailed: its pictures are inside. Everything in it that came
from outside (names of models, solvers and machines) is escaped here.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from string import Template
from typing import NamedTuple

from rich.table import Table
from rich.text import Text

from search.records import Interval


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


def document(title: str, headline: tuple[str, str], body: str) -> str:
    """The whole document around a body."""
    sentence, numbers = (escape(words).replace(" %", "&nbsp;%") for words in headline)
    return PAGE.substitute(title=escape(title), sentence=sentence, numbers=numbers, body=body)


def section(title: str, *parts: str) -> str:
    """A section of the body."""
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>\n"


def facts(said: Mapping[str, str]) -> str:
    """The last section: what else there is to know."""
    rows = "".join(f"<tr><th scope=row>{escape(name)}<td>{escape(value)}" for name, value in said.items())
    return section("Facts", f"<table class=facts>{rows}</table>")


def pictures(made: Iterable[Picture]) -> str:
    """The pictures, two in a row where there is room."""
    return f"<div class=pictures>{''.join(map(_picture, made))}</div>\n"


def table(header: Sequence[str], rows: Iterable[Sequence[Cell]], label: str, kind: str) -> str:
    """A table that scrolls where the page is narrow; kind: its class, "first" where the first row stands out."""
    head = "".join(f"<th scope=col>{escape(name)}" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(c.main)}{c.minor and f'<small>{escape(c.minor)}</small>'}" for c in row) for row in rows)
    return f'<div class=scroll tabindex=0 role=region aria-label="{label}"><table class={kind}><thead><tr>{head}<tbody>{body}</table></div>'


def terminal(header: Sequence[str], rows: Iterable[Sequence[Cell]], title: str, caption: str, bold: int | None = 0) -> Table:
    """The same table for the terminal; bold: the row that stands out."""
    shown = Table(title=Text(title), caption=Text(caption), caption_justify="left")
    for k, name in enumerate(header):
        shown.add_column(name, justify="right" if k else "left", overflow="fold")
    for k, row in enumerate(rows):
        cells = [Text.assemble(cell.main, (f"\n{cell.minor}", "dim")) if cell.minor else Text(cell.main) for cell in row]
        shown.add_row(*cells, style="bold" if k == bold else "")
    return shown


def _picture(picture: Picture) -> str:
    source = base64.b64encode(picture.png).decode()
    image = f'<img src="data:image/png;base64,{source}" alt="{escape(picture.title)}: {escape(picture.caption)}">'
    box = f'<div class=scroll tabindex=0 role=region aria-label="{escape(picture.title)}">{image}</div>' if picture.wide else image
    kind = " class=wide" if picture.wide else ""
    return f"<figure{kind}><h2>{escape(picture.title)}</h2>{box}<figcaption>{escape(picture.caption)}</figcaption></figure>"


def number(value: float) -> str:
    """Three digits."""
    return f"{value:#.3g}".rstrip(".")


def ratio_words(interval: Interval) -> str:
    """A ratio and its interval."""
    return f"{interval.value:.2f}, 95 % interval {interval.low:.2f} to {interval.high:.2f}"


def interval_cell(interval: Interval) -> Cell:
    """An estimate, its interval small beside it."""
    return Cell(number(interval.value), f"{number(interval.low)} to {number(interval.high)}")


def ratio_cell(interval: Interval) -> Cell:
    """A ratio, its interval small beside it."""
    return Cell(f"{interval.value:.2f}", f"{interval.low:.2f} to {interval.high:.2f}")


def percent(part: float) -> str:
    """A part of one."""
    return f"{100 * part:.0f} %" if part >= 0.1 else f"{100 * part:.2g} %"


def count(number: int, noun: str) -> str:
    """So many of them."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """In hours, minutes or seconds."""
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
$body</html>
""")
