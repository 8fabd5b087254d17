"""Declares the DNN module of OpenCV as what opens ``.onnx`` files where it is asked for by name."""

from __future__ import annotations

from segx import hookimpl
from segx.plugin.specs import BackendSpec, lazy

SEGX_API = (1, 0)

_BUILDS = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)
"""Distributions that bring the module ``cv2``; any one will do."""


@hookimpl
def segx_backends() -> list[BackendSpec]:
    """Declare the runtime, below ONNX Runtime: whoever wants it names it."""
    return [
        BackendSpec(
            name="opencv",
            summary="ONNX models with the DNN module of OpenCV, without torch",
            load=lazy("segx_backend_opencv.backend:OpencvBackend"),
            formats={"onnx": (".onnx",)},
            requires=(" | ".join(f"{build}>=5" for build in _BUILDS), "onnx>=1.17", "numpy>=1.26"),
            priority=-5,
            apart=True,  # OpenCV has one number of threads for a process, and segx's own image work goes by it too
        )
    ]
