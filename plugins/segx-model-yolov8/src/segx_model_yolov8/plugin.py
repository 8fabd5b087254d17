"""Declares the YOLOv8-seg family; imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

from segx import hookimpl
from segx.artifact import WeightsFile
from segx.plugin.specs import ArchitectureSpec, lazy

SEGX_API = (1, 0)

SIZES = "nsmlx"
OWN = "p"
"""Half as wide as n: the size of the model that comes with segx."""
EMBEDDED = Path(__file__).parent / "embedded"
RELEASE = "https://github.com/ultralytics/assets/releases/download/v8.1.0"

HEADS = {"decoded": "yolov8-seg/1", "raw": "yolov8-seg-raw/1"}
"""Where a graph of the family can end, and what the task calls that."""

PICKLED = {
    "ultralytics.nn.tasks": ("SegmentationModel", "DetectionModel"),
    "ultralytics.nn.modules.conv": ("Conv", "Concat"),
    "ultralytics.nn.modules.block": ("C2f", "Bottleneck", "SPPF", "DFL", "Proto"),
    "ultralytics.nn.modules.head": ("Segment", "Detect"),
    # the oldest files, before the package was split
    "ultralytics.nn.modules": ("Conv", "Concat", "C2f", "Bottleneck", "SPPF", "DFL", "Proto", "Segment", "Detect"),
}
"""Classes that the published checkpoints name."""


@hookimpl
def segx_architectures() -> list[ArchitectureSpec]:
    """Declare YOLOv8-seg, its five sizes, and where weights for them and for transfer are published."""
    segment = [f"yolov8{size}-seg.pt" for size in SIZES]
    detect = [f"yolov8{size}.pt" for size in SIZES]
    return [
        ArchitectureSpec(
            name="yolov8-seg",
            summary="YOLOv8-seg, sizes p n s m l x, and models of your own from YAML",
            load=lazy("segx_model_yolov8.architecture:YOLOv8Seg"),
            requires=("torch>=2.6",),
            task="segment",
            heads=HEADS,
            pickled=PICKLED,
            variants=tuple(f"yolov8{size}-seg" for size in (OWN, *SIZES)),
            weights={
                "shapes-seg.pt": WeightsFile(path=EMBEDDED / "shapes-seg.pt"),
                **{name: WeightsFile(url=f"{RELEASE}/{name}") for name in [*segment, *detect]},
            },
        )
    ]
