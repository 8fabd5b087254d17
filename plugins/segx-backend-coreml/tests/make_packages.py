"""Writes packages as other tools write them, and what each gives for the same images; run in a process of its own.

What is stored in fewer bits is there a second time as coremltools itself unpacks it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.modules["tensorflow"] = None  # type: ignore[assignment]  # it and coremltools bring each other down

import coremltools as ct  # noqa: E402
import coremltools.optimize.coreml as cto  # noqa: E402
import numpy as np  # noqa: E402
from coremltools.converters.mil import Builder as mb  # noqa: E402, N813 - as its documentation writes it

SHAPE = (1, 3, 64, 96)


def program(version, *, image: bool, unknown: bool = False):
    chance = np.random.default_rng(5)

    def drawn(*shape):
        return chance.normal(0, 0.3, shape).astype(np.float32)

    @mb.program(input_specs=[mb.TensorSpec(shape=SHAPE)], opset_version=version)
    def made(image_):
        x = mb.mul(x=image_, y=np.float32(1 / 255)) if image else image_
        x = mb.conv(x=x, weight=drawn(16, 3, 3, 3), bias=drawn(16), strides=[2, 2], pad_type="custom", pad=[1] * 4)
        x = mb.erf(x=x) if unknown else mb.silu(x=x)
        x = mb.conv(x=x, weight=drawn(32, 16, 3, 3), bias=drawn(32), strides=[2, 2], pad_type="custom", pad=[1] * 4)
        x = mb.silu(x=x)
        protos = mb.conv(x=x, weight=drawn(32, 32, 1, 1), name="protos")
        rows = mb.conv(x=x, weight=drawn(39, 32, 3, 3), strides=[8, 8], pad_type="custom", pad=[1] * 4)
        found = mb.reshape(x=rows, shape=[1, 39, -1], name="found")
        return found, protos

    return made


def convert(name, folder, version, *, layout=None, unknown=False, precision=ct.precision.FLOAT32):
    inputs = None
    made = program(version, image=layout is not None, unknown=unknown)
    if layout is not None:
        inputs = [ct.ImageType(name="image_", shape=SHAPE, color_layout=layout)]
    model = ct.convert(
        made,
        inputs=inputs,
        convert_to="mlprogram",
        minimum_deployment_target=version,
        compute_precision=precision,
        skip_model_load=True,
    )
    model.user_defined_metadata.update(
        {"task": "segment", "names": "{0: 'a', 1: 'b', 2: 'c'}", "stride": "32", "imgsz": "[64, 96]", "batch": "1"}
    )
    model.save(str(folder / f"{name}.mlpackage"))
    return model


def main(folder: Path) -> None:
    plain = convert("plain", folder, ct.target.iOS16)
    newest = convert("newest", folder, ct.target.iOS18)
    convert("rgb", folder, ct.target.iOS16, layout=ct.colorlayout.RGB)
    convert("bgr", folder, ct.target.iOS16, layout=ct.colorlayout.BGR)
    convert("half", folder, ct.target.iOS16, precision=ct.precision.FLOAT16)
    convert("unknown", folder, ct.target.iOS16, unknown=True)
    smaller = {
        "table": (plain, cto.palettize_weights, cto.OpPalettizerConfig(mode="uniform", nbits=6, weight_threshold=10)),
        "affine": (plain, cto.linear_quantize_weights, cto.OpLinearQuantizerConfig(mode="linear", weight_threshold=10)),
        "table18": (
            newest,
            cto.palettize_weights,
            cto.OpPalettizerConfig(mode="uniform", nbits=4, weight_threshold=10),
        ),
        "block18": (
            newest,
            cto.linear_quantize_weights,
            cto.OpLinearQuantizerConfig(dtype="int4", granularity="per_block", block_size=8, weight_threshold=600),
        ),
    }
    for name, (model, compress, config) in smaller.items():
        small = compress(model, config=cto.OptimizationConfig(global_config=config))
        small.save(str(folder / f"{name}.mlpackage"))
        cto.decompress_weights(small).save(str(folder / f"{name}-unpacked.mlpackage"))
    print(json.dumps({"smaller": list(smaller)}))


main(Path(sys.argv[1]))
