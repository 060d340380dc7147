"""The report: what its page says, that it is safe to mail, and that its pictures show something. All numbers are made up."""

import base64
import io
import math
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

from search import charts, lanes, report, strips, style
from search.records import Cost, Finished, Interval, Known, Scored
from search.result import Result
from solvers import SolverSchedule, Step, compile, preset, process, save

NFE = 5
VE = process("ve", sigma_max=80.0)
INTERVAL = Interval(0.02, 0.018, 0.023)
TIMES = [80.0, 19.0, 5.2, 1.4, 0.31, 0.02]
KNOWN = preset("dpmpp-2m", TIMES, VE)
FOUND = SolverSchedule(
    VE,
    80.0,
    (
        Step(to=14.1, space="eps", corrector=1),
        Step(to=4.6, order=2, label=16.0, relax=1.07, corrector=2, moment="bh2"),
        Step(to=1.7, order=3, space="flow", domain="t", label=4.1),
        Step(to=0.42, order=2, domain="index", space="eps", corrector=3),
        Step(to=0.02, order=4, label=0.37, relax=0.93),
    ),
)


def scored(name: str, rmse: float, ratio: float, spread: float = 0.03) -> Scored:
    """One made-up row."""
    lpips = Interval(rmse / 2, rmse / 2.2, rmse / 1.8)
    return Scored(
        name,
        NFE,
        Interval(rmse, rmse * 0.94, rmse * 1.06),
        rmse * 0.8,
        Interval(ratio, ratio - spread, ratio + spread),
        lpips,
        Interval(ratio, ratio - spread, ratio + spread),
        trimmed=rmse * 0.9,
        worst=0.25,
    )


def made_up(ratio: float = 0.55, baseline: str = "dpmpp-2m on karras (moment exact, rho 5.3)", model: str = "digits") -> Result:
    """A plausible campaign."""
    draw = np.random.default_rng(0)
    solvers = {"dpmpp-2m": 1.0, "unipc-2": 1.1, "ipndm": 1.25, "ddim": 3.0}
    curves = [
        Known(solver, {}, "karras", {"rho": 5.3}, n, select=0.11 * factor * (5 / n) ** (1 if solver == "ddim" else 2.1))
        for solver, factor in solvers.items()
        for n in range(2, 11)
    ]
    values = [
        *(0.11 * (1 + draw.exponential(0.8)) for _ in range(16)),
        *(0.115 * ratio + 0.1 * draw.exponential(1 - i / 900) for i in range(784)),
    ]
    trials = [Finished(i, float(v), origin="unipc-2 on karras" if i < 16 else "") for i, v in enumerate(values)]
    best = min(trials, key=lambda t: t.fit or math.inf).number
    trials[best] = msgspec.structs.replace(trials[best], select=0.06)
    trials[40], trials[41] = Finished(40, None, seeds=64), Finished(41, 80.0)
    return Result(
        model=model,
        nfe=NFE,
        objective="rmse",
        found=scored("found", 0.11 * ratio, ratio),
        baseline=scored(baseline, 0.11, 1.0, 0.0),
        others=(scored("unipc-2 on polynomial (power 3.1)", 0.121, 1.1), scored("ddim on uniform", 0.33, 3.0)),
        curves=tuple(curves),
        known=tuple(Known("dpmpp-2m", {}, "karras", {"rho": 1 + i / 40}, NFE, fit=0.11 + i / 1e4, select=0.11) for i in range(1155)),
        trials=tuple(trials),
        schedule_file=f"/somewhere/private/{model}.schedule.json",
        schedule_id="5f0c" * 16,
        teacher_nfe=256,
        teacher_error=4.1e-4,
        seeds={"fit": 64, "select": 128, "test": 256},
        calls_per_evaluation=2,
        search_cost=Cost(256_000, 211_200),
        known_cost=Cost(372_000, 301_000),
        seconds=754.2,
        test_reads=1,
        machine="x86_64, 2 of 2 cores, torch 2.9",
        perceptual="lpips-alex",
    )


def images(*shape: int) -> dict[str, Tensor]:
    """Three blocks that differ a little."""
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(12, *shape, generator=generator)
    return {"teacher": teacher} | {
        k: teacher + s * torch.randn(teacher.shape, generator=generator) for k, s in (("baseline", 0.2), ("found", 0.1))
    }


def page(tmp_path: Path, result: Result | None = None, shape: tuple[int, ...] = (1, 16, 16), known: SolverSchedule | None = KNOWN) -> str:
    """The report's text."""
    return report.write(tmp_path, result or made_up(), FOUND, known, images(*shape)).read_text()


def embedded(html: str) -> list[Image.Image]:
    """The pictures inside a page."""
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', html)]


