"""The table behind "needs: pip install ..." is what the plugins declare, and covers every format promised."""

from __future__ import annotations

import importlib.util
import re
import sys
from typing import TYPE_CHECKING, Any

import pytest

from segx.plugin import known as known_plugins

if TYPE_CHECKING:
    from pathlib import Path

PROMISED = (
    "torchscript onnx openvino engine coreml saved_model pb tflite edgetpu tfjs paddle ncnn".split()  # noqa: SIM905 - a list to read
)


@pytest.fixture
def generator(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script that writes the table, as a module."""
    spec = importlib.util.spec_from_file_location(
        "generate_known_plugins", repository / "scripts/generate_known_plugins.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def test_the_table_is_fresh(generator: Any) -> None:
    committed = generator.TARGET.read_text(encoding="utf-8")
    assert committed == generator.render(), "run: .venv/bin/python scripts/generate_known_plugins.py"


@pytest.mark.parametrize("name", PROMISED)
def test_every_promised_format_is_known(name: str) -> None:
    known = known_plugins.FORMATS[name]
    assert known.suffixes
    assert known_plugins.PROVIDERS["exporter", name] == known.exporter
    assert re.fullmatch(r"segx-export-[a-z-]+", known.exporter)
    assert all(backend in known_plugins.PROVIDERS.values() for backend in known.backends)
    assert known.backends


def test_planned_means_not_here(generator: Any) -> None:
    assert not known_plugins.PLANNED & generator.workspace()
