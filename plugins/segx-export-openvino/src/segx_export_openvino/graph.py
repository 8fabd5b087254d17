"""What is done with a graph in OpenVINO: read from ONNX, described, and written."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from segx.errors import ExportError, reason

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # else the import writes into ~/intel
import openvino as ov  # noqa: E402 - after that
from openvino.passes import ConstantFolding, Manager  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_HEAVY = frozenset({"Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul"})
_FEW_WEIGHTS = 256
"""A layer of fewer weights is arithmetic in disguise, like the expectation over 16 bins of a box's side."""
_NOT_COMPUTED = frozenset({"Parameter", "Constant", "Result", "Convert"})
_PLACES = ("Exception from ",)
"""How lines of an error begin that only say where in OpenVINO's source it was raised."""
_FRAMEWORK = "framework"
"""Where OpenVINO keeps what it was told by the file it has read a model from."""


def cpu_has_bf16() -> bool:
    """Return True if OpenVINO computes in bfloat16 on this machine's CPU."""
    core = ov.Core()
    return "CPU" in core.available_devices and "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def read(source: Path) -> ov.Model:
    """Return the graph of an ONNX file, in the operations that OpenVINO computes best.

    One in 8 bits is read by ``convert_model``, which reports its use where it finds the module for that: compiled as
    ``read_model`` leaves it, OpenVINO 2026.4 finds nothing in it.

    Raises:
        ExportError: OpenVINO does not know what is in it.
    """
    try:
        model = ov.Core().read_model(str(source))
        return ov.convert_model(str(source)) if is_quantised(model) else simplified(model)
    except Exception as error:  # OpenVINO's errors share no class but this one
        msg = (
            f"OpenVINO {ov.__version__.partition('-')[0]} cannot read {source.name} ({reason(error, passing=_PLACES)})"
        )
        raise ExportError(msg, hint="another opset may work, or a newer OpenVINO") from error


def simplified(model: ov.Model) -> ov.Model:
    """Return a graph in the operations that OpenVINO computes fastest, which its reader does not write by itself.

    Biases are constants, and SiLU is one operation. Where it was two, NNCF put 8 bits around each of them: that takes
    a CPU a third more time, and the sigmoid loses most of what is small. Weights of few bits stay as they are: folding
    would widen them.
    """
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Sigmoid":
            source = node.input_value(0)
            for reader in [end.get_node() for end in node.output(0).get_target_inputs()]:
                if reader.get_type_name() == "Multiply" and source in reader.input_values():
                    one = ov.opset13.constant(1, source.get_element_type())  # of itself a float32, whatever the source
                    silu = ov.opset4.swish(source, one)
                    silu.set_friendly_name(reader.get_friendly_name())
                    ov.utils.replace_node(reader, silu)
    if not any(_unpacks_weights(node) for node in model.get_ordered_ops()):
        passes = Manager()
        passes.register_pass(ConstantFolding())
        passes.run_passes(model)
    return model


def _unpacks_weights(node: ov.Node) -> bool:
    """Return True if weights of 16 bits or fewer are widened by it, which folding would do for good."""
    if node.get_type_name() != "Convert" or node.input_value(0).get_node().get_type_name() != "Constant":
        return False
    narrow = node.input_value(0).get_node()
    return bool(narrow.get_element_type().size < ov.Type.f32.size and narrow.data.size >= _FEW_WEIGHTS)


def save(model: ov.Model, destination: Path, metadata: Mapping[str, str], *, small: bool) -> None:
    """Write a graph as ``.xml`` and ``.bin``.

    The metadata of the ONNX file give way to those of the result, so that the two files say what they are where
    somebody takes them out of their folder.

    Args:
        model: The graph.
        destination: The ``.xml``.
        metadata: What is to travel with it.
        small: Weights of 16 bits.

    Raises:
        ExportError: It cannot be written.
    """
    if model.has_rt_info(_FRAMEWORK):
        del model.get_rt_info()[_FRAMEWORK]
    for key, value in metadata.items():
        model.set_rt_info(value, [_FRAMEWORK, key])
    try:
        ov.save_model(model, str(destination), compress_to_fp16=small)
    except Exception as error:
        raise ExportError(f"OpenVINO cannot write {destination.name} ({reason(error, passing=_PLACES)})") from error


def is_quantised(model: ov.Model) -> bool:
    """Return True if a graph computes in 8 bits already."""
    return any(node.get_type_name() == "FakeQuantize" for node in model.get_ordered_ops())


def tail(model: ov.Model) -> list[str]:
    """Return the names of the operations after which no layer with weights comes."""
    ahead: set[str] = set()
    after: list[str] = []
    for node in reversed(model.get_ordered_ops()):
        name = node.get_friendly_name()
        readers = {end.get_node().get_friendly_name() for out in node.outputs() for end in out.get_target_inputs()}
        if _is_heavy(node) or readers & ahead:
            ahead.add(name)
        elif node.get_type_name() not in _NOT_COMPUTED:
            after.append(name)
    return after


def _is_heavy(node: ov.Node) -> bool:
    if node.get_type_name() not in _HEAVY:
        return False
    shape = node.input_value(1).get_partial_shape()
    if shape.is_dynamic:
        return True
    count = 1
    for length in shape.to_shape():
        count *= int(length)
    return count >= _FEW_WEIGHTS
