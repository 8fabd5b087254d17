"""Whatever is typed ends in words that say what is wrong with it; ``unexpected`` is for faults of segx itself."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from segx_cli.commands import COMMANDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Segx = Callable[..., Any]

VALUES = (
    "", "0", "-1", "1e400", "nan", "[", "]", "[]", "[[", "(", "()", "[1,", "'", '"', "{}", "{'a': 1}", "None", "true",
    "x" * 5000, "9" * 5000, "[" * 2000, "\x1b[2J", "\ud800", "a\nb", "\x00", "~nobody/x", "file://%00", "http://", "*",
    "**", "[!", "a,b", "=", "==", "-", "--", "--no-", "@", "CON", "/dev/null", "é", "..", "/", "https://[::1", "1:2:3",
)  # fmt: skip


@pytest.mark.parametrize("seed", range(40))
def test_no_line_is_a_fault_of_segx(segx: Segx, seed: int, tiny_onnx: Path) -> None:
    chance = random.Random(seed)
    command = COMMANDS[chance.choice([name for name in COMMANDS if name not in {"doctor", "train"}])]
    actions = [action for action in command.actions if action.name != "new"]
    owner = chance.choice(actions) if actions else command
    names = list(owner.known_names()) or ["x"]
    for _ in range(6):
        line = [command.name] if owner is command else [command.name, owner.name]
        for _ in range(chance.randrange(4)):
            name, value = chance.choice(names), chance.choice(VALUES)
            line += chance.choice(([f"{name}={value}"], [f"--{name}", value], [value], [f"--{name}={value}"], [name]))
        if command.name in {"predict", "val", "info"} and chance.random() < 0.5:
            line.append(f"model={tiny_onnx}")
        chance.shuffle(line)
        ended = segx(*line)
        assert "unexpected" not in ended.err, line
        assert ended.code in {0, 2, 3, 4, 5}, (line, ended.err)
        assert len(ended.err) < 4000, line
