"""Schedules inside other people's frameworks.

`diffusers.py`, `k_diffusion.py` and `comfyui.py` are leaves: each needs its framework, keeps that framework's contract and
moves with `solvers.advance`; nothing imports them. The other files write what such programs read, and need no framework.
"""
