"""What every runtime keeps, MNN keeps."""

from __future__ import annotations

from segx.testing import BackendContract


class TestContract(BackendContract):
    distribution = "segx-backend-mnn"
    name = "mnn"
    format = "mnn"
