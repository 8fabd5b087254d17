"""What editors know of the verbs is what the verbs take."""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path

from segx import YOLO

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "generate_arguments.py"


def test_the_types_of_the_verbs_are_those_of_their_options() -> None:
    found = importlib.util.spec_from_file_location("generate_arguments", SCRIPT)
    assert found is not None
    assert found.loader is not None
    generator = importlib.util.module_from_spec(found)
    found.loader.exec_module(generator)
    stale = "run scripts/generate_arguments.py"
    assert generator.PAGE.read_text(encoding="utf-8") == generator.arguments(), stale


def test_every_verb_names_its_options() -> None:
    for verb in ("predict", "val", "train"):
        (options,) = [
            parameter
            for parameter in inspect.signature(getattr(YOLO, verb)).parameters.values()
            if parameter.kind is inspect.Parameter.VAR_KEYWORD
        ]
        wanted = "Any" if verb == "predict" else f"Unpack[{verb.title()}Arguments]"  # predict has overloads
        assert options.annotation == wanted
