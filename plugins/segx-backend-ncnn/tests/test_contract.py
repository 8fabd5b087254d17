"""What every runtime keeps, ncnn keeps."""

from __future__ import annotations

from segx.testing import BackendContract


class TestContract(BackendContract):
    distribution = "segx-backend-ncnn"
    name = "ncnn"
    format = "ncnn"
