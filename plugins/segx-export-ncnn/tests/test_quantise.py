"""The 8-bit convolutions: where ranges come from, what stays 32-bit, and that ncnn computes what is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ncnn
import numpy as np
import pytest

from segx.errors import ExportError
from segx_export_ncnn import model, quantise

if TYPE_CHECKING:
    from pathlib import Path

    Files = tuple[Path, Path]

SIZE = (3, 12, 16)
CHANNELS = 16


def convolution(name: str, blobs: str, kernel: int, inputs: int) -> str:
    settings = f"0={CHANNELS} 1={kernel} 4={kernel // 2} 5=1 6={CHANNELS * inputs * kernel**2}"
    return f"Convolution {name} 1 1 {blobs} {settings}"


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Two convolutions that lead to a third, the last with weights."""
    lines = [
        *("7767517", "7 8", "Input in0 0 1 in0", convolution("first", "in0 a", 3, 3), "Swish s 1 1 a b"),
        *("Split two 1 2 b c d", convolution("second", "c e", 1, CHANNELS), "BinaryOp add 2 1 d e f 0=0"),
        convolution("last", "f out0", 3, CHANNELS),
    ]
    text, weights = tmp_path / model.TEXT, tmp_path / model.WEIGHTS
    text.write_text("\n".join(lines) + "\n")
    generator = np.random.default_rng(3)
    parts = []
    for count in (3 * 9, CHANNELS, CHANNELS * 9):
        drawn = generator.normal(0, count**-0.5, (CHANNELS, count)).astype("<f4")
        parts += [bytes(4), drawn.tobytes(), generator.normal(0, 0.1, CHANNELS).astype("<f4").tobytes()]
    weights.write_bytes(b"".join(parts))
    return text, weights


def images(count: int = 4, scale: float = 1.0) -> list[Any]:
    generator = np.random.default_rng(1)
    return [generator.random((1, *SIZE), dtype=np.float32) * np.float32(scale) for _ in range(count)]


def run(files: Files, image: Any, blob: str = "out0") -> Any:
    net = ncnn.Net()
    net.opt.num_threads = 1
    assert not net.load_param(str(files[0]))
    assert not net.load_model(str(files[1]))
    with net.create_extractor() as extractor:
        extractor.set_light_mode(False)
        extractor.input("in0", ncnn.Mat(image).clone())
        failed, output = extractor.extract(blob)
        assert not failed
        return np.array(output)


def quantised(files: Files, folder: Path, given: list[Any]) -> tuple[list[model.Layer], Files]:
    layers = quantise.quantise(*files, given)
    folder.mkdir(exist_ok=True)
    made = folder / model.TEXT, folder / model.WEIGHTS
    model.write(layers, *made)
    return layers, made


# Files


def test_what_is_read_is_written_back_as_it_was(files: Files, tmp_path: Path) -> None:
    layers = model.read(*files)
    assert [len(layer.weights) for layer in layers] == [0, 2, 0, 0, 2, 0, 2]
    again = tmp_path / "again.param", tmp_path / "again.bin"
    model.write(layers, *again)
    assert again[1].read_bytes() == files[1].read_bytes()
    words = [line.split() for line in again[0].read_text().splitlines()]
    assert words == [line.split() for line in files[0].read_text().splitlines()]


def test_weights_of_a_layer_that_is_not_known_are_noticed(files: Files) -> None:
    text, weights = files
    text.write_text(text.read_text().replace("Swish s", "GroupNorm s"))
    weights.write_bytes(weights.read_bytes() + bytes(8))
    with pytest.raises(
        ExportError, match=r"8 bytes of weights belong to layers that are not known: one of .*GroupNorm"
    ):
        model.read(text, weights)


def test_weights_that_end_early_are_noticed(files: Files) -> None:
    files[1].write_bytes(files[1].read_bytes()[:-4])
    with pytest.raises(ExportError, match="the weights end 4 bytes early"):
        model.read(*files)


def test_numbers_of_an_unknown_kind_are_noticed(files: Files) -> None:
    files[1].write_bytes(b"\x01\x02\x03\x04" + files[1].read_bytes()[4:])
    with pytest.raises(ExportError, match="of an unknown kind"):
        model.read(*files)


# Which, and how


def test_the_last_layers_with_weights_stay_as_they_are(files: Files, tmp_path: Path) -> None:
    layers, _ = quantised(files, tmp_path / "int8", images())
    of = {layer.name: layer for layer in layers}
    assert [name for name, layer in of.items() if layer.settings.get(8) == "2"] == ["first", "second"]
    assert {of[name].weights[0].dtype for name in ("first", "second")} == {np.dtype(np.int8)}
    assert of["last"].weights[0].dtype == np.float32
    assert (tmp_path / "int8" / model.WEIGHTS).stat().st_size < files[1].stat().st_size


