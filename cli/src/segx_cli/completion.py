"""``segx completion``: what lets a shell complete commands, actions, options and their choices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segx.errors import UsageError, did_you_mean
from segx.plugin.registry import get_registry
from segx_cli.commands import COMMANDS, every

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segx_cli.commands import Call, Command
    from segx_cli.output import Output

_BASH = """\
_segx() {
  local line word reply; word="${COMP_WORDS[COMP_CWORD]}"; line=" ${COMP_WORDS[*]:1} "
  COMP_WORDBREAKS="${COMP_WORDBREAKS//=/}"
  case "$line" in
%s
  esac
  COMPREPLY=($(compgen -W "$reply" -- "$word"))
  [[ "${COMPREPLY[0]}" == *= ]] && compopt -o nospace
}
complete -o default -F _segx segx
"""
_ZSH = "autoload -Uz bashcompinit && bashcompinit\n"


def run(call: Call, output: Output) -> int:
    """Print what a shell runs at its start.

    Raises:
        UsageError: The shell is not known.
    """
    shell = str(call.arguments["shell"])
    if shell == "fish":
        text = "\n".join(_fish())
    elif shell in {"bash", "zsh"}:
        cases = [f'    *" {name} "*) reply="{" ".join(words)}" ;;' for name, words in _words()]
        cases.append(f'    *) reply="{" ".join(COMMANDS)}" ;;')
        text = (_ZSH if shell == "zsh" else "") + _BASH % "\n".join(cases)
    else:
        shells = ("bash", "zsh", "fish")
        raise UsageError(f"shell {shell!r} is not known{did_you_mean(shell, shells)}", hint=", ".join(shells))
    output.result(text, {"shell": shell, "script": text})
    return 0


def _words() -> Iterator[tuple[str, list[str]]]:
    """Yield what stands on the line and what may follow, actions before the commands they belong to."""
    for name, command in sorted(every(), key=lambda item: -item[0].count(" ")):
        yield name, _names(command)
    for command in COMMANDS.values():
        if command.actions and not command.run:
            yield command.name, [action.name for action in command.actions]


def _names(command: Command) -> list[str]:
    known = command.known_names()
    choices = [f"{name}={choice}" for name, info in known.items() for choice in info.choices or _declared(name)]
    return [*(action.name for action in command.actions), *(f"{name}=" for name in known), *choices]


def _declared(name: str) -> list[str]:
    """Return the values of an option that names what plugins declare."""
    formats = get_registry().dataset_formats
    return [key for key, spec in formats.items() if spec.write is not None] if name == "to" else []


def _fish() -> Iterator[str]:
    for command in COMMANDS.values():
        yield f"complete -c segx -n __fish_use_subcommand -a {command.name} -d {_quoted(command.summary)}"
    for name, words in _words():
        seen = " and ".join(f"__fish_seen_subcommand_from {word};" for word in name.split()).rstrip(";")
        yield f"complete -c segx -n '{seen}' -a {_quoted(' '.join(words))}"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "\\'") + "'"
