"""How good a model is: the COCO protocol for boxes and masks, on any data set, at original resolution."""

from __future__ import annotations

from segx_task_segment.metrics.metrics import IouTypeMetrics, SegmentMetrics

__all__ = ["IouTypeMetrics", "SegmentMetrics"]
