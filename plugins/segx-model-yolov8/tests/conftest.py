"""What the tests of the model share: golden numbers, golden weights, a tiny model."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from segx.testing.models import TINY_YOLOV8
from segx_model_yolov8.architecture import YOLOv8Seg

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from segx_model_yolov8.network import SegmentationModel

DATA = Path(__file__).parent / "data"


@pytest.fixture(autouse=True)
def _same_numbers_each_time() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, Any]]:
    """Reads the arrays of a golden file."""

    def read(name: str) -> dict[str, Any]:
        with np.load(DATA / name) as arrays:
            return {key: arrays[key] for key in arrays}

    return read


@pytest.fixture(scope="session")
def architecture() -> YOLOv8Seg:
    return YOLOv8Seg()


@pytest.fixture(scope="session")
def golden_model(architecture: YOLOv8Seg) -> Callable[[str], SegmentationModel]:
    """Builds a model with the weights that the golden numbers were recorded with."""

    def build(variant: str) -> SegmentationModel:
        model = architecture.build(architecture.read_config(variant))
        model.load_state_dict({k: golden_weights(k, v.shape).to(v.dtype) for k, v in model.state_dict().items()})
        return model

    return build


@pytest.fixture
def tiny(architecture: YOLOv8Seg, tmp_path: Path) -> SegmentationModel:
    """A small model of three classes whose BatchNorm layers have something to fold, in training mode."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY_YOLOV8)
    model = architecture.build(architecture.read_config(path))
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
            layer.weight.data.uniform_(0.8, 1.2)
            layer.bias.data.normal_(0, 0.1)
    return model


def golden_weights(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return the tensor of a name, by the recipe the golden numbers were recorded with."""
    draw = np.random.RandomState(zlib.crc32(key.encode()) & 0x7FFFFFFF)
    match key.rpartition(".")[2]:
        case "num_batches_tracked":
            values = np.zeros(shape)
        case "running_var":
            values = draw.uniform(0.5, 1.5, shape)
        case "running_mean" | "bias":
            values = draw.normal(0, 0.1, shape)
        case _ if key.endswith("dfl.conv.weight"):
            values = np.arange(16.0).reshape(shape)
        case _ if key.endswith("bn.weight"):
            values = draw.uniform(0.8, 1.2, shape)
        case _:
            values = draw.normal(0, 1.4 / np.sqrt(np.prod(shape[1:])), shape)
    return torch.from_numpy(np.asarray(values))
