"""Compensation ratios for settings that nothing was fitted for: `python -m search.cascade FILE FILE ... --nfe 7 --guidance 3 --out NEW`.

Cascade polynomial regression (Zhao et al. 2024, DC-Solver, section 3.3): in the step, its coefficients in the NFE, theirs in guidance,

    ratio_i(N, g) = sum_p i^p sum_q N^q sum_r g^r c_pqr,        each level by least squares on the one before it.

The files are those of `train.py learner=compensation` for one model at several NFE or guidances.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import torch
from torch import Tensor

from search.errors import CampaignError
from solvers import ScheduleError, ScheduleFile, compile, load, save
from solvers.commands.interpolate import for_nfe

DEGREE, FIRST = 2, 2  # of every polynomial; the first step with a ratio


class Setting(NamedTuple):
    """What the ratios belong to."""

    nfe: int
    guidance: float


def regression(known: Mapping[Setting, Sequence[float]]) -> Tensor:
    """c [P, Q, R] from the ratios of the steps FIRST, FIRST + 1, ... of each setting; as many powers as the settings determine."""
    by_guidance = {g: sorted({s.nfe for s in known if s.guidance == g}) for g in sorted({s.guidance for s in known})}
    powers = min(DEGREE + 1, *map(len, known.values())), min(DEGREE + 1, *map(len, by_guidance.values())), min(DEGREE + 1, len(by_guidance))
    in_nfe = list[Tensor]()
    for g, budgets in by_guidance.items():
        in_step = [_polynomial(range(FIRST, FIRST + len(known[Setting(n, g)])), known[Setting(n, g)], powers[0]) for n in budgets]
        in_nfe.append(_polynomial(budgets, torch.stack(in_step), powers[1]).T)
    return _polynomial(list(by_guidance), torch.stack(in_nfe).flatten(1), powers[2]).T.unflatten(0, powers[:2])


def predicted(c: Tensor, setting: Setting, count: int) -> list[float]:
    """The ratios of the first `count` steps that have one."""
    places = range(FIRST, FIRST + count), [setting.nfe], [setting.guidance]
    steps, nfe, guidance = (_powers(x, n) for x, n in zip(places, c.shape, strict=True))
    return torch.einsum("ip,q,r,pqr->i", steps, nfe[0], guidance[0], c).tolist()


def _powers(x: Sequence[float], count: int) -> Tensor:
    """1, x, x^2, ...: [points, count]."""
    return torch.tensor(list(x), dtype=torch.float64)[:, None] ** torch.arange(count)


def _polynomial(x: Sequence[float], y: Sequence[float] | Tensor, powers: int) -> Tensor:
    """The coefficients [powers] or [powers, columns] of the least-squares polynomials through y [points] or [points, columns]."""
    where = _powers(x, powers)
    values = torch.as_tensor(y, dtype=torch.float64)
    found = torch.linalg.lstsq(where, values.reshape(len(where), -1)).solution
    return found.reshape(powers, *values.shape[1:])


def setting_of(file: ScheduleFile, path: str) -> tuple[Setting, list[float]]:
    """What a file was fitted at, and its ratios. Raises CampaignError if it has none."""
    if file.recipe is None or not any("ratio" in step.numbers for step in file.recipe.steps[FIRST:]):
        raise CampaignError(f"{path} holds no compensation ratios; make it with `python train.py learner=compensation`.")
    guidance = file.fitted_for.guidance if file.fitted_for else None
    ratios = [step.numbers.get("ratio", 1.0) for step in file.recipe.steps[FIRST:]]
    return Setting(file.executable.nfe, 1.0 if guidance is None else guidance), ratios


def cascade(paths: Sequence[str], setting: Setting, out: Path) -> ScheduleFile:
    """Write the schedule of the nearest file, interpolated to the NFE, with the predicted ratios."""
    if out.exists():
        raise CampaignError(f"{out} is there already; choose another --out.")
    files = [load(path) for path in paths]
    known = dict(setting_of(file, path) for file, path in zip(files, paths, strict=True))
    models = {file.fitted_for.model_sha256 if file.fitted_for else "" for file in files}
    if len(known) < len(files) or len(models) > 1:
        raise CampaignError("The files must be of one model, and each of another NFE or guidance.")
    near = min(files, key=lambda file: (abs(file.executable.nfe - setting.nfe), abs(setting_of(file, "")[0].guidance - setting.guidance)))
    assert near.recipe is not None  # or it would have been refused
    recipe = for_nfe(near.recipe, setting.nfe)
    later = recipe.steps[FIRST:]
    ratios = predicted(regression(known), setting, len(later))
    first = (msgspec.structs.replace(step, numbers={}) for step in recipe.steps[:FIRST])
    steps = (*first, *(msgspec.structs.replace(step, numbers={"ratio": ratio}) for step, ratio in zip(later, ratios, strict=True)))
    recipe = msgspec.structs.replace(recipe, steps=steps)
    facts = near.fitted_for and msgspec.structs.replace(near.fitted_for, guidance=setting.guidance)
    if facts and near.fitted_for and facts.guidance != near.fitted_for.guidance:
        facts = msgspec.structs.replace(facts, teacher="", teacher_error=None)  # nobody was solved at this guidance
    note = f"ratios by regression over {len(files)} files, not measured"
    provenance = msgspec.structs.replace(near.provenance, study="", trial=None, test_reads=0, note=note)
    return save(compile(recipe), out, recipe=recipe, fitted_for=facts, provenance=provenance)


def main() -> None:
    """One line in, one file out."""
    parser = argparse.ArgumentParser(prog="python -m search.cascade", description="Compensation ratios for an unseen NFE and guidance.")
    parser.add_argument("files", nargs="+")
    parser.add_argument("--nfe", type=int, required=True)
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--out", type=Path, required=True)
    words = parser.parse_args()
    try:
        file = cascade(words.files, Setting(words.nfe, words.guidance), words.out)
    except (CampaignError, ScheduleError) as error:
        sys.exit(f"error: {error}")
    print(f"wrote {words.out}: {file.executable.nfe} evaluations, id {file.id[:16]}; expected, not measured")


if __name__ == "__main__":
    main()
