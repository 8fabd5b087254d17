"""Runs an ONNX model: which execution provider a ``device`` means, what ONNX Runtime is told, and what it is fed."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from segx.errors import UsageError, did_you_mean, reason
from segx.plugin.base import FormatSession
from segx.runtime import cores, parse_device, variables
from segx_backend_onnxruntime.rewriting import quicker

with variables(ORT_DISABLE_TELEMETRY="1"):  # read when it is imported; else it writes into the home folder and reports
    import onnxruntime

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from segx.options.verbs import SessionOptions
    from segx.structures.types import Array, Images

    Providers = list[tuple[str, dict[str, Any]]]

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


def devices() -> list[str]:
    """Return the kinds of device that the installed ONNX Runtime can run on."""
    return [name for name, provider in _PROVIDERS.items() if provider in onnxruntime.get_available_providers()]


def start(path: Path, options: SessionOptions) -> tuple[onnxruntime.InferenceSession, str]:
    """Return ONNX Runtime's session for a file, and the name of the device it really runs on.

    Raises:
        UsageError: The device is not there.
    """
    device, providers = choose_device(options.device, devices())
    session = _quicker(path, options) if device == "cpu" else None
    session = session or onnxruntime.InferenceSession(str(path), sess_options=_settings(options), providers=providers)
    session.disable_fallback()
    provider = providers[0][0]
    if session.get_providers()[0] == provider:
        return session, device
    if options.device is not None:
        msg = f"device={options.device}: {provider} is installed but did not start"
        raise UsageError(msg, hint="its libraries (CUDA, cuDNN) are missing or of another version; or device=cpu")
    logger.warning("%s is installed but did not start: running on the CPU", provider)
    return session, "cpu"


def _quicker(path: Path, options: SessionOptions) -> onnxruntime.InferenceSession | None:
    """Return a CPU session of what is quicker and computes the same, where there is such a thing."""
    try:
        model = quicker(path)
        return model and onnxruntime.InferenceSession(model, _settings(options), [_PROVIDERS["cpu"]])
    except Exception as error:  # noqa: BLE001 - of ONNX Runtime's own classes; the file itself says what is wrong with it
        logger.debug("%s runs as it is written: %s", path, reason(error))
        return None


def choose_device(wanted: str | None, available: Collection[str]) -> tuple[str, Providers]:
    """Return the device for what the user typed, ``"cpu"`` or ``"cuda:0"``, and its providers with their settings.

    The CPU's comes last, for operators that the device's own does not have.

    Args:
        wanted: ``cpu``, ``cuda``, ``cuda:1``, ``0``, ``mps``, ``dml``; None: CUDA where there is one, else the CPU.
        available: The kinds that the installed ONNX Runtime has; how many of each it does not say.

    Raises:
        UsageError: The device is not known, or this ONNX Runtime has no provider for it.
    """
    usual = "cuda" if "cuda" in available else "cpu"
    kind, number = parse_device(usual if wanted is None else wanted)
    if kind not in _PROVIDERS or (number and (kind not in _NUMBERED or not number.isdecimal())):
        msg = f"device={wanted} is not known to onnxruntime{did_you_mean(kind, _PROVIDERS.keys() - {kind})}"
        raise UsageError(msg, hint=f"one of {', '.join(_PROVIDERS)}, cuda:1 or a GPU's number")
    if kind not in available:
        msg = f"device={wanted}: the installed onnxruntime has no {_PROVIDERS[kind]}, only: {', '.join(available)}"
        raise UsageError(msg, hint=_INSTALL.get(kind, ""))
    settings: dict[str, Any] = {"device_id": int(number or 0)} if kind in _NUMBERED else {}
    if kind == "cuda":
        settings["cudnn_conv_algo_search"] = "HEURISTIC"  # the exhaustive default runs anew for each input size
    providers: Providers = [(_PROVIDERS[kind], settings)]
    if kind != "cpu":
        providers.append((_PROVIDERS["cpu"], {}))
    return f"{kind}:{int(number or 0)}" if kind in _NUMBERED else kind, providers


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
