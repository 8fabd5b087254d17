"""What every runtime keeps, LiteRT keeps."""

from __future__ import annotations

from segx.testing import BackendContract


class TestContract(BackendContract):
    distribution = "segx-backend-litert"
    name = "litert"
    format = "tflite"
