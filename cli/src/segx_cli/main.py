"""``segx``: finds the command in the line, runs it, and turns every ending into words and an exit code.

Only this file, the table of commands and the help are imported for ``segx --help``. Every command is a record of that
table, with one grammar; Typer is imported only for what a plugin adds.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any, NoReturn

from segx.errors import SegxError, UsageError, did_you_mean
from segx.plugin.guard import one_line
from segx.runtime import take_process
from segx.words import visible
from segx_cli.commands import ALIASES, COMMANDS, ELSEWHERE, TASKS_ELSEWHERE
from segx_cli.line import Switches, is_pair, read_call, take_switches
from segx_cli.output import Output, opencv_hint, results_apart

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from segx_cli.commands import Command

INTERRUPTED = 130
TERMINATED = 143
BROKEN_PIPE = 141


class TerminatedError(KeyboardInterrupt):
    """Somebody has sent SIGTERM: what is begun is ended as after Ctrl-C, and nothing half-written is left."""

    asked_for = True


def program() -> NoReturn:
    """Be the command ``segx``: run the command line of this process and end it.

    The process belongs to segx, which may tune it. It ends as Python ends one, but for taking every object apart, which
    takes 50 ms and gives nothing back that the system would not.
    """
    take_process()
    gc.disable()  # what is imported stays: looking through it for garbage took 15 ms; commands switch it on again
    code = main()
    threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001 - what Python calls first of all at the end
    atexit._run_exitfuncs()  # noqa: SLF001 - and then
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # closed by who started the program, or since
            stream.flush()
    os._exit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    if len(tokens) == 1 and tokens[0] in ALIASES:
        tokens = ALIASES[tokens[0]]
    switches, _ = take_switches(tokens)
    with results_apart() as stream:
        asked: list[int] = []
        output = Output(json=switches.json, quiet=switches.quiet, debug=switches.debug, stream=stream)
        try:
            with _stoppable(asked):
                code = _run(tokens, switches, output)
            if stream is not None:
                stream.flush()
        except BrokenPipeError:
            # Who reads has had enough; Python would complain once more when it flushes at the end.
            if stream is not None:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            return BROKEN_PIPE
        except TerminatedError:
            _say("stopped by SIGTERM")
            return TERMINATED
        except KeyboardInterrupt:
            _say("stopped")
            return INTERRUPTED
        except BaseException as error:  # noqa: BLE001 - whatever it is, it ends in words and an exit code
            if asked:  # a library that was being imported or called has made another error of it
                _say("stopped by SIGTERM" if signal.SIGTERM in asked else "stopped")
                return TERMINATED if signal.SIGTERM in asked else INTERRUPTED
            return _notify(error, output)
        return code


@contextlib.contextmanager
def _stoppable(asked: list[int]) -> Iterator[None]:
    """Let SIGTERM end what runs in the way that Ctrl-C does, where nobody has decided otherwise, and note either."""

    def end(*_: object) -> None:
        asked.append(signal.SIGTERM)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # who asks again does not want to wait
        raise TerminatedError

    def stop(*_: object) -> None:
        asked.append(signal.SIGINT)
        raise KeyboardInterrupt

    handlers: dict[signal.Signals, tuple[Any, Any]] = {
        signal.SIGTERM: (signal.SIG_DFL, end),
        signal.SIGINT: (signal.default_int_handler, stop),
    }
    here = threading.current_thread() is threading.main_thread()
    ours = [number for number, (usual, _) in handlers.items() if here and signal.getsignal(number) == usual]
    for number in ours:
        signal.signal(number, handlers[number][1])
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, handlers[number][0])


def _run(tokens: list[str], switches: Switches, output: Output) -> int:
    """Run the parsed command line."""
    from segx_cli import help as pages

    _, words = take_switches(tokens)
    name, rest = find_command(words)
    if switches.version and (name is None or name in COMMANDS):
        import segx

        output.result(f"segx {segx.__version__}", {"segx": segx.__version__})
        return 0
    if name is None:
        if any(word != "help" for word in words):
            raise _no_command(words)
        _page(pages.overview(), output)
        return 0
    command = COMMANDS.get(name)
    from segx_cli import logs

    with logs.listening(output):
        if command is None:
            return _run_plugins(name, tokens, output)
        return _run_command(command, rest, output, helps=switches.help or "help" in rest)


def _run_command(command: Command, words: list[str], output: Output, *, helps: bool) -> int:
    """Run a command of our own, or one of its actions, or explain it."""
    from segx_cli import help as pages

    program, words = f"segx {command.name}", [word for word in words if word != "help"]
    if command.actions:
        action = _action(command, words)
        if action is None and (helps or not command.run):
            _page(pages.actions_page(command, _plugins_actions(command)), output)
            return 0
        if isinstance(action, str):
            return _run_plugins(action, [action, *words, *(["--help"] if helps else [])], output)
        if action is not None:
            command, program = action, f"{program} {action.name}"
    if helps:
        _page(pages.page(command, program, words), output)
        return 0
    call = read_call(command, words, program=program)
    if not command.quick:
        gc.enable()
    return command.execute(call, output)


def _action(command: Command, words: list[str]) -> Command | str | None:
    """Take the word that names what to do; of what a plugin adds return the plugin's command."""
    place = next((index for index, word in enumerate(words) if _is_word(word)), None)
    if place is None:
        return None
    word = words.pop(place)
    if own := next((action for action in command.actions if action.name == word), None):
        return own
    added = _plugins_actions(command)
    if word in added:
        return f"{command.name}-{word}"
    known = [*(action.name for action in command.actions), *added]
    raise UsageError(
        f"segx {command.name} has no action {word!r}{did_you_mean(word, known)}", hint=f"segx {command.name} --help"
    )


