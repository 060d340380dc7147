"""What the network answered in finished trials, for whoever proposes next: a table beside the board, or a dictionary where nobody shares.

Written before a trial's outcome is told, so whoever knows an outcome finds its answers, also after kill -9. Of two workers that
scored the same trial the first is kept. Once the campaign is complete they are forgotten.
"""

import base64
from collections.abc import Iterable, Mapping

import safetensors.torch
from sqlalchemy import Engine, bindparam, text
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
        self._campaign, self._engine = campaign, engine
        self._here: dict[int, Tensor] = {}

    def keep(self, made: Mapping[int, Tensor]) -> None:
        """Keep those of some trials."""
        if self._engine is None:
            self._here |= made
            return
        rows = [{"campaign": self._campaign, "number": n, "answers": _written(tensor)} for n, tensor in sorted(made.items())]
        engine = self._engine

        def once() -> None:
            with engine.begin() as base:
                base.execute(KEEP, rows)

        if rows:
            patiently(once)

    def of(self, numbers: Iterable[int]) -> dict[int, Tensor]:
        """Those of some trials, as far as they were kept."""
        wanted = list(numbers)
        missing = [n for n in wanted if n not in self._here]
        if missing and self._engine is not None:
            engine = self._engine

            def once() -> dict[int, Tensor]:
                with engine.begin() as base:
                    return {n: _read(found) for n, found in base.execute(READ, {"campaign": self._campaign, "numbers": missing})}

            self._here |= patiently(once)
        return {n: self._here[n] for n in wanted if n in self._here}

    def forget(self) -> None:
        """All of the campaign."""
        self._here.clear()
        if self._engine is not None:
            engine = self._engine

            def once() -> None:
                with engine.begin() as base:
                    base.execute(FORGET, {"campaign": self._campaign})

            patiently(once)


def _written(tensor: Tensor) -> str:
    return base64.b64encode(safetensors.torch.save({"answers": tensor.contiguous()})).decode()


def _read(found: str) -> Tensor:
    return safetensors.torch.load(base64.b64decode(found))["answers"]
