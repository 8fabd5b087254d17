"""``segx train``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from segx.errors import UsageError
from segx_cli.commands import COMMANDS

if TYPE_CHECKING:
    from segx.options.verbs import TrainOptions
    from segx_cli.commands import Call
    from segx_cli.output import Output


def run(call: Call, output: Output) -> int:
    """Train, and say where the best weights are."""
    from segx import YOLO

    name, given = _model(call)
    model = YOLO(name, task=call.task)
    # A run that goes on has to know what was typed and what is a default; any other takes what is checked already.
    metrics = model.train(**given) if given.get("resume") else model.train(options=cast("TrainOptions", call.options))
    trained = model.trained
    if trained is None:
        return 0
    document = {
        "folder": trained.folder,
        "best": trained.best,
        "last": trained.last,
        "exported": trained.exported,
        "epochs": len(trained.history),
        "metrics": metrics.to_dict(),
    }
    output.result(str(trained.best or trained.last), document)
    return 0


def _model(call: Call) -> tuple[str, dict[str, Any]]:
    """Return the model and the options that were typed; a run that goes on names its model by its last.pt."""
    given, model = dict(call.given), call.arguments["model"]
    resume = given.get("resume", False)
    if model is None and not isinstance(resume, bool):
        return str(resume), {**given, "resume": True}
    if model is None:
        hint = "resume=runs/segment/train/weights/last.pt" if resume else COMMANDS["train"].example
        raise UsageError("train needs model=...", hint=hint)
    return str(model), given