def _plugins_actions(command: Command) -> dict[str, str]:
    """Return name and summary of the actions that plugins add: those of ``data`` are commands named ``data-NAME``."""
    from segx.plugin.registry import get_registry

    prefix = f"{command.name}-"
    found = get_registry().commands.items()
    return {name.removeprefix(prefix): spec.summary for name, spec in found if name.startswith(prefix)}


def _page(text: str, output: Output) -> None:
    """Show a page of help, which is text even where results are JSON."""
    print(visible(text), file=output.stream)


def find_command(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the command among the words, wherever it stands, and the other words.

    A word that follows ``--name`` is that option's value, unless nothing else could be the command.
    """
    if "--mode" in words[:-1]:
        place = list(words).index("--mode")
        words = [*words[:place], f"mode={words[place + 1]}", *words[place + 2 :]]
    mode = next((word for word in words if word.removeprefix("--").startswith("mode=")), None)
    if mode is not None:
        name = mode.partition("=")[2]
        if name not in COMMANDS:
            raise UsageError(f"mode {name!r} is not known{did_you_mean(name, COMMANDS)}")
        return name, [word for word in words if word is not mode]
    if words and _is_word(words[0]) and words[0] not in COMMANDS and _is_plugin_command(words[0]):
        return words[0], list(words[1:])  # its own actions may be called as commands of ours: segx bulk predict
    places = [index for index, word in enumerate(words) if word in COMMANDS]
    free = [index for index in places if not (index and words[index - 1].startswith("--"))]
    for index in free or places:
        return words[index], [*words[:index], *words[index + 1 :]]
    first = next((word for word in words if _is_word(word)), None)
    if first is not None and first != "help" and _is_plugin_command(first):
        index = list(words).index(first)
        return first, [*words[:index], *words[index + 1 :]]
    return _mode_of_file(words), list(words)


def _mode_of_file(words: Sequence[str]) -> str | None:
    """Return the verb that the file of options names, where the line names none and there is such a file."""
    from segx.io.files import read_options

    pair = next((word for word in words if word.removeprefix("--").startswith("cfg=")), None)
    if pair is None:
        return None
    mode = str(read_options(pair.partition("=")[2]).get("mode"))
    return mode if mode in COMMANDS else None


def _is_word(word: str) -> bool:
    return not word.startswith("-") and not is_pair(word)


def _is_plugin_command(word: str) -> bool:
    from segx.plugin.registry import get_registry

    return word in get_registry().commands


def _no_command(words: Sequence[str]) -> SegxError:
    """Return the error for a line without a command."""
    from segx.plugin.registry import get_registry

    known = next((word for word in words if word in ELSEWHERE), None)
    if known is not None:
        return UsageError(f"segx has no command {known!r}", hint=ELSEWHERE[known])
    registry = get_registry()
    commands = {*COMMANDS, *registry.commands}
    tasks = {*registry.tasks, *TASKS_ELSEWHERE}
    strays = [word for word in words if _is_word(word) and word not in tasks and word != "help"]
    if not strays:
        typed = " ".join(words)
        return UsageError(f"{typed!r} names no command", hint=f"commands: {', '.join(sorted(commands))}")
    word = strays[0]
    close = did_you_mean(word, {*commands, *registry.tasks})
    return UsageError(f"{word!r} is no command and no task{close}", hint="segx --help lists the commands")


def _run_plugins(name: str, tokens: list[str], output: Output) -> int:
    """Run a command that a plugin adds, which gets its arguments as they were typed."""
    from segx_cli import tools

    gc.enable()
    return tools.run_plugin(name, tokens[tokens.index(name) + 1 :], output)


def _notify(error: BaseException, output: Output) -> int:
    """Say what went wrong, and return the exit code."""
    if output.debug:
        _print_traceback(error)
    if isinstance(error, SegxError):
        code, message, hint = error.exit_code, error.message, error.hint
    elif _is_typers(error):
        code, message, hint = getattr(error, "exit_code", 1), _typers_words(error), ""
        if place := getattr(getattr(error, "ctx", None), "command_path", ""):
            hint = f"{place} --help lists the options"
    elif isinstance(error, ImportError) and (error.name == "cv2" or "libGL" in str(error)):
        code, message, hint = 5, f"OpenCV cannot be imported ({one_line(error)})", opencv_hint(str(error))
    elif isinstance(error, OSError) and error.filename:
        code, message, hint = 1, f"{error.filename}: {error.strerror}", "the same with --debug shows where"
    else:
        code, message, hint = 1, f"unexpected {one_line(error)}", "the same with --debug shows where"
    message = visible(message, lines=False)
    _say(f"{message}\n  {hint}" if hint else message)
    if output.json:
        with contextlib.suppress(SegxError):  # what could not be written is the error
            output.result("", {"error": {"message": message, "hint": hint, "exit_code": code}})
    return code


def _is_typers(error: BaseException) -> bool:
    """Return True if Typer raised it; when Typer was not imported it did not."""
    typer: Any = sys.modules.get("typer")
    return typer is not None and isinstance(error, (typer.exceptions.TyperException, typer.Exit, typer.Abort))


def _typers_words(error: BaseException) -> str:
    words = error.format_message() if hasattr(error, "format_message") else "aborted"
    return words[:1].lower() + words[1:].rstrip(".") if words else "the command could not be read"


def _say(text: str) -> None:
    """Print to standard error, whatever has become of it."""
    with contextlib.suppress(OSError):
        print(f"segx: {visible(text)}", file=sys.stderr)


def _print_traceback(error: BaseException) -> None:
    import traceback

    with contextlib.suppress(OSError):
        print(visible("".join(traceback.format_exception(error))), file=sys.stderr, end="")
