"""Let torchvision import beside a torch that it was not built for.

torchvision's usual wheels are built for CUDA: beside a CPU torch the compiled operators do not load, and because it
declares shapes for two of them, `import torchvision` fails, and with it lpips and diffusers. Nothing here calls those two
(they are for detection boxes), so that declaring them is enough. An installation that works is left alone.
"""

import torch

_kept: list[torch.library.Library] = []  # an operator is undeclared again when its Library is collected


def repair_torchvision() -> None:
    """Make `import torchvision` work if it is installed and fails for the missing operators alone."""
    try:
        import torchvision  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError:
        return
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            if not hasattr(torch.ops.torchvision, name):
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(library)