def is_blank(picture: Image.Image) -> bool:
    """Whether less than one pixel in a hundred differs from the first."""
    pixels = np.asarray(picture.convert("L"), dtype=float)
    return bool((np.abs(pixels - pixels[0, 0]) > 8).mean() < 0.01)


def test_the_page_leads_with_the_ratio_in_plain_words(tmp_path: Path) -> None:
    html = page(tmp_path)
    headline = re.search("<h1>(.*?)</h1>", html)
    assert headline is not None
    assert (
        headline[1]
        == "At 5 evaluations the found schedule ends 45&nbsp;% closer to the teacher than the best of 1,155 tuned known solvers."
    )
    assert "RMSE ratio 0.55, 95&nbsp;% interval 0.52 to 0.58, 256 test seeds." in html


@pytest.mark.parametrize(
    ("ratio", "words"), [(1.12, "is not better: at 5 evaluations it ends 12&nbsp;% farther"), (1.01, "is not shown to be better")]
)
def test_a_schedule_that_is_not_better_is_said_to_be_none(tmp_path: Path, ratio: float, words: str) -> None:
    html = page(tmp_path, made_up(ratio))
    assert words in html
    assert "closer" not in html


def test_an_interval_that_reaches_one_is_no_success() -> None:
    result = made_up(0.95)
    wide = msgspec.structs.replace(result.found, ratio=Interval(0.95, 0.85, 1.02))
    assert "not shown to be better" in report.headline(msgspec.structs.replace(result, found=wide))[0]


def test_hostile_names_are_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>&$[red]\"'"
    html = page(tmp_path, made_up(baseline=evil, model=evil))
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&amp;$[red]&quot;&#x27;" in html
    console = Console(file=io.StringIO(), width=200)
    console.print(report.table(made_up(baseline=evil, model=evil)))
    assert evil in console.file.getvalue()  # type: ignore[attr-defined]


def test_the_page_loads_nothing_and_tells_no_path(tmp_path: Path) -> None:
    html = page(tmp_path)
    assert not re.search(r"https?:|//|@import|url\(|<link|<script|<iframe", re.sub('base64,[^"]+', "", html))
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r'(?:src|href)="([^"]*)', html))
    assert "/somewhere" not in html


def test_all_pictures_are_inside_and_beside_the_page_and_show_something(tmp_path: Path) -> None:
    inside = embedded(page(tmp_path))
    beside = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert beside == ["progress.png", "samples.png", "steps.png", "work-precision.png"]
    assert len(inside) == 4
    for picture in [*inside, *(Image.open(tmp_path / "pictures" / name) for name in beside)]:
        assert min(picture.size) > 200
        assert not is_blank(picture)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 12), (4, 8, 8), (6,), (1,), (2, 40)])
@pytest.mark.parametrize("count", [1, 3, 8, 12])
def test_data_of_every_shape_is_drawn(shape: tuple[int, ...], count: int) -> None:
    teacher, baseline, found = (images(*shape)[name][:count] for name in ("teacher", "baseline", "found"))
    picture = Image.open(io.BytesIO(style.png(strips.samples(teacher, baseline, found, ("teacher", "best known", "found")))))
    assert not is_blank(picture)


def test_the_sample_picture_shows_the_larger_difference_brighter() -> None:
    blocks = images(1, 16, 16)
    figure = strips.samples(blocks["teacher"], blocks["baseline"], blocks["found"], ("teacher", "best known", "found"))
    known, found = (np.nanmean(np.asarray(axes.images[0].get_array())) for axes in figure.axes[3:])
    assert known == pytest.approx(2 * found, rel=0.1)  # 0.2 and 0.1 times noise


def test_one_dimensional_data_makes_a_page(tmp_path: Path) -> None:
    html = page(tmp_path, shape=(2,))
    assert not any(map(is_blank, embedded(html)))
    assert "initial(seeds, (2,), file.tableau)" in html


def test_a_page_without_images_or_a_known_schedule_is_made(tmp_path: Path) -> None:
    html = report.write(tmp_path, made_up(), FOUND, None, {}).read_text()
    assert len(embedded(html)) == 3


@pytest.mark.parametrize("name", ["vp-linear", "flow", "ve"])
def test_steps_of_every_process_are_drawn_to_the_clean_end(name: str) -> None:
    p = process(name)
    heun = preset("heun", [80.0, 2.0, 0.1, 0.0] if name == "ve" else [1.0, 0.7, 0.2, 0.0], p)
    shown = lanes.steps(heun, None, ("found", "best known"))
    words = {text.get_text() for text in shown.axes[0].texts}
    assert "no noise" in words
    assert ("no signal" in words) == (name == "flow")
    assert not is_blank(Image.open(io.BytesIO(style.png(shown))))


