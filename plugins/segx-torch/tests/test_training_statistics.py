"""Weights that were folded once can be trained on: their BatchNorm layers get statistics from the data."""

from __future__ import annotations

import copy
import logging
from typing import TYPE_CHECKING

import pytest
import torch

from segx.testing.training import DrawnLoader, tiny_run, tiny_session
from segx_torch.training import trainer
from segx_torch.training.statistics import take_statistics, without_statistics

if TYPE_CHECKING:
    from pathlib import Path


def norms(module: torch.nn.Module) -> list[torch.nn.BatchNorm2d]:
    return [layer for layer in module.modules() if isinstance(layer, torch.nn.BatchNorm2d)]


@pytest.fixture
def folded(tmp_path: Path) -> torch.nn.Module:
    """A model that has learned, and whose normalisation does nothing, as after folding and unfolding."""
    module: torch.nn.Module = tiny_session(tmp_path).module
    torch.manual_seed(0)
    for layer in norms(module):
        torch.nn.init.uniform_(layer.weight, 2.0, 4.0)
        torch.nn.init.uniform_(layer.bias, -1.0, 1.0)
    return module


def images() -> list[torch.Tensor]:
    return [torch.from_numpy(batch.images).float() / 255 for batch in DrawnLoader(size=8).epoch(0)]


def seen(module: torch.nn.Module, *, training: bool) -> list[torch.Tensor]:
    """Return the prototypes of each batch; what they are normalised by stays as it is."""
    kept = copy.deepcopy(module.state_dict())
    for layer in norms(module):
        layer.train(training)
    with torch.no_grad():
        found = [module.raw(batch).prototypes for batch in images()]
    module.load_state_dict(kept)
    return found


def apart(found: list[torch.Tensor], others: list[torch.Tensor]) -> float:
    """Return the mean distance in deviations of the others."""
    return max(float((one - other).abs().mean() / other.std()) for one, other in zip(found, others, strict=True))


def test_the_model_stays_the_same_and_training_mode_agrees_with_it(folded):
    before = seen(folded, training=False)
    assert apart(seen(folded, training=True), before) > 0.5
    layers = without_statistics(folded)
    assert layers == norms(folded)
    take_statistics(folded, layers, images())
    assert without_statistics(folded) == []
    assert apart(seen(folded, training=False), before) < 1e-4
    assert apart(seen(folded, training=True), before) < 0.1


def test_random_settled_and_frozen_layers_are_left_alone(folded):
    random, settled, frozen, *others = norms(folded)
    random.weight.data.fill_(1)
    random.bias.data.fill_(0)
    settled.num_batches_tracked.fill_(1000)
    frozen.requires_grad_(False)
    assert without_statistics(folded) == others


def test_a_run_from_random_weights_is_left_alone_and_one_that_goes_on_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    caplog.set_level(logging.INFO)
    tiny_run(tmp_path / "run", epochs=1)
    assert "no statistics" not in caplog.text
    monkeypatch.setattr(trainer, "without_statistics", norms)
    tiny_run(tmp_path / "run", epochs=2, resume=True, finished=False)
    assert "no statistics" not in caplog.text
    tiny_run(tmp_path / "other", epochs=1)
    assert "BatchNorm layers had no statistics, as in weights that were folded: taken from 8 images" in caplog.text
