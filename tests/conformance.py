"""`make conformance` writes docs/conformance.md: what every preset is held to, and how far it is from its references.

The references are compared by the tests themselves; here they run once more and the differences are kept. Orders are measured
as in the order law. Whatever has no public reference is held to the laws and to the identities in the test files named.
"""

import contextlib
import math
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import test_dpm_solver_v3
import test_gddim
import test_references
from errata import ERRATA, NOT_REPRODUCED
from test_solver_laws import SMOOTH, order_of

from solvers import PRESETS
from solvers.registry import DISTINCT

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "conformance.md"
NOTES = {
    "dpmpp-3m": "public 3M halves the second derivative and has order 2: `dpmpp-3m-compat`",
    "dpm-solver-3m": 'public 3M halves the second derivative: option third="half"',
    "dpmpp-3m-sde": 'public 3M SDE halves it: `dpmpp-3m-sde-compat`; diffusers\' has a sign wrong, order 1: option third="slip"',
    "lms": "ipndm_v of diff-sampler and ComfyUI errs at orders 3 and 4: `ipndm-v-compat`",
    "deis-log-rho": "diffusers calls it DEIS; the paper's tAB is `deis-tab3`",
    "unipc-3": "vary_coeff of uni_pc.py has order 1: `unipc-3-vary-compat`; diffusers' bh1 to sigma 0 gives NaN, ours is finite",
    "res-3m": "RES4LYF's gamma has c3^3 for c3^2: `res-3m-compat`",
    "mrs-ode-3": "the paper's code halves the second derivative and has order 2: `mrs-ode-3-compat`",
    "er-sde-3": "its derivative is a plain difference, order 2 in the drift",
    "sa-solver": 'diffusers takes tau at the start of a step: option tau_at="start"',
    "ghvb": "the authors start a v-prediction's velocity from the unconverted output, and their UniPC with momentum overwrites it",
    "dc-solver": "its public sample() pops the ratios off the caller's list",
    "usf": "the public implicit corrector never asks again; its zero-x0 step takes x for eps in data steps; pseudo is mode pec",
    "seeds-2": "its code pairs noises backwards: `seeds-2-compat`",
    "seeds-3": "its code has a phi_2 mistyped, order 1: `seeds-3-compat`",
    "seeds-3-noise": "its code swaps noises and scales one wrongly: `seeds-3-noise-compat`",
    "dpmpp-singlestep-sde": "diffusers draws the noise of stages anew, weak order 1: `dpmpp-singlestep-sde-compat`",
    "dpmpp-sde": "k-diffusion correlates stage and step noise by a Brownian tree over sigma: `dpmpp-sde-compat`",
}


OPERATORS = """## Operators for coefficients

`dpm_solver_v3`, `gddim_bdm` and `gddim_cld` return tables: their statistics and operators go into a file as tensors, not into a list
of steps. DPM-Solver-v3 is measured with statistics that are not the data's own (vp-linear, ve, flow); with those of a Gaussian one
evaluation solves it.
"""


