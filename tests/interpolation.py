"""How good an interpolated schedule is: `python tests/interpolation.py` prints the second table of docs/exports.md (a minute)."""

from pathlib import Path

import torch

from solvers import Tableau, compile, initial, load, named_grid, preset, preset_for_nfe, sample
from solvers.commands.interpolate import interpolated
from teacher.models import digits

SEEDS = range(900_000, 900_048)


def main() -> None:
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    teacher, file = digits(), load(Path(__file__).parent / "files" / "found-v1.schedule.json")
    conditions, process = teacher.conditions(list(SEEDS)), teacher.process

    def drawn(table: Tableau) -> torch.Tensor:
        return sample(teacher.denoiser, initial(SEEDS, teacher.shape, table), table, cond=conditions)

    best = drawn(compile(preset("unipc-3", named_grid("karras", process, 48, 80.0, 0.02), process, tail="full")))

    def error(table: Tableau) -> float:
        return float((drawn(table) - best).square().mean().sqrt())

    old = error(file.tableau)
    for nfe in (4, 6, 8, 10):
        known = [preset_for_nfe(*words, process, 80.0, 0.02) for words in (("unipc-3", nfe, "karras"), ("ipndm", nfe, "log-snr"))]
        mine, (unipc, ipndm) = error(compile(interpolated(file.recipe, nfe))), (error(compile(s)) for s in known)
        print(f"| {nfe} | {mine / old:.2f} | {5 / nfe:.2f} | {mine / unipc:.2f} | {mine / ipndm:.2f} |")


if __name__ == "__main__":
    main()
