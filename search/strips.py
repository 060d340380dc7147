"""Samples of the same seeds, side by side with the teacher's."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from search.style import FOUND, INK, KNOWN, figure_of, styled

COLUMNS = 10


@styled
def samples(teacher: Tensor, baseline: Tensor, found: Tensor, names: Sequence[str]) -> Figure:
    """The same seeds from all three, [n, C, H, W], and both differences to the teacher, amplified; other shapes as lines."""
    blocks = [block[:COLUMNS].detach().double().cpu().numpy() for block in (teacher, baseline, found)]
    if blocks[0].ndim != 4:
        return _lines([block.reshape(len(block), -1) for block in blocks], names)
    low, high = float(blocks[0].min()), float(blocks[0].max())
    scale = (high - low) or 1.0
    away = [np.abs(block - blocks[0]).mean(1, keepdims=True) / scale for block in blocks[1:]]
    factor = max(k for k in (1, 2, 3, 5, 10, 20, 50, 100) if k == 1 or k * np.quantile(away, 0.99) <= 1)
    rows = [(name, (block - low) / scale, "gray") for name, block in zip(names, blocks, strict=True)]
    rows += [(f"{name}, distance to the teacher, {factor} times", factor * d, "magma") for name, d in zip(names[1:], away, strict=True)]
    figure = figure_of(9, len(rows) * (9 / COLUMNS * blocks[0].shape[2] / blocks[0].shape[3] + 0.27))
    for axes, (title, block, cmap), color in zip(figure.subplots(len(rows)), rows, (INK, KNOWN, FOUND, KNOWN, FOUND), strict=True):
        axes.imshow(_strip(block), cmap=cmap, vmin=0, vmax=1, interpolation="nearest")
        axes.set_title(title, color=color, pad=3)
        axes.axis("off")
    return figure


def _strip(block: np.ndarray) -> np.ndarray:
    """[n, C, H, W] to one row of COLUMNS pictures: [H, ..., 3], or gray, the mean of channels that are no colour. Gaps are white."""
    block = block if block.shape[1] in (1, 3) else block.mean(1, keepdims=True)
    gap = max(1, block.shape[3] // 24)
    padded = np.pad(block.clip(0, 1), ((0, COLUMNS - len(block)), (0, 0), (0, 0), (0, gap)), constant_values=np.nan)
    padded[len(block) :] = np.nan
    strip = np.concatenate(list(padded), -1)[..., :-gap].transpose(1, 2, 0)
    return np.nan_to_num(strip, nan=1.0) if strip.shape[2] == 3 else strip[..., 0]


def _lines(blocks: Sequence[np.ndarray], names: Sequence[str]) -> Figure:
    """A panel per seed for data [n, d] that are not pictures: the three over the index of the coordinate."""
    count = len(blocks[0])
    across = min(5, count)
    figure = figure_of(9, 1.7 * -(-count // across) + 0.7)
    panels = figure.subplots(-(-count // across), across, sharex=True, sharey=True, squeeze=False).flatten()
    looks = [(name, *look) for name, look in zip(names, ((INK, 3.0, 0.35), (KNOWN, 1.4, 1.0), (FOUND, 1.4, 1.0)), strict=True)]
    marker = "o" if blocks[0].shape[1] <= 16 else ""
    for axes in panels[count:]:
        axes.set_visible(False)
    for seed, axes in enumerate(panels[:count]):
        for block, (name, color, width, alpha) in zip(blocks, looks, strict=True):
            axes.plot(block[seed], color=color, lw=width, alpha=alpha, marker=marker, ms=width + 2, label=name)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.grid()
    figure.supxlabel("coordinate", fontsize=11)
    figure.supylabel("value (network units)", fontsize=11)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return figure