class Recorder:
    """A pytest plugin that keeps what each reference test measured, and for which preset."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        self.name, self.reference = "", ""

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for module in {item.module for item in session.items}:
            for function, before in (("preset", self._preset), ("k_sampler", self._k), ("d_sampler", self._d)):
                self._before(module, function, before)
        for function in ("table_difference", "sample_difference"):
            self._after(test_references, function)

    def _before(self, module: Any, function: str, note: Any) -> None:
        plain = getattr(module, function, None)
        if plain is None:
            return
        setattr(module, function, lambda first, *rest, **words: (note(first), plain(first, *rest, **words))[1])

    def _after(self, module: Any, function: str) -> None:
        plain = getattr(module, function)

        def measured(*words: Any, **more: Any) -> float:
            difference = plain(*words, **more)
            if self.precise and self.name:
                self.found[self.name][self.reference + "\0" + function].append(difference)
            return difference

        setattr(module, function, measured)

    def pytest_runtest_setup(self, item: pytest.Function) -> None:
        self.precise, self.name = "stock" not in item.name, ""
        self.reference = f"`{item.path.stem.removeprefix('test_')}::{item.originalname.removeprefix('test_')}`"  # unless a sampler is named

    def _preset(self, name: str) -> None:
        self.name = next(first for first in DISTINCT if DISTINCT[first] is PRESETS[name])

    def _k(self, function: Any) -> None:
        self.reference = f"k-diffusion {function.__name__}"

    def _d(self, scheduler: Any) -> None:
        self.reference = f"diffusers {type(scheduler).__name__}"


def measured_orders() -> dict[str, str]:
    """The slope of every preset on smooth grids of vp-linear, ve and flow, or of those it is defined on, as the order law measures it."""
    found = {}
    for name, known in DISTINCT.items():
        slopes = []
        for family in known.processes or SMOOTH:
            with contextlib.suppress(ZeroDivisionError, ValueError):
                slopes.append(order_of(name, family, rough=False))
        found[name] = ", ".join(f"{max(0.0, s):.1f}" for s in slopes if math.isfinite(s))
    return found


def rows(recorder: Recorder) -> list[str]:
    """The table's lines."""
    orders, sources = measured_orders(), {path.name: path.read_text() for path in sorted(HERE.glob("test_*.py"))}
    lines = ["| method | order | measured | NFE of 10 steps | reference | dense | final | errata and conventions |", "|" + "---|" * 8]
    for name, known in DISTINCT.items():
        others = [other for other, preset in PRESETS.items() if preset is known and other != name]
        references = sorted({key.split("\0")[0] for key in recorder.found[name]})
        differences = [
            [max(recorder.found[name][f"{r}\0{f}"], default=math.nan) for r in references]
            for f in ("table_difference", "sample_difference")
        ]
        if not references:
            files = [file for file, text in sources.items() if re.search(rf'["\']{re.escape(name)}["\']', text) and "laws" not in file]
            references = [f"laws; {', '.join(files)}" if files else "laws"]
        shown = [", ".join("-" if math.isnan(d) else f"{d:.0e}" for d in column) or "-" for column in differences]
        title = f"`{name}`" + (f" ({', '.join(f'`{o}`' for o in others)})" if others else "")
        kind = " (weak)" if known.noise != "none" else ""
        said = "; ".join(NOTES[n] for n in (name, *others) if n in NOTES)
        cells = [title, f"{known.order:g}{kind}", orders[name], str(known.nfe(10, False)), "; ".join(references), *shown, said]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def errata() -> list[str]:
    """What public code has wrong, which preset has it too and which has not, and the tests of both."""

    def named(words: str) -> str:
        return ", ".join(f"`{word}`" if word and "every" not in word else word or "-" for word in words.split(", "))

    lines = ["| where | what | as there | right | tests of the first | tests of the second |", "|" + "---|" * 6]
    for e in ERRATA:
        tests = ("<br>".join(f"`{test}`" for test in part) for part in (e.compat_tests, e.exact_tests))
        lines.append(f"| {' | '.join([e.where, e.what, named(e.compat), named(e.exact), *tests])} |")
    return [*lines, "", "Not reproduced:", *(f"- {where}: {why}" for where, why in NOT_REPRODUCED.items())]


def operator_rows() -> list[str]:
    """The lines of the functions that return tables of operators, for which a preset's list of steps has no room."""
    v3 = [[test_dpm_solver_v3.slope(family, order, "none") for family in SMOOTH] for order in (1, 2, 3)]
    bdm, cld = ([[slope(order, counts)] for order in (1, 2, 3)] for slope, counts in test_gddim.SLOPES.values())
    said = {
        "dpm-solver-v3": (v3, "per element", "the paper's algorithms written out again in test_dpm_solver_v3.py, below 1e-11"),
        "gddim-bdm": (bdm, "per frequency", "point masses and Gaussians exact at any step; DEIS where nothing is blurred; test_gddim.py"),
        "gddim-cld": (cld, "2 x 2", "point masses exact at any step; Runge-Kutta; DEIS where nothing is coupled; test_gddim.py"),
    }
    lines = ["| function | coefficients | order | measured | NFE of 10 steps | held to |", "|" + "---|" * 6]
    for name, (slopes, kind, held) in said.items():
        measured = "; ".join(", ".join(f"{s:.1f}" for s in each) for each in slopes)
        lines.append(f"| `{name}` | {kind} | 1; 2; 3 | {measured} | 10 | {held} |")
    return lines


if __name__ == "__main__":
    recorder = Recorder()
    compared = [str(HERE / name) for name in ("test_references.py", "test_single_step.py")]
    if pytest.main(["-q", "-p", "no:cacheprovider", *compared], plugins=[recorder]):
        sys.exit("error: the reference tests do not pass; no page was written")
    head = """# Conformance

Written by `make conformance`. Order: slope of the error as declared, and as measured on smooth grids with a graded start (vp-linear,
ve, flow, or where it is defined); a stochastic method's is the weak order, of mean and variance. Dense: largest difference of the
closed forms to the reference's, read by probing, relative to the largest coefficient. Final: difference of the samples on a mixture of
Gaussians. Both in float64, worst over the cases of the tests; diffusers with its float32 tables computed in float64. FILE::NAME
stands for test_NAME in tests/test_FILE.py.
"""
    tail = """
## Errata

What public code has wrong, the preset that repeats it (where there is something to repeat), held to that code, and the one that has it
right, held to its full order.
"""
    PAGE.write_text("\n".join([head, *rows(recorder), "", OPERATORS, *operator_rows(), tail, *errata(), ""]))
    print(f"{PAGE}: {len(DISTINCT)} methods")
