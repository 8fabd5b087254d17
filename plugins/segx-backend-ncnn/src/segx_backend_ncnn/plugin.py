"""Declares ncnn as what opens ``_ncnn_model`` folders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segx import hookimpl
from segx.plugin.specs import BackendSpec, lazy

if TYPE_CHECKING:
    from collections.abc import Iterable

SEGX_API = (1, 0)


@hookimpl
def segx_backends() -> Iterable[BackendSpec]:
    """Declare the runtime."""
    return [
        BackendSpec(
            name="ncnn",
            summary="ncnn models, on the CPU or with Vulkan, without torch",
            load=lazy("segx_backend_ncnn.backend:NcnnBackend"),
            formats={"ncnn": ("_ncnn_model",)},
            devices=("cpu", "vulkan"),
            requires=("ncnn>=1.0.20250916", "numpy>=1.26"),
            concurrent=True,
        )
    ]
