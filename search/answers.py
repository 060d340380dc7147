"""What the network answered in finished trials, for whoever proposes next: a table beside the board, or a dictionary where nobody shares.

Written before a trial's outcome is told, so whoever knows an outcome finds its answers, also after kill -9. Of two workers that
scored the same trial the first is kept. Once the campaign is complete they are forgotten.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import safetensors.torch
from sqlalchemy import Engine, TextClause, bindparam, text
from torch import Tensor

from search.storage import patiently

KEEP = text(
    "insert into fewstep_answers (campaign, number, answers) values (:campaign, :number, :answers)"
    " on conflict (campaign, number) do nothing"
)
READ = text("select number, answers from fewstep_answers where campaign = :campaign and number in :numbers").bindparams(
    bindparam("numbers", expanding=True)
)
FORGET = text("delete from fewstep_answers where campaign = :campaign")


class Answers:
    """Tensors by number of trial. engine: where they are shared."""

    def __init__(self, campaign: str, engine: Engine | None = None) -> None:
        self._key, self._engine = {"campaign": campaign}, engine
        self._here: dict[int, Tensor] = {}

    def keep(self, made: Mapping[int, Tensor]) -> None:
        """Keep those of some trials."""
        if self._engine is None:
            self._here |= made
        elif made:
            rows = [self._key | {"number": n, "answers": _written(tensor)} for n, tensor in sorted(made.items())]
            patiently(lambda engine=self._engine: _asked(engine, KEEP, rows))

    def of(self, numbers: Iterable[int]) -> dict[int, Tensor]:
        """Those of some trials, as far as they were kept."""
        wanted = list(numbers)
        missing = [n for n in wanted if n not in self._here]
        if missing and self._engine is not None:
            found = patiently(lambda engine=self._engine: _asked(engine, READ, self._key | {"numbers": missing}))
            self._here |= {n: _read(answers) for n, answers in found}
        return {n: self._here[n] for n in wanted if n in self._here}

    def forget(self) -> None:
        """All of the campaign."""
        self._here.clear()
        if self._engine is not None:
            patiently(lambda engine=self._engine: _asked(engine, FORGET, self._key))


def _asked(engine: Engine, statement: TextClause, values: Any) -> Sequence[Any]:
    """The rows that a statement returns, in a transaction of its own."""
    with engine.begin() as base:
        result = base.execute(statement, values)
        return result.all() if result.returns_rows else ()


def _written(tensor: Tensor) -> str:
    return base64.b64encode(safetensors.torch.save({"answers": tensor.contiguous()})).decode()


def _read(found: str) -> Tensor:
    return safetensors.torch.load(base64.b64decode(found))["answers"]
