"""Runs an ONNX model: what ONNX Runtime is told, on which of its providers, and what it is fed."""

from __future__ import annotations

import logging
import os
from dataclasses import field
from typing import TYPE_CHECKING, Any

import numpy as np

from segx.errors import UsageError, did_you_mean
from segx.plugin.base import FormatSession
from segx.records import Record
from segx.runtime import cores, parse_device, variables

with variables(ORT_DISABLE_TELEMETRY="1"):  # read when it is imported; else it writes into the home folder and reports
    import onnxruntime

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from segx.options.verbs import SessionOptions
    from segx.structures.types import Array, Images

logger = logging.getLogger(__name__)

_ERRORS_ONLY = 3
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


class OnnxRuntimeSession(FormatSession[onnxruntime.InferenceSession]):
    """An ONNX model that is ready to run."""

    runtime = "ONNX Runtime"

    def _run(self, model: onnxruntime.InferenceSession, images: Images) -> list[Array]:
        (source,) = model.get_inputs()
        feed = images.astype(np.float16) if source.type == "tensor(float16)" else images
        outputs: list[Array] = model.run(list(self.info.outputs), {source.name: feed})
        return outputs


def available_providers() -> list[str]:
    """Return the names of what the installed ONNX Runtime can run on."""
    found: list[str] = onnxruntime.get_available_providers()
    return found


def start(path: Path, options: SessionOptions) -> tuple[onnxruntime.InferenceSession, str]:
    """Return ONNX Runtime's session for a file, and the name of the device it really runs on.

    Raises:
        UsageError: The device is not there.
    """
    device = choose_device(options.device, available_providers())
    session = onnxruntime.InferenceSession(str(path), sess_options=_settings(options), providers=device.chain)
    session.disable_fallback()
    if session.get_providers()[0] != device.provider:
        device = _fallback(device, wanted=options.device)
    return session, device.name


def _settings(options: SessionOptions) -> onnxruntime.SessionOptions:
    """Return the runtime's own options.

    Idle threads sleep instead of spinning: reading, decoding and masks run beside the network, and threads that spin
    between operators take the cores from them.
    """
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = _ERRORS_ONLY
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    restricted = cores() if cores() < (os.cpu_count() or 1) else 0  # 0: the runtime counts the machine's
    settings.intra_op_num_threads = options.threads or restricted
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return settings


def _fallback(device: Device, *, wanted: str | None) -> Device:
    """Return the CPU when nobody asked for the device whose libraries failed to load; else tell."""
    if wanted is not None:
        msg = f"device={wanted}: {device.provider} is installed but did not start"
        raise UsageError(msg, hint="its libraries (CUDA, cuDNN) are missing or of another version; or device=cpu")
    logger.warning("%s is installed but did not start: running on the CPU", device.provider)
    return Device(name="cpu", provider="CPUExecutionProvider")


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
