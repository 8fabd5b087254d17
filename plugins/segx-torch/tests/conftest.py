"""Containers put together byte by byte, so that a test can forge any part of one."""

from __future__ import annotations

import struct
import zipfile
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from pathlib import Path

MODULE_STATE = ("_parameters", "_buffers", "_modules")


class Forge:
    """Writes pickles opcode by opcode, and the archives that hold them."""

    def pickle(self, body: bytes, protocol: int = 2) -> bytes:
        return b"\x80" + bytes([protocol]) + body + b"."

    def name(self, module: str, name: str) -> bytes:
        return f"c{module}\n{name}\n".encode()

    def text(self, text: str) -> bytes:
        raw = text.encode("utf-8", "surrogatepass")
        return b"X" + struct.pack("<I", len(raw)) + raw

    def number(self, value: int) -> bytes:
        if -(2**31) <= value < 2**31:
            return b"J" + struct.pack("<i", value)
        raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + bytes([len(raw)]) + raw

    def real(self, value: float) -> bytes:
        return b"G" + struct.pack(">d", value)

    def tuple(self, *items: bytes) -> bytes:
        return b"(" + b"".join(items) + b"t"

    def list(self, *items: bytes) -> bytes:
        return b"](" + b"".join(items) + b"e"

    def dict(self, items: dict[str, bytes]) -> bytes:
        return b"}(" + b"".join(self.text(key) + value for key, value in items.items()) + b"u"

    def call(self, function: bytes, *arguments: bytes) -> bytes:
        return function + self.tuple(*arguments) + b"R"

    def ordered(self) -> bytes:
        return self.call(self.name("collections", "OrderedDict"))

    def storage(self, key: str, count: int, kind: str = "FloatStorage", place: str = "cpu") -> bytes:
        parts = (self.text("storage"), self.name("torch", kind), self.text(key), self.text(place), self.number(count))
        return self.tuple(*parts) + b"Q"

    def tensor(
        self,
        storage: bytes,
        shape: tuple[int, ...],
        stride: tuple[int, ...],
        offset: int = 0,
        hooks: bytes | None = None,
    ) -> bytes:
        return self.call(
            self.name("torch._utils", "_rebuild_tensor_v2"),
            storage,
            self.number(offset),
            self.tuple(*map(self.number, shape)),
            self.tuple(*map(self.number, stride)),
            b"\x89",
            self.ordered() if hooks is None else hooks,
        )

    def parameter(self, tensor: bytes) -> bytes:
        return self.call(self.name("torch._utils", "_rebuild_parameter"), tensor, b"\x88", self.ordered())

    def module(
        self,
        kind: tuple[str, str],
        parameters: dict[str, bytes] | None = None,
        modules: dict[str, bytes] | None = None,
        **extra: bytes,
    ) -> bytes:
        parts = dict(zip(MODULE_STATE, map(self.dict, (parameters or {}, {}, modules or {})), strict=True))
        return self.name(*kind) + b")\x81" + self.dict({**parts, **extra}) + b"b"

    def official(self, *, about: dict[str, bytes] | None = None, **extra: bytes) -> bytes:
        """Return the pickle of a model of one convolution, whose weight is storage 0: four floats."""
        weight = self.parameter(self.tensor(self.storage("0", 4), (2, 2), (2, 1)))
        conv = self.module(("torch.nn.modules.conv", "Conv2d"), {"weight": weight, "bias": b"N"})
        model = self.module(("ultralytics.nn.tasks", "SegmentationModel"), modules={"conv": conv}, **extra)
        return self.pickle(self.dict({"epoch": self.number(-1), **(about or {}), "model": model}))

    def weights(self, **entries: bytes) -> bytes:
        """Return the pickle of a state dict: one good weight, storage 0, and whatever else is given."""
        good = self.tensor(self.storage("0", 4), (2, 2), (2, 1))
        return self.pickle(self.dict({"good": good, **entries}))

    def archive(
        self, path: Path, pickle: bytes, storages: dict[str, bytes] | None = None, *, extra: Any = None, root: str = "m"
    ) -> Path:
        """Write an archive as ``torch.save`` lays it out; storage 0 holds 1, 2, 3, 4."""
        entries = {"data.pkl": pickle, "byteorder": b"little"}
        for key, data in (storages or {"0": np.arange(1, 5, dtype="<f4").tobytes()}).items():
            entries[f"data/{key}"] = data
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in {**entries, "version": b"3\n", **(extra or {})}.items():
                archive.writestr(f"{root}/{name}", data)
        return path


@pytest.fixture(scope="session")
def forge() -> Forge:
    """The forge."""
    return Forge()


@pytest.fixture(scope="session")
def tiny() -> SimpleNamespace:
    """A small model of the real family: architecture, configuration and module."""
    import torch
    import yaml

    from segx.plugin.registry import get_registry
    from segx.testing.models import TINY_YOLOV8

    architecture = get_registry().architectures.load("yolov8-seg")
    config = architecture.config_from_definition(yaml.safe_load(TINY_YOLOV8), variant="tinyn-seg")
    with torch.random.fork_rng():
        torch.manual_seed(7)
        module = architecture.build(config).eval()
    return SimpleNamespace(architecture=architecture, config=config, module=module)
