"""What every runtime keeps, TensorRT keeps; most of it takes a GPU."""

from __future__ import annotations

from segx.testing import BackendContract


class TestContract(BackendContract):
    distribution = "segx-backend-tensorrt"
    name = "tensorrt"
    format = "engine"
    device = "cuda"
