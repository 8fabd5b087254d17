"""``segx formats``: what can be made and run here."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from segx_cli.output import table, width

if TYPE_CHECKING:
    from segx.plugin.registry import Registry
    from segx.plugin.specs import ExporterSpec
    from segx_cli.commands import Call
    from segx_cli.output import Output


def run(call: Call, output: Output) -> int:
    """List the model formats: what makes them, and what runs them."""
    del call
    from segx.plugin.registry import get_registry

    records = describe_formats(get_registry())
    headers = ("format", "suffix", "export and backends")
    rows = [(record["format"], record["suffix"], _notes(record)) for record in records if not record["planned"]]
    planned = ", ".join(record["format"] for record in records if record["planned"])
    text = table(headers, rows)
    if planned:
        text += "\n\n" + textwrap.fill(f"planned: {planned}", width(), break_on_hyphens=False)
    output.result(text, records)
    return 0


def describe_formats(registry: Registry) -> list[dict[str, Any]]:
    """Return one record for each format that is installed or known; imports no runtime."""
    from segx.plugin.known import FORMATS

    names = dict.fromkeys([*registry.exporters, *sorted({f for b in registry.backends.values() for f in b.formats})])
    return [_describe(registry, name) for name in dict.fromkeys([*names, *FORMATS])]


def _describe(registry: Registry, name: str) -> dict[str, Any]:
    from segx.plugin.known import FORMATS, PLANNED
    from segx_cli.export import own_options

    known = FORMATS.get(name)
    exporter = registry.exporters.find(name)
    problem = registry.unavailable(exporter) if exporter else None
    backends = registry.backends_for(name.partition("@")[0])
    suffixes = sorted({suffix for spec in registry.backends.values() for suffix in spec.formats.get(name, ())})
    return {
        "format": name,
        "suffix": exporter.suffix if exporter else " ".join(suffixes or (known.suffixes if known else ())),
        "summary": exporter.summary if exporter else "",
        "exporter": exporter.provider if exporter else (known.exporter if known else ""),
        "made_from": exporter.source if exporter else "",
        "export": "not installed" if exporter is None else (problem.message if problem else "ready"),
        "precisions": list(exporter.precisions) if exporter else [],
        "missing": _missing(registry, exporter) if exporter and problem is None else {},
        "options": [info.name for info in own_options(exporter.options)] if exporter else [],
        "backends": {
            **{spec.name: "ready" for spec in backends.usable},
            **{item.spec.name: item.message for item in backends.unavailable},
        },
        "known_backends": list(known.backends) if known else [],
        "planned": exporter is None and known is not None and known.exporter in PLANNED and not backends.usable,
    }


def _missing(registry: Registry, exporter: ExporterSpec) -> dict[str, str]:
    """Return the precisions that cannot be written here, with the reason."""
    problems = {precision: registry.unavailable(exporter, precision=precision) for precision in exporter.precisions}
    uninstalled = {precision: problem.message for precision, problem in problems.items() if problem is not None}
    return {**exporter.missing(), **uninstalled}


def _notes(row: dict[str, Any]) -> str:
    """Return what makes the format and what runs it, a line each."""
    lines = []
    if row["export"] == "not installed":
        lines.extend([f"export: {_how_to_get(row['exporter'])}"] if row["exporter"] else [])
    else:
        origin = "" if row["made_from"] == "model" else f", from {row['made_from']}"
        options = f" ({' '.join(row['options'])})" if row["options"] else ""
        lines.append(f"{row['exporter']}: {row['export']}{origin}, in {' '.join(row['precisions'])}{options}")
    lines.extend(f"in {precision}: {reason}" for precision, reason in row["missing"].items())
    lines.extend(f"runs on {name}: {state}" for name, state in row["backends"].items())
    if not row["backends"] and row["known_backends"] != [row["exporter"]]:
        lines.extend([f"runs: {_how_to_get(name)}" for name in row["known_backends"]] or ["runs: nothing here"])
    return "\n".join(lines)


def _how_to_get(distribution: str) -> str:
    from segx.plugin.known import PLANNED

    return f"{distribution} is planned" if distribution in PLANNED else f"pip install {distribution}"