def test_whole_numbers_are_within_half_a_step_of_the_weights(files: Files, tmp_path: Path) -> None:
    before = {layer.name: layer for layer in model.read(*files)}
    layers, _ = quantised(files, tmp_path / "int8", images())
    for layer in (layer for layer in layers if layer.settings.get(8) == "2"):
        whole, bias, scales, _ = layer.weights
        rows = whole.reshape(CHANNELS, -1).astype(np.float32)
        wanted = before[layer.name].weights[0].reshape(CHANNELS, -1)
        assert np.abs(rows / scales[:, None] - wanted).max() <= 0.5001 / scales.min()
        assert (np.abs(rows).max(axis=1) == 127).all(), "each channel uses all of its numbers"
        np.testing.assert_array_equal(bias, before[layer.name].weights[1])


def test_ncnn_computes_what_is_written(files: Files, tmp_path: Path) -> None:
    """The first layer, done again in whole numbers with NumPy."""
    given = images()
    layers, made = quantised(files, tmp_path / "int8", given)
    whole, bias, scales, (scale,) = next(layer for layer in layers if layer.name == "first").weights
    scaled = given[0][0] * scale
    places = np.clip(np.sign(scaled) * np.floor(np.abs(scaled) + 0.5), -127, 127).astype(np.int64)
    padded = np.pad(places, ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    kernels = whole.reshape(CHANNELS, 3, 3, 3).astype(np.int64)
    sums = np.einsum("cyxij,ocij->oyx", windows, kernels)
    wanted = sums / (scales[:, None, None].astype(np.float64) * scale) + bias[:, None, None]
    np.testing.assert_allclose(run(made, given[0][0], "a"), wanted, atol=1e-5)


def test_it_says_nearly_what_the_model_says(files: Files, tmp_path: Path) -> None:
    given = images(8)
    _, made = quantised(files, tmp_path / "int8", given)
    for image in images(3):
        ours, theirs = run(made, image[0]), run(files, image[0])
        difference = np.abs(ours - theirs)
        assert 0 < difference.max() < 0.05 * np.abs(theirs).max()


def test_a_layer_whose_steps_would_be_too_coarse_stays_as_it_is(files: Files, tmp_path: Path) -> None:
    """A few values that are far larger than the others would make those nothing."""
    given = images(2, scale=1e-3)
    for image in given:
        image[0, :, ::6, ::8] = 3.0
    layers, _ = quantised(files, tmp_path / "int8", given)
    assert "8" not in {str(key) for key in next(layer for layer in layers if layer.name == "first").settings}


def test_progress_is_told(files: Files) -> None:
    told: list[int] = []
    quantise.quantise(*files, [np.concatenate(images(2)), *images(1)], notify=told.append)
    assert told == [1, 2, 3]


def test_no_images_and_no_numbers_are_refused(files: Files) -> None:
    with pytest.raises(ExportError, match="no image to calibrate on"):
        quantise.quantise(*files, [])
    with pytest.raises(ExportError, match="not finite"):
        quantise.quantise(*files, [np.full((1, *SIZE), np.nan, np.float32)])


def test_a_model_without_convolutions_is_refused(tmp_path: Path) -> None:
    text, weights = tmp_path / model.TEXT, tmp_path / model.WEIGHTS
    text.write_text("7767517\n2 2\nInput in0 0 1 in0\nSigmoid s 1 1 in0 out0\n")
    weights.write_bytes(b"")
    with pytest.raises(ExportError, match="no convolution that int8 is for"):
        quantise.quantise(text, weights, images())


# Ranges


def ranged(*values: Any) -> quantise.Range:
    found = quantise.Range()
    for some in values:
        found.add(np.asarray(some, np.float32))
    return found


def test_even_values_use_the_whole_range() -> None:
    assert ranged(np.linspace(-2, 2, 10001)).limit() == pytest.approx(2, rel=0.02)


def test_a_few_large_values_are_cut_off() -> None:
    values = np.random.default_rng(0).normal(0, 1, 100_000)
    values[0] = 40

    def cost(limit: float) -> float:
        step = limit / 127
        return float(((np.clip(np.rint(values / step), -127, 127) * step - values) ** 2).sum())

    limit = ranged(values).limit()
    assert limit < 30
    assert cost(limit) <= 1.02 * min(cost(share * 40) for share in np.linspace(0.05, 1, 200))


def test_a_range_grows_with_its_values() -> None:
    small, large = np.linspace(0, 1, 5001), np.linspace(0, 9.5, 5001)
    grown, known = ranged(small, large), ranged(large, small)
    assert grown.most == known.most == 9.5
    assert grown.counts.sum() == known.counts.sum() == 10002
    assert grown.mean == pytest.approx(known.mean, rel=0.01)
    assert grown.limit() == pytest.approx(known.limit(), rel=0.05)


def test_nothing_but_zeros_has_a_range() -> None:
    assert ranged(np.zeros(10)).limit() == 1.0
