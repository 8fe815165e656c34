"""hasten makes diffusion models fast, small and stable, and proves that they still make the same pictures.

    import hasten

    source = hasten.load("my_model/")
    result = hasten.optimize(source, hasten.load_data("emoji", 32), out="runs/mine")
    target, *_ = hasten.load_artifact("runs/mine/artifact")
    pictures = target.sample(hasten.draw(source.shape, 1, 16, seed=0, labels=source.labels).cases[0])

Names are imported when they are first used, so that ``import hasten`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from hasten.artifact import load as load_artifact
    from hasten.data.loader import by_name as load_data
    from hasten.model.source import load
    from hasten.model.workload import draw
    from hasten.story.compare import compare
    from hasten.story.optimize import optimize
    from hasten.story.profile import profile
    from hasten.technique.plan import Plan, build
    from hasten.verification import verify

_WHERE = {
    "Plan": ("hasten.technique.plan", "Plan"),
    "build": ("hasten.technique.plan", "build"),
    "compare": ("hasten.story.compare", "compare"),
    "draw": ("hasten.model.workload", "draw"),
    "load": ("hasten.model.source", "load"),
    "load_artifact": ("hasten.artifact", "load"),
    "load_data": ("hasten.data.loader", "by_name"),
    "optimize": ("hasten.story.optimize", "optimize"),
    "profile": ("hasten.story.profile", "profile"),
    "verify": ("hasten.verification", "verify"),
}
__all__ = ["Plan", "build", "compare", "draw", "load", "load_artifact", "load_data", "optimize", "profile", "verify"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'hasten' has no attribute {name!r}")
    module, attribute = _WHERE[name]
    return getattr(importlib.import_module(module), attribute)
