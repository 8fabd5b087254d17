"""What every runtime keeps, TensorFlow.js keeps."""

from __future__ import annotations

from segx.testing import BackendContract


class TestContract(BackendContract):
    distribution = "segx-backend-tfjs"
    name = "tfjs"
    format = "tfjs"
