"""What every plugin of this kind keeps, segx-task-segment keeps."""

from __future__ import annotations

from segx.testing import TaskContract


class TestContract(TaskContract):
    distribution = "segx-task-segment"
    name = "segment"
