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
        "same": proof.holds if proof.comparable or proof.problems else None,
        "problems": list(proof.problems),
        "parity": dataclasses.asdict(proof.parity),
    }
    if proof.holds:
        verdict = f"{given} finds what {reference} finds"
    elif proof.problems:
        verdict = f"{given} differs from {reference}: {'; '.join(proof.problems)}"
    else:
        cure = "" if options.data else ": data=coco8-seg.yaml compares photographs too"
        verdict = f"unproven: {given} and {reference} find nothing that could be compared{cure}"
    output.result(f"{describe(proof.parity)}\n{verdict}", document)
    return 0 if proof.holds else ExportError.exit_code
