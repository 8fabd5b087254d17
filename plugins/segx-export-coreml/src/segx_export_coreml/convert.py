"""Makes a Core ML package of a traced model; runs in a process of its own.

coremltools looks for TensorFlow when it is imported, and together the two end a process. It also writes to standard
output, and folders into the temporary one.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HEAVY = frozenset({"conv", "conv_transpose", "linear", "matmul"})
"""Operations that hold a network's weights."""
_FEW_WEIGHTS = 256
"""A layer of fewer weights is arithmetic in disguise, like the expectation over 16 bins of a box's side."""
_SMALL = 512
"""Weights of fewer numbers than this stay as they are: there is nothing to gain."""


def without_tensorflow() -> None:
    """Keep coremltools from importing TensorFlow: it converts from torch here, and the two do not get on."""
    sys.modules.setdefault("tensorflow", None)  # type: ignore[arg-type]  # None is how an import is blocked


def convert(
    *,
    traced: str,
    destination: str,
    scratch: str,
    shape: Sequence[int],
    outputs: Sequence[str],
    precision: str,
    suppression: Mapping[str, Any] | None,
    metadata: Mapping[str, str],
    about: Mapping[str, str],
) -> dict[str, str]:
    """Write a package.

    Args:
        traced: The model as torch traced it.
        destination: The package to write.
        scratch: Where coremltools may put what it needs meanwhile.
        shape: Of the images, (N, 3, H, W).
        outputs: Names of the outputs.
        precision: ``"fp32"``, ``"fp16"`` or ``"int8"``.
        suppression: ``classes``, ``side``, ``conf``, ``iou`` and ``most`` of
            :class:`~segx_export_coreml.suppression.Suppressed`; None: the model as it is.
        metadata: Text that is embedded under these keys.
        about: What Xcode shows: ``short_description``, ``author``, ``license``, ``version``.

    Returns:
        The versions of what made it.
    """
    tempfile.tempdir = scratch
    without_tensorflow()
    import coremltools as ct
    import numpy as np
    import torch

    model: Any = torch.jit.load(traced, map_location="cpu").eval()  # type: ignore[no-untyped-call]
    if suppression is not None:
        from segx_export_coreml.suppression import Suppressed

        with torch.no_grad():
            blank = torch.zeros(*shape)
            coefficients = model(blank)[0].shape[1] - 4 - suppression["classes"]
            model = Suppressed(model, coefficients=coefficients, **suppression).eval()
            model = torch.jit.trace(model, blank, strict=False, check_trace=False)  # type: ignore[no-untyped-call]
    compute = ct.precision.FLOAT32 if precision == "fp32" else ct.transform.FP16ComputePrecision(_Body())
    package = ct.convert(
        model,
        inputs=[ct.TensorType(name="images", shape=tuple(shape), dtype=np.float32)],
        # Without a type, outputs follow the arithmetic: 16 bits, without a word.
        outputs=[ct.TensorType(name=name, dtype=np.float32) for name in outputs],
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS16,  # the first that reads 8-bit weights; macOS 13
        compute_precision=compute,
        skip_model_load=True,
    )
    if precision == "int8":
        package = _quantised(package)
    for name, text in about.items():
        setattr(package, name, text)
    package.user_defined_metadata.update(metadata)
    package.save(destination)
    _readable(Path(destination))
    return {"coremltools": ct.__version__, "torch": torch.__version__}


def _readable(package: Path) -> None:
    """Give files the permissions that a new file has: coremltools copies one that only its owner may read."""
    mask = os.umask(0)
    os.umask(mask)
    for file in package.rglob("*"):
        if file.is_file():
            file.chmod(0o666 & ~mask)


def _quantised(package: Any) -> Any:
    """Return the package with 8-bit weights: symmetric, with a scale for each channel."""
    import coremltools.optimize.coreml as cto

    symmetric = cto.OpLinearQuantizerConfig(mode="linear_symmetric", dtype="int8", weight_threshold=_SMALL)
    # Only layers: anchors are constants too, and places in pixels do not fit into 8 bits.
    layers = cto.OptimizationConfig(op_type_configs=dict.fromkeys(sorted(HEAVY), symmetric))
    return cto.linear_quantize_weights(package, config=layers)


class _Body:
    """Says which operations may compute in 16 bits: all that some layer with weights still follows, and those layers.

    What comes behind the last of them (softmax over distances, anchors, boxes in pixels) stays in 32 bits: 16 leave
    steps of half a pixel beyond x = 512.
    """

    def __init__(self) -> None:
        self._found: frozenset[str] | None = None

    def __call__(self, operation: Any) -> bool:
        if self._found is None:  # the first one asked about stands in the program as it was
            self._found = frozenset(_before_weights(operation.enclosing_block.operations))
        return operation.name in self._found


def _before_weights(operations: Sequence[Any]) -> set[str]:
    """Return the names of layers with weights and of everything that they are computed from."""
    found: set[str] = set()
    for operation in reversed(list(operations)):
        followed = any(child.name in found for output in operation.outputs for child in output.child_ops)
        if followed or _has_weights(operation):
            found.add(operation.name)
    return found


def _has_weights(operation: Any) -> bool:
    if operation.op_type not in HEAVY:
        return False
    weight = operation.inputs.get("weight", operation.inputs.get("y"))
    value = None if weight is None else weight.val
    return value is not None and value.size >= _FEW_WEIGHTS
