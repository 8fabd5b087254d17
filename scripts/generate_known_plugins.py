"""Writes core/src/segx/plugin/known.py: what official distributions provide, for "needs: pip install" in errors.

Run it after a plugin declares something new: ``.venv/bin/python scripts/generate_known_plugins.py``.
What exists is read from the plugins' own specs; what is only planned is declared here.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from segx.plugin.discovery import PLUGIN_TYPES, discover
from segx.plugin.specs import BackendSpec, ExporterSpec

if TYPE_CHECKING:
    from segx.plugin.discovery import Discovery

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "core" / "src" / "segx" / "plugin" / "known.py"


class Planned(NamedTuple):
    """A format of the official distributions that does not exist yet; whatever of it exists is read from its specs."""

    suffixes: tuple[str, ...]
    exporter: str
    backend: str


PLANNED_FORMATS = {
    "engine": Planned((".engine",), "segx-export-tensorrt", "segx-backend-tensorrt"),
    "tfjs": Planned(("_web_model",), "segx-export-tfjs", "segx-backend-tfjs"),
}

HEADER = '''"""Which distribution provides what, for hints in errors; written by scripts/generate_known_plugins.py."""

from __future__ import annotations

from segx.records import Record


class KnownFormat(Record):
    """A model format of the official distributions.

    Attributes:
        suffixes: How its files or folders are named, the one that export writes first.
        exporter: The distribution that writes it, or an empty string.
        backends: The distributions that run it.
    """

    suffixes: tuple[str, ...]
    exporter: str
    backends: tuple[str, ...]
'''


def workspace() -> frozenset[str]:
    """Return the names of the plugin distributions in this checkout."""
    files = sorted((ROOT / "plugins").glob("*/pyproject.toml"))
    return frozenset(tomllib.loads(file.read_text(encoding="utf-8"))["project"]["name"] for file in files)


def providers(found: Discovery, ours: frozenset[str]) -> dict[tuple[str, str], str]:
    """Return (kind, name) to distribution: what exists, then what is planned."""
    table = {("exporter", kind): planned.exporter for kind, planned in PLANNED_FORMATS.items()}
    table |= {("backend", p.backend.removeprefix("segx-backend-")): p.backend for p in PLANNED_FORMATS.values()}
    for kind in PLUGIN_TYPES:
        table |= {(kind, spec.name): spec.provider for spec in found.declared[kind] if spec.provider in ours}
    return dict(sorted(table.items()))


def formats(found: Discovery, ours: frozenset[str]) -> dict[str, tuple[tuple[str, ...], str, tuple[str, ...]]]:
    """Return format to suffixes, exporter and backends."""
    exporters = {s.name: s for s in found.declared["exporter"] if isinstance(s, ExporterSpec) and s.provider in ours}
    runtimes = [s for s in found.declared["backend"] if isinstance(s, BackendSpec) and s.provider in ours]
    runtimes.sort(key=lambda spec: (-spec.priority, spec.name))
    names = {*PLANNED_FORMATS, *exporters, *(kind for spec in runtimes for kind in spec.formats)}
    table = {}
    for name in sorted(names):
        planned = PLANNED_FORMATS.get(name, Planned((), "", ""))
        running = [spec for spec in runtimes if name in spec.formats]
        written = (exporters[name].suffix,) if name in exporters else planned.suffixes
        read = (suffix for spec in running for suffix in spec.formats[name])
        exporter = exporters[name].provider if name in exporters else planned.exporter
        backends = tuple(spec.provider for spec in running) or ((planned.backend,) if planned.backend else ())
        table[name] = (tuple(dict.fromkeys((*written, *read))), exporter, backends)
    return table


def render() -> str:
    """Return the whole file."""
    ours = workspace()
    found = discover()
    broken = [f"{item.distribution}: {item.reason}" for item in found.broken if item.distribution in ours]
    if broken:
        sys.exit("plugins of this workspace are broken:\n  " + "\n  ".join(broken))
    known, table = providers(found, ours), formats(found, ours)
    planned = sorted({*known.values(), *(name for _, _, backends in table.values() for name in backends)} - ours)
    lines = [HEADER, "", "PROVIDERS: dict[tuple[str, str], str] = {"]
    lines += [f"    ({_text(kind)}, {_text(name)}): {_text(where)}," for (kind, name), where in known.items()]
    lines += [
        "}",
        '"""Kind and name to the distribution that provides it."""',
        "",
        "FORMATS: dict[str, KnownFormat] = {",
    ]
    for name, (suffixes, exporter, backends) in table.items():
        lines += [
            f"    {_text(name)}: KnownFormat(",
            f"        suffixes={_tuple(suffixes)},",
            f"        exporter={_text(exporter)},",
            f"        backends={_tuple(backends)},",
            "    ),",
        ]
    lines += ["}", '"""Format to how it is named on disk, and who writes and runs it."""', ""]
    begins = "PLANNED: frozenset[str] = frozenset("
    lines += (
        [begins, "    {", *(f"        {_text(name)}," for name in planned), "    }", ")"] if planned else [f"{begins})"]
    )
    lines += ['"""Distributions that are announced and not released yet."""', ""]
    return "\n".join(lines)


def _text(value: str) -> str:
    return f'"{value}"'


def _tuple(values: tuple[str, ...]) -> str:
    inner = ", ".join(map(_text, values))
    return f"({inner},)" if len(values) == 1 else f"({inner})"


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
    print(f"wrote {TARGET.relative_to(ROOT)}")
