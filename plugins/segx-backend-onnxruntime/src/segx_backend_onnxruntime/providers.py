"""Which execution provider of ONNX Runtime a ``device`` means, and whether it is there."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Any

from segx.errors import UsageError, did_you_mean
from segx.records import Record
from segx.runtime import parse_device

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_PROVIDERS: Mapping[str, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "mps": "CoreMLExecutionProvider",
    "dml": "DmlExecutionProvider",
}
_INSTALL: Mapping[str, str] = {
    "cuda": "pip install onnxruntime-gpu (in place of onnxruntime), or device=cpu",
    "mps": "onnxruntime has it on macOS; elsewhere device=cpu",
    "dml": "pip install onnxruntime-directml (Windows), or device=cpu",
}
_NUMBERED = frozenset({"cuda", "dml"})


class Device(Record):
    """Where a session runs.

    Attributes:
        name: ``"cpu"``, ``"cuda:0"``.
        provider: The execution provider's name.
        settings: What the provider is told.
    """

    name: str
    provider: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def chain(self) -> list[tuple[str, dict[str, Any]]]:
        """The provider, then the CPU for operators that it does not have."""
        chosen = (self.provider, dict(self.settings))
        fallback: tuple[str, dict[str, Any]] = (_PROVIDERS["cpu"], {})
        return [chosen] if self.provider == fallback[0] else [chosen, fallback]


def choose_device(wanted: str | None, available: Collection[str]) -> Device:
    """Return the device for what the user typed; None means CUDA where there is one, else the CPU.

    Args:
        wanted: ``cpu``, ``cuda``, ``cuda:1``, ``0``, ``mps``, ``dml`` or None.
        available: Names of the execution providers of the installed ONNX Runtime.

    Raises:
        UsageError: The device is not known, or this ONNX Runtime has no provider for it.
    """
    if wanted is None:
        return _device("cuda" if _PROVIDERS["cuda"] in available else "cpu", 0)
    kind, index = _known(wanted)
    if _PROVIDERS[kind] not in available:
        there = ", ".join(devices(available))
        msg = f"device={wanted}: the installed onnxruntime has no {_PROVIDERS[kind]}, only: {there}"
        raise UsageError(msg, hint=_INSTALL.get(kind, ""))
    return _device(kind, index)


def devices(available: Collection[str]) -> list[str]:
    """Return the kinds of device that the execution providers of an ONNX Runtime make usable."""
    return [name for name, provider in _PROVIDERS.items() if provider in available]


def _known(wanted: str) -> tuple[str, int]:
    """Return the kind and the number of a device that ONNX Runtime could have."""
    kind, number = parse_device(wanted)
    if kind not in _PROVIDERS or (number and (kind not in _NUMBERED or not number.isdecimal())):
        msg = f"device={wanted} is not known to onnxruntime{did_you_mean(kind, _PROVIDERS.keys() - {kind})}"
        raise UsageError(msg, hint=f"one of {', '.join(_PROVIDERS)}, cuda:1 or a GPU's number")
    return kind, int(number or 0)


def _device(kind: str, index: int) -> Device:
    if kind not in _NUMBERED:
        return Device(name=kind, provider=_PROVIDERS[kind])
    settings: dict[str, Any] = {"device_id": index}
    if kind == "cuda":
        settings["cudnn_conv_algo_search"] = "HEURISTIC"  # the exhaustive default runs anew for each input size
    return Device(name=f"{kind}:{index}", provider=_PROVIDERS[kind], settings=settings)
