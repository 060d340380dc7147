"""What a schedule does, as numbers: what the predictor of the search learns from.

Parameters say how a schedule was chosen; many choices are nearly the same sampler, and a small one may be quite another. Its closed
form is what the samples depend on: two candidates with equal features draw equal pictures.

    lambda of every evaluated state,      how far the label lies from it, in lambda,      knobs
    B_rj of the states and the sample,    a_r sigma_T and the deviation of the injected noise there (all cut at 5: what diverges, diverges)
"""

import functools
from typing import Any

import torch

from search.gaps import levels
from search.s3 import Describe
from search.space import Space
from solvers import Process, Tableau, compile

CUT = 5.0


def features(table: Tableau, process: Process) -> tuple[float, ...]:
    """The numbers of a table of floats, as many for every table of one NFE and the same knobs."""
    dense, nfe = table.dense().at(table.visible), table.nfe
    told = torch.tensor([float(e.label) for e in table.evals], dtype=torch.float64)
    asked = torch.tensor(table.asked, dtype=torch.float64)
    states, labels = levels(process, asked), levels(process, told)
    rows, columns = torch.tril_indices(nfe + 1, nfe, -1)
    noise = torch.stack([dense.a * float(table.initial_sigma), dense.G.square().sum(1).sqrt()]).flatten()
    form = torch.cat([dense.B[rows, columns], noise]).clamp(-CUT, CUT)
    knobs = [value for e in table.evals for _, value in sorted(e.knobs.items())]
    return (*torch.cat([states, labels - states, form]).tolist(), *knobs)


def describer(space: Space) -> Describe:
    """From parameters of the space to features; what was asked lately is remembered."""

    @functools.lru_cache(maxsize=16384)
    def known(params: tuple[tuple[str, Any], ...]) -> tuple[float, ...]:
        return features(compile(space.decode(dict(params))), space.process)

    return lambda params: known(tuple(sorted(params.items())))
