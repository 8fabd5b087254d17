"""Where programs written for other tools look for their helpers: says what there is in their place."""

from __future__ import annotations

msg = (
    "segx has no utils, whose functions are private elsewhere too: result.plot() draws, segx.ops computes on boxes and "
    "polygons (iou, nms, letterbox), supervision has annotators and trackers; see docs/how-to/come-from-ultralytics.md"
)
raise ImportError(msg)
