"""``segx info``: what is known of a model: what travels with it, how it was proven, how large it is."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from segx.words import visible
from segx_cli.output import table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from segx.artifact import ArtifactInfo, Parity
    from segx.model import YOLO
    from segx.plugin.jobs import ModelSummary
    from segx_cli.commands import Call
    from segx_cli.output import Output


_SHOWN = 12


def run(call: Call, output: Output) -> int:
    """Say what is known of a model."""
    from segx import YOLO

    given = str(call.arguments["model"])
    model = YOLO(given, task=call.task)
    info, summary = model.metadata, _summary(model)
    document = {
        "model": given,
        "file": model.path,
        "format": _format(model),
        "bytes": _size(model),
        "caution": _caution(model),
        "run_by": _run_by(model),
        **dataclasses.asdict(info),
        "summary": None if summary is None else dataclasses.asdict(summary),
    }
    output.result(table(("what", "is"), _rows(document, info, summary)), document)
    return 0


def _summary(model: YOLO) -> ModelSummary | None:
    """Return layers, parameters and FLOPs of a model that can be trained; of an exported one they are not known."""
    return model.info(verbose=False) if model.path is None or _format(model) == "pt" else None


def _format(model: YOLO) -> str | None:
    from segx.plugin.registry import get_registry

    return None if model.path is None else get_registry().format_of(model.path)


def _caution(model: YOLO) -> str:
    """Return what whoever opens a stranger's file of this format should know."""
    from segx.plugin.registry import get_registry

    kind = _format(model)
    return "" if kind is None else get_registry().backend_for(kind).caution


def _run_by(model: YOLO) -> str:
    """Return which runtime a file is run by, and why."""
    from segx.plugin.fastest import backends_on_cpu, measured
    from segx.plugin.registry import get_registry

    registry, kind = get_registry(), _format(model)
    if kind is None or model.path is None:
        return ""
    choice = measured(registry.artifact(model.path), registry)
    if choice is not None:
        return f"{choice.describe()} (segx benchmark)"
    usual, others = registry.backend_for(kind).name, [spec.name for spec in backends_on_cpu(kind, registry)]
    more = ", ".join(name for name in others if name != usual)
    return f"{usual}, the usual one; {more} too: segx benchmark says which is fastest" if more else usual


def _size(model: YOLO) -> int | None:
    from segx.artifact import Artifact

    return None if model.path is None else Artifact(path=model.path, format="").size


def _rows(document: dict[str, Any], info: ArtifactInfo, summary: ModelSummary | None) -> list[tuple[str, str]]:
    height, width = info.imgsz
    where = "a new model, not in a file" if document["file"] is None else str(document["file"])
    rows = [
        ("file", where),
        ("format", f"{document['format']}, {document['bytes'] / 1e6:.1f} MB" if document["format"] else ""),
        ("caution", f"this file {document['caution']}" if document["caution"] else ""),
        ("run by", document["run_by"]),
        ("task", f"{info.task} ({info.head})"),
        ("model", " ".join(part for part in (info.variant, f"({info.architecture})") if part)),
        ("classes", _names(info.names)),
        ("input", f"{height}x{width}, stride {info.stride}, batch {info.batch}"),
        ("open axes", ", ".join(sorted(info.dynamic)) or "none"),
        ("outputs", ", ".join(info.outputs)),
        ("precision", info.precision),
        ("made", " ".join([info.date, *(f"{name} {version}" for name, version in info.versions.items())]).strip()),
        ("settings", _settings(info.settings)),
        ("compared", _parity(info.parity)),
        ("size", _figures(summary)),
        *((name, value) for name, value in info.extra.items()),
    ]
    return [(name, value) for name, value in rows if value]


def _names(names: Mapping[int, str]) -> str:
    shown = [visible(f"{number} {name}", lines=False) for number, name in list(names.items())[:_SHOWN]]
    more = f", ... {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)}: {', '.join(shown)}{more}" if names else ""


def _settings(settings: Mapping[str, Any]) -> str:
    shown = [f"{name}={value}" for name, value in list(settings.items())[:_SHOWN]]
    more = f", ... {len(settings) - _SHOWN} more (--json shows all)" if len(settings) > _SHOWN else ""
    return ", ".join(shown) + more


def _parity(parity: Parity | None) -> str:
    if parity is None:
        return ""
    return (
        f"on {parity.images} images with {parity.objects} objects: {parity.matched:.1%} found again, boxes within "
        f"{parity.box:.3g} px, scores within {parity.score:.2g}, mask IoU at least {parity.mask_iou:.4f}"
    )


def _figures(summary: ModelSummary | None) -> str:
    if summary is None:
        return ""
    height, width = summary.imgsz
    figures = (
        f"{summary.layers} layers, {summary.parameters:,} parameters ({summary.fused_parameters:,} fused), "
        f"{summary.gflops:.1f} GFLOPs at {height}x{width}"
    )
    return "\n".join([figures, *summary.notes])
