"""What every plugin of this kind keeps, segx-model-yolov8 keeps."""

from __future__ import annotations

from segx.testing import ArchitectureContract


class TestContract(ArchitectureContract):
    distribution = "segx-model-yolov8"
    name = "yolov8-seg"
