"""The pages of ``segx --help`` and ``segx VERB --help``, made from the tables of commands and options."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from segx.options.neutral import NEUTRAL
from segx_cli.commands import COMMANDS, COMMON
from segx_cli.output import width

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from segx.options.schema import OptionInfo
    from segx_cli.commands import Command

_SWITCHES = (
    ("--help", "explain instead of doing; after a command: that command"),
    ("--json", "one JSON document on standard output instead of text"),
    ("--quiet", "nothing but results, warnings and errors"),
    ("--debug", "more words, and a traceback where it fails"),
    ("--version", "the version"),
)
_EXAMPLES = """\
  segx segment predict model=yolov8n-seg.pt source=photo.jpg
  segx export model=yolov8n-seg.pt format=onnx
  segx predict --model yolov8n-seg.onnx --source photos --no-save --json"""


def overview() -> str:
    """Return what ``segx --help`` prints; a plugin is loaded only if it may add a command."""
    import segx

    verbs = [command for command in COMMANDS.values() if command.verb]
    tools = [command for command in COMMANDS.values() if not command.verb]
    sections = [
        f"segx {segx.__version__}: instance segmentation as plugins, one call on every format",
        _EXAMPLES,
        _section("segx [TASK] VERB name=value ...", ((command.name, command.summary) for command in verbs)),
        _section("segx COMMAND", ((command.name, command.summary) for command in tools)),
        _section("from plugins", _plugin_commands()),
        _section("anywhere on the line", _SWITCHES),
        "segx VERB --help lists the options of a verb.",
    ]
    return "\n\n".join(section for section in sections if section)


def page(command: Command, program: str, words: Sequence[str] = ()) -> str:
    """Return what ``--help`` prints for a command or an action; ``format=onnx`` among the words leaves its options."""
    chosen = dict(word.lstrip("-").split("=", 1) for word in words if word.lstrip("-").startswith("format="))
    groups: dict[str, list[OptionInfo]] = {"": []}
    for info in command.known_options(chosen):
        groups.setdefault(info.group, []).append(info)
    named = [f"{info.name}=..." for info in command.arguments if info.default is ...]
    arguments = (*command.arguments, *(COMMON if command.verb else ()))
    own = command.known_names()
    others = [name for name in NEUTRAL if name not in own]
    optional = "name=value ..." if groups[""] or len(groups) > 1 or len(arguments) > len(named) else ""
    sections = [
        f"{' '.join(filter(None, (program, *named, optional)))}\n  {command.summary}",
        f"  {command.example}" if command.example else "",
        _options("what it works on", arguments, {}),
        *(_options(heading or "options", infos, command.defaults) for heading, infos in groups.items()),
        _fill(
            "An option is written name=value, --name value or --name=value; one that is true or false also name, "
            "--name or --no-name.",
            "",
            "",
        )
        if optional
        else "",
        _fill(f"Taken where they change nothing: {', '.join(others)}.", "", "") if command.verb else "",
    ]
    return "\n\n".join(section for section in sections if section)


def actions_page(command: Command, added: Mapping[str, str]) -> str:
    """Return what ``--help`` prints for a command that is several things; ``added`` is what plugins add."""
    rows = [*((action.name, action.summary) for action in command.actions), *added.items()]
    head = f"segx {command.name} ACTION name=value ...\n  {command.summary}"
    return f"{head}\n\n{_section('actions', rows)}\n\nsegx {command.name} ACTION --help explains one."


def default_text(info: OptionInfo, defaults: Mapping[str, object]) -> str:
    """Return the default as it would be typed; empty where there is none."""
    default = defaults.get(info.name, info.default)
    if default is ... or default is None or str(default) == ".":  # Path() stands for one that must be named
        return ""
    if isinstance(default, tuple):
        return ",".join(map(str, default))
    return {True: "true", False: "false"}.get(default, str(default)) if isinstance(default, bool) else str(default)


def _options(heading: str, infos: Iterable[OptionInfo], defaults: Mapping[str, object]) -> str:
    rows = []
    for info in infos:
        kind = " ".join(part for part in (info.type_name, info.range) if part)
        rows.append((f"{info.name}={default_text(info, defaults)}", f"{info.help} ({kind})"))
    return _section(heading, rows)


def _section(heading: str, rows: Iterable[tuple[str, str]]) -> str:
    rows = tuple(rows)
    if not rows:
        return ""
    indent = min(22, max(len(name) for name, _ in rows) + 4)
    return "\n".join([heading, *(_fill(text, f"  {name} ".ljust(indent), " " * indent) for name, text in rows)])


def _fill(text: str, first: str, later: str) -> str:
    return textwrap.fill(
        text, width(), initial_indent=first, subsequent_indent=later, break_long_words=False, break_on_hyphens=False
    )


def _plugin_commands() -> Iterator[tuple[str, str]]:
    """Yield name and summary of the commands that plugins add.

    Finding plugins the regular way costs more than all the rest of this page, so the names of the installed
    distributions are looked at first: those of our own are known to add none unless the table says so.
    """
    from segx.plugin.installed import distributions
    from segx.plugin.known import PROVIDERS

    commanding = {distribution for (kind, name), distribution in PROVIDERS.items() if kind == "command" and _own(name)}
    silent = set(PROVIDERS.values()) - commanding
    if all(item.name in silent or b"[segx]" not in item.read("entry_points.txt") for item in distributions()):
        return
    from segx.plugin.registry import get_registry

    for name, spec in get_registry().commands.items():
        if _own(name):
            yield name, f"{spec.summary} ({spec.provider})"


def _own(name: str) -> bool:
    """Return True if a plugin's command stands for itself; ``data-NAME`` is listed by ``segx data``."""
    return not name.startswith("data-")
