"""One HTML file that holds a whole validation: figures, curves, the worst images, the settings."""

from __future__ import annotations

import base64
import datetime as dt
import html
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from segx_task_segment.metrics import SegmentMetrics
    from segx_task_segment.panels import Panel

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --strong: #2563eb; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1180px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { margin-top: 2.2rem; font-size: 1.2rem; }
.muted { opacity: .7; }
.protocol { border-left: 3px solid var(--strong); padding: .2rem .8rem; background: var(--soft); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: .8rem; margin: 1rem 0; }
.tile { border: 1px solid var(--line); border-radius: .5rem; padding: .6rem .9rem; }
.tile b { display: block; font-size: 1.5rem; font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .2rem .6rem; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; } thead th { position: sticky; top: 0; background: Canvas; }
.wide { max-height: 34rem; overflow: auto; }
figure { margin: 0 0 1.2rem; } figcaption { font-size: .9rem; } img { max-width: 100%; border-radius: .3rem; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(440px, 1fr)); gap: 1rem; }
"""


def write_report(
    metrics: SegmentMetrics,
    *,
    charts: Mapping[str, bytes],
    worst: Sequence[Panel],
    sheets: Sequence[tuple[bytes, bytes]],
) -> str:
    """Return the report as one HTML text.

    Args:
        metrics: The figures.
        charts: PNG images by file name.
        worst: The images that went worst.
        sheets: JPEG sheets of the first images: ground truth, prediction.
    """
    title = f"{metrics.settings.get('model', 'model')} on {metrics.settings.get('data') or 'data'}"
    when = dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
    body = [
        f"<h1>{_text(title)}</h1>",
        f'<p class="muted">{_counts(metrics)}; segx, {when}</p>',
        _tiles(metrics),
        f'<p class="protocol">{_text(metrics.protocol)}</p>',
        _section("COCO figures", _coco(metrics)),
        _section("Classes", f'<div class="wide">{_classes(metrics)}</div>'),
        _section("Images that went worst", _worst(worst, metrics.confusion_matrix.score)),
        _section("Curves", _images(charts, "curve")),
        _section("What was taken for what", _images(charts, "confusion")),
        _section("The first images: ground truth, then prediction", _sheets(sheets)),
        _section("Left out", _items(metrics.problems)),
        _section("Settings", _table(("setting", "value"), metrics.settings.items())),
        _section("Milliseconds an image", _table(("stage", "ms"), _rounded(metrics.speed))),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _counts(metrics: SegmentMetrics) -> str:
    objects = int(metrics.box.objects[:, 0].sum())
    return f"{metrics.images} images, {objects} objects, {metrics.detections} detections"


def _tiles(metrics: SegmentMetrics) -> str:
    shown = {
        "mask mAP50-95": metrics.seg.map,
        "mask mAP50": metrics.seg.map50,
        "mask mAP75": metrics.seg.map75,
        "box mAP50-95": metrics.box.map,
        "box mAP50": metrics.box.map50,
        "fitness": metrics.fitness,
    }
    tiles = "".join(f'<div class="tile">{_text(name)}<b>{_number(value)}</b></div>' for name, value in shown.items())
    return f'<div class="tiles">{tiles}</div>'


def _coco(metrics: SegmentMetrics) -> str:
    names = list(metrics.box.coco)
    rows = [(kind.name, *(_number(kind.coco[name]) for name in names)) for kind in (metrics.box, metrics.seg)]
    return _table(("", *names), rows)


def _classes(metrics: SegmentMetrics) -> str:
    rows = metrics.summary(decimals=None)
    if not rows:
        return "<p>No class has objects.</p>"
    cells = [[_number(value) if isinstance(value, float) else value for value in row.values()] for row in rows]
    return _table(list(rows[0]), cells)


def _worst(worst: Sequence[Panel], score: float) -> str:
    if not worst:
        return "<p>None: every object was found and nothing else.</p>"
    figures = [
        f"<figure>{_image(panel.jpeg, 'jpeg', panel.name)}<figcaption>{_text(panel.name)}: {panel.right} right, "
        f"{panel.wrong} wrong, {panel.missed} missed (F1 {panel.f1:.2f})</figcaption></figure>"
        for panel in worst
    ]
    note = f'<p class="muted">Ground truth on the left, prediction on the right; masks, score {score:g}, IoU 0.5.</p>'
    return note + "".join(figures)


def _sheets(sheets: Sequence[tuple[bytes, bytes]]) -> str:
    pairs = [
        f"<figure>{_image(annotation, 'jpeg', 'labels')}</figure><figure>{_image(found, 'jpeg', 'prediction')}</figure>"
        for annotation, found in sheets[:1]
    ]
    return f'<div class="two">{"".join(pairs)}</div>' if pairs else ""


def _images(charts: Mapping[str, bytes], part: str) -> str:
    chosen = [_image(data, "png", name) for name, data in charts.items() if part in name]
    return f'<div class="two">{"".join(chosen)}</div>' if chosen else ""


def _section(title: str, content: str) -> str:
    return f"<h2>{_text(title)}</h2>\n{content}" if content else ""


def _items(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{_text(line)}</li>' for line in lines)}</ul>" if lines else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    top = "".join(f"<th>{_text(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _image(data: bytes, kind: str, name: str) -> str:
    return f'<img alt="{_text(name)}" src="data:image/{kind};base64,{base64.b64encode(data).decode("ascii")}">'


def _rounded(speed: Mapping[str, float]) -> list[tuple[str, str]]:
    return [(name, f"{value:.1f}") for name, value in speed.items()]


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _text(value: Any) -> str:
    return html.escape(str(value))
