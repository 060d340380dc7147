"""Reference implementations that cannot simply be imported."""

import importlib.util
import sys
import types
from typing import Any


def k_diffusion_sampling() -> Any:
    """`k_diffusion/sampling.py` alone: the package itself imports much that sampling does not need. ImportError if it is missing."""
    package = importlib.util.find_spec("k_diffusion")
    if package is None or not package.submodule_search_locations:
        raise ImportError("k-diffusion is not installed (pip install --no-deps k-diffusion)")
    name = "k_diffusion_sampling_alone"
    utils = types.ModuleType(f"{name}.utils")
    utils.append_dims = lambda x, n: x[(...,) + (None,) * (n - x.ndim)]
    parent = types.ModuleType(name)
    parent.utils, parent.__path__ = utils, []
    spec = importlib.util.spec_from_file_location(f"{name}.sampling", f"{package.submodule_search_locations[0]}/sampling.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules |= {name: parent, f"{name}.utils": utils, f"{name}.sampling": module}
    spec.loader.exec_module(module)
    return module
