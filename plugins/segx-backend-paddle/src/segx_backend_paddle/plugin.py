"""Declares Paddle Inference as what opens PaddlePaddle's models."""

from __future__ import annotations

from segx import hookimpl
from segx.plugin.specs import BackendSpec, lazy

SEGX_API = (1, 0)


@hookimpl
def segx_backends() -> list[BackendSpec]:
    """Declare the runtime."""
    return [
        BackendSpec(
            name="paddle",
            summary="PaddlePaddle models with Paddle Inference, without torch",
            load=lazy("segx_backend_paddle.backend:PaddleBackend"),
            formats={"paddle": ("_paddle_model",)},
            requires=("paddlepaddle>=3.0 | paddlepaddle-gpu>=3.0", "setuptools>=70", "numpy>=1.26"),
            priority=10,
            concurrent=True,
            apart=True,  # paddle and tensorflow in one process end it
        )
    ]
