"""Hydra's files. A package, so that an installed copy finds them."""