def test_steps_are_drawn_with_the_order_that_they_can_have() -> None:
    p = process("ve", sigma_max=80.0)
    steps = tuple(Step(to=t, order=3) for t in (40.0, 10.0, 2.0, 0.5))
    shown = lanes.steps(SolverSchedule(p, 80.0, steps), None, ("found",))
    assert [text.get_text() for text in shown.axes[0].texts if text.get_text().isdigit()] == ["1", "2", "3", "3"]


def test_divergence_and_other_objectives_leave_a_readable_report(tmp_path: Path) -> None:
    trials = (Finished(0, None), Finished(1, math.inf), Finished(2, 0.4, select=0.5), Finished(3, 4e9))
    curves = (Known("ddim", {}, "uniform", {}, 3, fit=1.0, select=math.inf), Known("ddim", {}, "uniform", {}, 4, fit=0.3))
    thin = msgspec.structs.replace(made_up(), trials=trials, curves=curves, others=(), objective="lpips-alex", known=(), test_reads=3)
    bare = msgspec.structs.replace(
        thin, **{k: msgspec.structs.replace(getattr(thin, k), lpips=None, lpips_ratio=None) for k in ("found", "baseline")}
    )
    for result in (thin, bare, msgspec.structs.replace(bare, trials=trials[:2], curves=())):
        assert "3 times; the intervals do not account" in page(tmp_path, result)


def test_the_chart_of_any_objective_shows_what_was_found_by_that_objective() -> None:
    result = msgspec.structs.replace(made_up(), objective="l1")
    drawn = msgspec.structs.replace(result, **{k: msgspec.structs.replace(getattr(result, k), aim=INTERVAL) for k in ("found", "baseline")})
    for shown, height in ((made_up(), made_up().found.rmse.value), (drawn, INTERVAL.value)):
        (axes,) = charts.work_precision(shown).axes
        lines = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        assert {"dpmpp-2m", "ddim", "best known, test seeds", "found, test seeds"} <= lines.keys()
        assert list(lines["found, test seeds"].lines[0].get_ydata()) == [height]


def test_an_objective_that_is_the_perceptual_one_is_told_once() -> None:
    result = msgspec.structs.replace(made_up(), objective="lpips-alex")
    found = msgspec.structs.replace(result.found, aim=result.found.lpips, aim_ratio=result.found.lpips_ratio)
    _, numbers = report.headline(msgspec.structs.replace(result, found=found))
    assert numbers.count("lpips-alex") == 1
    assert report.headline(made_up())[1].count("lpips-alex") == 1


def test_trials_that_ended_otherwise_are_counted_by_how_they_ended(tmp_path: Path) -> None:
    assert "800 (1 diverged, 0 stopped early)" in page(tmp_path)
    result = made_up()
    lost = (*result.trials, Finished(800, None), Finished(801, 0.2, seeds=8))
    said = page(tmp_path, msgspec.structs.replace(result, trials=lost))
    assert "802 (1 diverged, 1 stopped early, 1 given up: their workers died)" in said


def test_table_and_page_show_every_sampler_with_its_numbers(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=160)
    console.print(report.table(made_up()))
    shown, html = console.file.getvalue(), page(tmp_path)  # type: ignore[attr-defined]
    for words in (
        "found",
        "dpmpp-2m on karras (moment exact, rho 5.3)",
        "ddim on uniform",
        "0.0605",
        "0.0569 to 0.0641",
        "3.00",
        "0.0275 to 0.0336",
    ):
        assert words in shown
        assert words in html
    assert "order 2 in x0, over lambda, bh2 weights, corrected with 2, relaxed by 1.07" in html


def test_the_snippet_on_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    noisy = SolverSchedule(VE, 80.0, (*FOUND.steps[:-1], Step(to=0.02, eta=0.5)))
    for schedule in (FOUND, noisy):
        save(compile(schedule), "digits.schedule.json", recipe=schedule)
        names = {"denoiser": lambda x, at: x / (1 + at.sigma**2)}
        exec(report.snippet(made_up(), schedule, (1, 4, 4)), names)
        assert names["x"].shape == (16, 1, 4, 4)  # type: ignore[attr-defined]


def test_the_same_result_gives_the_same_bytes(tmp_path: Path) -> None:
    assert page(tmp_path / "a") == page(tmp_path / "b")


def test_importing_the_report_does_not_import_matplotlib() -> None:
    code = "import sys, search.report; assert 'matplotlib' not in sys.modules"
    code += "; import search.charts; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(report.__file__).parents[1])
