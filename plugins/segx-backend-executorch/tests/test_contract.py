"""What every runtime keeps, ExecuTorch keeps."""

from __future__ import annotations

from segx.testing import BackendContract


class TestContract(BackendContract):
    distribution = "segx-backend-executorch"
    name = "executorch"
    format = "executorch"
