"""One HTML file that holds a whole validation: figures, curves, the worst images, the settings."""

from __future__ import annotations

import base64
import datetime as dt
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from segx_task_segment.metrics import SegmentMetrics
    from segx_task_segment.panels import Panel


def write_report(
    metrics: SegmentMetrics,
    *,
    charts: Mapping[str, bytes],
    worst: Sequence[Panel],
    sheets: Sequence[tuple[bytes, bytes]],
) -> str:
    """Return the report as one HTML text; it is laid out in ``report.html.j2``.

    Args:
        metrics: The figures.
        charts: PNG images by file name.
        worst: The images that went worst.
        sheets: JPEG sheets of the first images: ground truth, prediction.

    Raises:
        ImportError: jinja2 is not installed.
    """
    import jinja2

    pages = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    pages.filters |= {"figure": _figure, "inline": _inline}
    template = pages.from_string(Path(__file__).with_name("report.html.j2").read_text("utf-8"))
    seg, box, classes = metrics.seg, metrics.box, metrics.summary(decimals=None)
    return template.render(
        metrics=metrics,
        title=f"{metrics.settings.get('model', 'model')} on {metrics.settings.get('data') or 'data'}",
        when=dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        objects=int(box.objects[:, 0].sum()),
        tiles={
            "mask mAP50-95": seg.map,
            "mask mAP50": seg.map50,
            "mask mAP75": seg.map75,
            "box mAP50-95": box.map,
            "box mAP50": box.map50,
            "fitness": metrics.fitness,
        },
        coco=[(kind.name, *kind.coco.values()) for kind in (box, seg)],
        classes=classes,
        rows=[row.values() for row in classes],
        settings=[(name, str(value)) for name, value in metrics.settings.items()],
        speed=[(stage, f"{value:.1f}") for stage, value in metrics.speed.items()],
        worst=worst,
        score=f"{metrics.confusion_matrix.score:g}",
        charts=charts,
        sheets=sheets,
    )


def _figure(value: Any) -> Any:
    """Return a cell: a fraction to three digits, anything else as it is."""
    if not isinstance(value, float):
        return value
    return "-" if math.isnan(value) else f"{value:.3f}"


def _inline(data: bytes) -> str:
    """Return an image as a URL that holds it."""
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
