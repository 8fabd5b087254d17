"""The commands of ``segx``, one record each; what does the work is imported when it is asked for."""

from __future__ import annotations

import importlib
from dataclasses import field
from typing import TYPE_CHECKING, Any

from segx.options.schema import OptionInfo
from segx.records import Record

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from segx.options.schema import Options
    from segx_cli.output import Output


class Call(Record):
    """A checked call of a command.

    Attributes:
        task: The task that was named, if one was.
        arguments: What the command works on: ``model``, ``source``, ``format``.
        options: How.
        given: Those of the options that were typed or are the command line's own default.
    """

    task: str | None
    arguments: Mapping[str, Any]
    options: Any  # of the command's own class
    given: Mapping[str, Any]


class Command(Record):
    """One command, or one action of a command.

    Attributes:
        name: What is typed.
        summary: One line for the help.
        run: ``"module:function"``, which takes the call and the output and returns the exit code; a command that has
            only actions has none.
        options: ``"module:class"`` of the options it takes.
        narrow: ``"module:function"``, which returns the options for certain arguments, where that depends on them.
        arguments: What it works on; those without a default must be given.
        defaults: Options whose default on the command line is not Python's.
        python_only: Options that mean nothing on a command line.
        word: The argument or option that a bare word stands for.
        verb: It works on a model, and a bare word is the task.
        example: A whole line.
        quick: It is often over at once, and switches garbage collection on itself when it is not.
        actions: What there is to do, where the command is more than one thing.
    """

    name: str
    summary: str
    run: str = ""
    options: str = "segx.options.schema:Options"
    narrow: str = ""
    arguments: tuple[OptionInfo, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    python_only: frozenset[str] = frozenset()
    word: str = ""
    verb: bool = False
    example: str = ""
    quick: bool = False
    actions: tuple[Command, ...] = ()

    def known_options(self, arguments: Mapping[str, Any] | None = None) -> tuple[OptionInfo, ...]:
        """Return the options it takes for these arguments; without any, all that it may take."""
        kind = self.options_type(arguments) if arguments else _load(self.options)
        return tuple(info for info in kind.describe() if info.name not in self.python_only)

    def options_type(self, arguments: Mapping[str, Any]) -> type[Options]:
        """Return the options it takes for these arguments."""
        found: type[Options] = _load(self.narrow)(arguments) if self.narrow else _load(self.options)
        return found

    def known_names(self) -> dict[str, OptionInfo]:
        """Return everything that may stand before ``=``."""
        common = COMMON if self.verb else ()
        return {info.name: info for info in (*self.arguments, *common, *self.known_options())}

    def execute(self, call: Call, output: Output) -> int:
        """Do it and return the exit code."""
        code: int = _load(self.run)(call, output)
        return code


def _load(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def argument(name: str, help: str, *, type_name: str = "text", default: Any = ...) -> OptionInfo:  # noqa: A002
    """Declare an argument of a command; one without a default must be given."""
    return OptionInfo(name=name, type_name=type_name, default=default, help=help, range="")


DEFAULT_MODEL = "yolov8n-seg.pt"
MODEL = argument("model", "model file or folder, or a known name such as yolov8n-seg.pt", type_name="path")
USUAL_MODEL = argument(MODEL.name, MODEL.help, type_name="path", default=DEFAULT_MODEL)
COMMON = (
    argument("task", "the task the model must have, as the first word or here", default=None),
    argument("cfg", "YAML file of options; what is typed goes before it", type_name="path", default=None),
)


def every() -> Iterator[tuple[str, Command]]:
    """Yield what is typed after ``segx``, and its record: commands that do something, and actions."""
    for command in COMMANDS.values():
        if command.run:
            yield command.name, command
        for action in command.actions:
            yield f"{command.name} {action.name}", action


COMMANDS = {
    command.name: command
    for command in (
        Command(
            name="predict",
            summary="find objects in images, videos, streams",
            run="segx_cli.predict:run",
            options="segx.options.verbs:PredictOptions",
            arguments=(
                USUAL_MODEL,
                argument(
                    "source", "image, folder, pattern, list file, video, camera number, or address", type_name="path"
                ),
            ),
            defaults={"save": True},
            python_only=frozenset({"stream"}),
            quick=True,
            verb=True,
            example="segx predict model=yolov8n-seg.pt source=photo.jpg",
        ),
        Command(
            name="train",
            summary="teach a model your own classes",
            run="segx_cli.train:run",
            options="segx.options.verbs:TrainOptions",
            arguments=(
                argument(
                    "model",
                    "YAML of a new model, or a .pt to start from; not needed with resume=",
                    type_name="path",
                    default=None,
                ),
            ),
            verb=True,
            example="segx train model=yolov8n-seg.yaml data=coco128-seg.yaml epochs=100",
        ),
        Command(
            name="val",
            summary="measure a model on a data set",
            run="segx_cli.val:run",
            options="segx.options.verbs:ValOptions",
            arguments=(USUAL_MODEL,),
            verb=True,
            example="segx val model=yolov8n-seg.pt data=coco8-seg.yaml",
        ),
        Command(
            name="export",
            summary="write a model in another format, and prove it",
            run="segx_cli.export:run",
            options="segx_cli.export:EveryFormat",
            narrow="segx_cli.export:options_of",
            arguments=(MODEL, argument("format", "what to write; segx formats lists them")),
            verb=True,
            example="segx export model=yolov8n-seg.pt format=onnx",
        ),
        Command(
            name="verify",
            summary="compare a model with the one it was made from",
            run="segx_cli.verify:run",
            options="segx.options.verbs:VerifyOptions",
            arguments=(MODEL, argument("reference", "the model it was made from", type_name="path")),
            verb=True,
            example="segx verify model=yolov8n-seg.onnx reference=yolov8n-seg.pt",
        ),
        Command(
            name="benchmark",
            summary="measure a model in every format: accuracy, speed, size",
            run="segx_cli.benchmark:run",
            options="segx.options.verbs:BenchmarkOptions",
            arguments=(USUAL_MODEL,),
            verb=True,
            example="segx benchmark model=yolov8n-seg.pt data=coco8-seg.yaml",
        ),
        Command(
            name="info",
            summary="what is known of a model",
            run="segx_cli.info:run",
            options="segx.options.verbs:VerbOptions",
            arguments=(MODEL,),
            verb=True,
            example="segx info model=yolov8n-seg.onnx",
        ),
        Command(
            name="formats",
            summary="the model formats, and what can make and run them here",
            run="segx_cli.formats:run",
        ),
        Command(
            name="plugins",
            summary="what is installed, what is broken; plugins new NAME writes one",
            run="segx_cli.plugins:run",
            actions=(
                Command(
                    name="list",
                    summary="what is installed and what it declares; broken plugins with the reason",
                    run="segx_cli.plugins:run",
                ),
                Command(
                    name="new",
                    summary="write a whole new plugin from a template: declaration, work, tests that pass",
                    run="segx_cli.plugins:new",
                    arguments=(
                        argument("name", "kind and name: export-foo, backend-foo, data-foo, logger-foo"),
                        argument("folder", "where the plugin's folder is made", type_name="path", default="."),
                    ),
                    word="name",
                    example="segx plugins new export-foo",
                ),
            ),
        ),
        Command(
            name="data",
            summary="check, convert, split, show data sets",
            actions=tuple(
                Command(
                    name=name,
                    summary=summary,
                    run=f"segx_cli.data:{name}",
                    options=f"segx.options.verbs:Data{name.title()}Options",
                    word="data",
                    example=f"segx data {name} data=coco8-seg.yaml",
                )
                for name, summary in (
                    ("check", "say what is wrong with a data set"),
                    ("convert", "write it in another format"),
                    ("split", "divide one split into train, val and test"),
                    ("show", "draw ground truth on one sheet"),
                )
            ),
        ),
        Command(name="doctor", summary="check this installation", run="segx_cli.doctor:run"),
        Command(
            name="cache",
            summary="downloaded files: list, clear; SEGX_CACHE says where they are kept",
            run="segx_cli.cache:run",
            actions=(
                Command(name="list", summary="the files in the cache folder", run="segx_cli.cache:run"),
                Command(
                    name="clear",
                    summary="remove them, or those that match; data sets only when 'datasets/*' asks for them",
                    run="segx_cli.cache:clear",
                    arguments=(argument("pattern", "only files that match, such as 'weights/*'", default="*"),),
                    word="pattern",
                ),
            ),
        ),
        Command(
            name="completion",
            summary="print what lets a shell complete segx: bash, zsh or fish",
            run="segx_cli.completion:run",
            arguments=(argument("shell", "bash, zsh or fish"),),
            word="shell",
            example='eval "$(segx completion bash)"',
        ),
    )
}

ELSEWHERE = {
    "settings": "segx keeps no settings: an option is typed, or stands in cfg=FILE; segx --help lists the variables",
    "cfg": "segx VERB --help shows every option with its default; cfg=FILE reads them from a YAML",
    "copy-cfg": "segx VERB --help shows every option with its default; cfg=FILE reads them from a YAML",
    "tune": "segx searches no settings; each of them is an option of train: segx train --help",
    "solutions": "boxes and masks of results are what is counted, cut out, blurred; supervision has zones, heat maps",
    **dict.fromkeys(("hub", "login", "logout"), "nothing is sent anywhere, and nobody has an account"),
    "track": "segx gives no ids to objects; the package trackers, and supervision, take its results",
}
"""What programs of the same kind have, and what does that job here."""
TASKS_ELSEWHERE = frozenset({"classify", "detect", "obb", "pose"})
"""Tasks that programs of the same kind have: no misspelling of ours."""
ALIASES = {"checks": ["doctor"], "version": ["--version"]}
"""What is typed elsewhere, and what is the same here."""
