"""``segx verify``."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, cast

from segx.errors import ExportError

if TYPE_CHECKING:
    from segx.options.verbs import VerifyOptions
    from segx_cli.commands import Call
    from segx_cli.output import Output


def run(call: Call, output: Output) -> int:
    """Compare two models, and say how close they are; one that is too far off ends with the code of a failed export."""
    from segx import YOLO
    from segx.flows.parity import describe

    given, reference = str(call.arguments["model"]), str(call.arguments["reference"])
    options = cast("VerifyOptions", call.options)
    proof = YOLO(given, task=call.task).verify(reference, options=options)
    document = {
        "model": given,
        "reference": reference,
        "same": None if proof.doubt and not proof.problems else proof.holds,
        "problems": list(proof.problems),
        "doubt": proof.doubt,
        "parity": dataclasses.asdict(proof.parity),
    }
    if proof.holds:
        verdict = f"{given} finds what {reference} finds"
    elif proof.problems:
        verdict = f"{given} differs from {reference}: {'; '.join(proof.problems)}"
    else:
        hint = "" if options.data or proof.has_detections else "; data=coco8-seg.yaml compares photographs too"
        verdict = f"unproven: whether {given} finds what {reference} finds cannot be said: {proof.doubt}{hint}"
    output.result(f"{describe(proof.parity)}\n{verdict}", document)
    return 0 if proof.holds else ExportError.exit_code
