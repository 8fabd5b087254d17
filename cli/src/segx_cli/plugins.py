"""``segx plugins``: what is installed, what is broken and why, and a new plugin from a template."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from segx_cli.output import table

if TYPE_CHECKING:
    from segx.plugin.registry import Registry
    from segx_cli.commands import Call
    from segx_cli.output import Output

_KINDS = {
    "task": "tasks",
    "architecture": "architectures",
    "exporter": "exporters",
    "backend": "backends",
    "dataset format": "dataset_formats",
    "command": "commands",
}


def run(call: Call, output: Output) -> int:
    """List what is installed and what it declares; broken plugins with the reason."""
    del call
    from segx.plugin.registry import get_registry

    registry = get_registry()
    document = describe_plugins(registry)
    rows = [(item["distribution"], item["version"], _notes(item)) for item in document["plugins"]]
    lines = [table(("distribution", "version", "declares"), rows)]
    if registry.broken:
        broken = [(item.distribution, item.version, item.reason) for item in registry.broken]
        lines += ["", table(("broken", "version", "reason"), broken)]
    if registry.disabled:
        lines += ["", f"left out: {', '.join(item.distribution for item in registry.disabled)}"]
    output.result("\n".join(lines), document)
    return 0


def new(call: Call, output: Output) -> int:
    """Write a whole new plugin from a template: declaration, work, tests that pass."""
    from segx.plugin.scaffold import create

    made = create(str(call.arguments["name"]), Path(call.arguments["folder"]))
    output.say(f"next: pip install -e {made} && python -m pytest {made}")
    output.result(str(made), {"folder": str(made)})
    return 0


def describe_plugins(registry: Registry) -> dict[str, Any]:
    """Return what is installed, broken and left out, as plain values."""
    return {
        "plugins": [
            {
                "name": plugin.name,
                "distribution": plugin.distribution,
                "version": plugin.version,
                "module": plugin.module,
                "declares": _declared(registry, plugin.distribution),
                "listens": _hooks(registry, plugin.name, plugin.distribution),
            }
            for plugin in registry.plugins
        ],
        "broken": [
            {"name": item.name, "distribution": item.distribution, "version": item.version, "reason": item.reason}
            for item in registry.broken
        ],
        "disabled": [item.distribution for item in registry.disabled],
    }


def _declared(registry: Registry, distribution: str) -> dict[str, list[dict[str, str]]]:
    """Return kind to what a distribution declares of it, with why it cannot be used here, if so."""
    found: dict[str, list[dict[str, str]]] = {}
    for word, attribute in _KINDS.items():
        for name, spec in getattr(registry, attribute).items():
            if spec.provider == distribution:
                problem = registry.unavailable(spec)
                record = {"name": name, "summary": spec.summary, "problem": problem.message if problem else ""}
                found.setdefault(word, []).append(record)
    return found


def _hooks(registry: Registry, name: str, distribution: str) -> list[str]:
    """Return the event hooks that a plugin implements."""
    module = registry.manager.get_plugin(f"{name}@{distribution}")
    callers = registry.manager.get_hookcallers(module) or [] if module is not None else []
    return sorted(caller.name for caller in callers if caller.name.startswith(("segx_run_", "segx_step_")))


def _notes(item: dict[str, Any]) -> str:
    lines = [
        f"{kind} {record['name']}" + (f": {record['problem']}" if record["problem"] else f": {record['summary']}")
        for kind, records in item["declares"].items()
        for record in records
    ]
    if item["listens"]:
        lines.append(f"listens to {', '.join(item['listens'])}")
    return "\n".join(lines) or "nothing"
