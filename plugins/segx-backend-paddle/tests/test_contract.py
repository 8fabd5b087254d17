"""What every runtime keeps, paddle keeps."""

from __future__ import annotations

from segx.testing import BackendContract


class TestContract(BackendContract):
    distribution = "segx-backend-paddle"
    name = "paddle"
    format = "paddle"
