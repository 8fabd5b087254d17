from __future__ import annotations

import io
import logging

import cv2
import numpy as np
import PIL.Image
import pytest

from segx.errors import DataError, UsageError
from segx.io.images import _log_dark, decode_image, from_array, from_pillow, image_of, read_image
from segx.ops.arrays import has_channels_last
from segx.ops.images import channels_last
from segx.structures.annotations import Sample

RED, GREEN, BLUE, GREY = (0, 0, 255), (0, 255, 0), (255, 0, 0), (128, 128, 128)


def quarters() -> np.ndarray:
    """An image, taller than wide, whose corners are told apart: red, green / blue, grey."""
    image = np.zeros((60, 40, 3), np.uint8)
    image[:30, :20], image[:30, 20:], image[30:, :20], image[30:, 20:] = RED, GREEN, BLUE, GREY
    return image


def as_stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """Turn an image into what a camera stores beside this EXIF orientation (TIFF 6.0, tag 274)."""
    back = {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.transpose(1, 0, 2),
        6: lambda p: np.rot90(p, 1),
        7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
        8: lambda p: np.rot90(p, -1),
    }
    return np.ascontiguousarray(back[orientation](upright))


def with_orientation(orientation: int, kind: str) -> bytes:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    stored = PIL.Image.fromarray(as_stored(quarters(), orientation)[..., ::-1].copy())
    out = io.BytesIO()
    stored.save(out, kind, exif=exif, **({"quality": 95, "subsampling": 0} if kind == "JPEG" else {}))
    return out.getvalue()


def assert_alike(found: np.ndarray, expected: np.ndarray, *, within: int = 6) -> None:
    assert found.dtype == np.uint8
    assert found.shape == expected.shape
    assert found.flags.c_contiguous
    inner = np.s_[4:26, 4:16]
    for rows, columns in ((0, 0), (0, 20), (30, 0), (30, 20)):
        there, wanted = found[rows:, columns:][inner], expected[rows:, columns:][inner]
        assert np.abs(there.astype(int) - wanted.astype(int)).max() <= within


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_orientation_is_applied_in_files(kind, orientation):
    if kind == "AVIF" and not PIL.features.check("avif"):
        pytest.skip("this Pillow writes no AVIF")
    within = {"WEBP": 30, "AVIF": 20}.get(kind, 6)
    assert_alike(decode_image(with_orientation(orientation, kind)), quarters(), within=within)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_in_pillow_images(orientation):
    image = PIL.Image.open(io.BytesIO(with_orientation(orientation, "JPEG")))
    assert_alike(from_pillow(image), quarters())


def encoded(array: np.ndarray, suffix: str = ".png") -> bytes:
    return cv2.imencode(suffix, array)[1].tobytes()


def test_grey_is_repeated():
    grey = np.arange(0, 200, dtype=np.uint8).reshape(10, 20)
    for image in (decode_image(encoded(grey)), from_array(grey), from_array(grey[..., None])):
        assert image.shape == (10, 20, 3)
        assert (image == grey[..., None]).all()


def test_alpha_is_dropped_and_the_colours_stay():
    colour = quarters()
    transparent = np.dstack([colour, np.zeros(colour.shape[:2], np.uint8)])
    for image in (decode_image(encoded(transparent)), from_array(transparent)):
        assert (image == colour).all()


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_scaled_alike_in_files_and_arrays(suffix):
    deep = np.linspace(0, 65535, 600).astype(np.uint16).reshape(20, 30)
    expected = np.rint(deep / 257).astype(np.uint8)
    for image in (decode_image(encoded(deep, suffix)), from_array(deep)):
        assert np.abs(image.astype(int) - expected[..., None]).max() == 0


def test_sixteen_bit_pillow_images():
    deep = np.linspace(0, 65535, 600).astype(np.uint16).reshape(20, 30)
    image = from_pillow(PIL.Image.fromarray(deep))
    assert np.abs(image[..., 0].astype(int) - np.rint(deep / 257)).max() == 0


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F"])
def test_every_pillow_mode_becomes_colour(mode):
    values = PIL.Image.new("L", (8, 6), 255)
    image = PIL.Image.new("F", (8, 6), 1.0) if mode == "F" else values.convert(mode)
    if mode == "I":
        image = PIL.Image.new("I", (8, 6), 65535)
    found = from_pillow(image)
    assert found.shape == (6, 8, 3)
    assert found.dtype == np.uint8
    assert found.min() >= 250


def test_a_palette_with_transparency_keeps_its_colours():
    image = PIL.Image.fromarray(quarters()[..., ::-1].copy()).convert("P", palette=PIL.Image.Palette.ADAPTIVE)
    out = io.BytesIO()
    image.save(out, "PNG", transparency=bytes([0, 128]))
    assert_alike(from_pillow(PIL.Image.open(io.BytesIO(out.getvalue()))), quarters(), within=8)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.full((4, 5, 3), 0.5, np.float32), 128),
        (np.full((4, 5), 1.0, np.float64), 255),
        (np.ones((4, 5), bool), 255),
        (np.full((4, 5, 3), 200, np.int64), 200),
        (np.full((4, 5, 3), 65535, np.uint16), 255),
        (np.full((4, 5, 3), 0.25, np.float16), 64),
    ],
)
def test_arrays_of_other_types(array, expected):
    image = from_array(array)
    assert image.shape == (4, 5, 3)
    assert image.dtype == np.uint8
    assert (image == expected).all()


def test_an_array_that_fits_is_copied_only_when_asked_for():
    array = quarters()
    assert from_array(array) is array
    copy = from_array(array, copy=True)
    assert (copy == array).all()
    assert not np.shares_memory(copy, array)


GREY_RAMP = np.tile(np.arange(256, dtype=np.uint8), (4, 1))


@pytest.mark.parametrize(
    "make",
    [
        lambda: from_array((GREY_RAMP.astype(np.uint16) * 257).astype("<u2")),
        lambda: from_array((GREY_RAMP.astype(np.uint16) * 257).astype(">u2")),
        lambda: from_array(GREY_RAMP.astype(np.int32) * 257),
        lambda: from_array(GREY_RAMP.astype(">i4")),
        lambda: from_array(GREY_RAMP.astype(np.int64)),
        lambda: from_array(GREY_RAMP.astype(">f4")),
        lambda: from_array(GREY_RAMP.astype(np.float64) / 255),
        lambda: from_array((GREY_RAMP / 255).astype(np.float16)),
        lambda: from_pillow(PIL.Image.fromarray(GREY_RAMP.astype(np.int32))),
        lambda: from_pillow(PIL.Image.fromarray(GREY_RAMP).convert("I")),
        lambda: from_pillow(PIL.Image.fromarray(GREY_RAMP).convert("F")),
        lambda: from_pillow(PIL.Image.fromarray(GREY_RAMP.astype(np.float32) / 255)),
        lambda: from_pillow(PIL.Image.fromarray(GREY_RAMP.astype(np.uint16) * 257)),
    ],
)
def test_an_array_is_read_by_what_it_means(make):
    assert np.abs(make().astype(int) - GREY_RAMP[..., None]).max() == 0


def test_an_array_that_is_nearly_black_is_reported(caplog):
    _log_dark.cache_clear()
    with caplog.at_level(logging.WARNING, "segx"):
        from_array(GREY_RAMP.astype(np.uint16) * 257)
        assert not caplog.records
        from_array(GREY_RAMP.astype(np.uint16) * 16)
    assert "12 bits" in caplog.text


def test_views_come_out_contiguous():
    assert from_array(quarters()[:, ::-1]).flags.c_contiguous


@pytest.mark.parametrize("value", [1.5, -0.2, float("nan"), float("inf")])
def test_floats_out_of_range_are_refused(value):
    array = np.zeros((4, 4, 3), np.float32)
    array[1, 2, 0] = value
    with pytest.raises(DataError, match=r"lie in 0\.\.1"):
        from_array(array)


@pytest.mark.parametrize("shape", [(4,), (3, 20, 30), (4, 4, 2), (0, 5, 3), (2, 4, 4, 3)])
def test_arrays_of_other_shapes_are_refused(shape):
    with pytest.raises(UsageError, match="is not an image"):
        from_array(np.zeros(shape, np.uint8))


def test_arrays_of_text_are_refused():
    with pytest.raises(UsageError, match="is not an image"):
        from_array(np.array([["a", "b"]]))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tif"])
def test_cut_off_files_are_refused_with_a_reason(suffix, capfd):
    noise = np.random.default_rng(0).integers(0, 255, (200, 300, 3), np.uint8)
    whole = encoded(noise, suffix)
    with pytest.raises(DataError) as caught:
        decode_image(whole[: len(whole) // 2])
    assert len(caught.value.message) > 5
    assert "\n" not in caught.value.message
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("data", "reason"), [(b"", "empty"), (b"not an image at all", "no image"), (b"\0" * 50, "no image")]
)
def test_what_is_no_image_is_refused(data, reason):
    with pytest.raises(DataError, match=reason):
        decode_image(data)


def test_heic_says_what_to_install():
    with pytest.raises(DataError, match="pillow-heif"):
        decode_image(b"\0\0\0\x18ftypheic" + b"\0" * 40)


def test_a_file_that_cannot_be_read_says_why(tmp_path):
    with pytest.raises(DataError, match="directory"):
        read_image(tmp_path)


def test_formats_only_pillow_knows(tmp_path):
    out = io.BytesIO()
    PIL.Image.fromarray(quarters()[..., ::-1].copy()).save(out, "TGA")
    assert (decode_image(out.getvalue()) == quarters()).all()


def sample_of(path, data: bytes, shape: tuple[int, int]) -> Sample:
    path.write_bytes(data)
    return Sample(path=path, id=0, shape=shape, annotations=())


@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_an_image_is_as_its_ground_annotation_is_stated_for(tmp_path, kind, turned):
    if kind == "AVIF" and not PIL.features.check("avif"):
        pytest.skip("this Pillow writes no AVIF")
    found = image_of(sample_of(tmp_path / "a", with_orientation(6, kind), (60, 40) if turned else (40, 60)))
    expected = quarters() if turned else as_stored(quarters(), 6)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected.astype(int)).mean() < 12


def test_an_image_of_another_size_than_stated_is_refused(tmp_path):
    with pytest.raises(DataError, match="it is 60x40, its ground truth is for 61x40"):
        image_of(sample_of(tmp_path / "a", with_orientation(1, "PNG"), (61, 40)))


@pytest.mark.parametrize("shape", [(401, 600), (600, 401), (399, 400), (400, 399), (800, 800)])
@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("stated_turned", [True, False])
def test_a_large_jpeg_is_read_at_a_part_of_its_size(tmp_path, shape, orientation, stated_turned):
    ramp = np.linspace(0, 255, shape[0] * shape[1]).reshape(shape).astype(np.uint8)
    image = np.stack([ramp, np.full_like(ramp, 90), ramp[::-1]], axis=-1)
    exif, out = PIL.Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    PIL.Image.fromarray(as_stored(image, orientation)).save(out, "JPEG", exif=exif, quality=98, subsampling=0)
    expected = image if stated_turned else as_stored(image, orientation)
    if shape[0] == shape[1]:
        expected = image  # nothing tells which of the two is meant: as it is shown
    sample = sample_of(tmp_path / "a.jpg", out.getvalue(), expected.shape[:2])
    found, whole = image_of(sample, least=150), image_of(sample)
    assert whole.shape == expected.shape
    step = round(whole.shape[0] / found.shape[0])
    assert step == (2 if abs(shape[0] - shape[1]) == 1 else 4)
    assert found.shape[:2] == tuple(-(-side // step) for side in whole.shape[:2])
    rows, columns = (
        np.minimum(np.arange(side) * step, end - 1) for side, end in zip(found.shape[:2], whole.shape[:2], strict=True)
    )
    assert np.abs(found.astype(int) - expected[rows][:, columns, ::-1].astype(int)).max() < 12


@pytest.mark.parametrize("least", [0, 10])
def test_half_a_jpeg_is_refused_at_any_size(tmp_path, least):
    image = np.random.default_rng(0).integers(0, 255, (80, 120, 3)).astype(np.uint8)
    data = encoded(image, ".jpg")
    with pytest.raises(DataError, match="truncated"):
        image_of(sample_of(tmp_path / "a.jpg", data[: len(data) // 2], (80, 120)), least=least)


def test_an_image_that_is_not_there_says_so(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        image_of(Sample(path=tmp_path / "a.jpg", id=0, shape=(4, 4), annotations=()))


def test_channels_go_last_into_memory_that_stays() -> None:
    images = np.random.default_rng(0).random((2, 3, 4, 5), dtype=np.float32)
    first = channels_last(images)
    np.testing.assert_array_equal(first, images.transpose(0, 2, 3, 1))
    assert first.flags.c_contiguous
    assert first.ctypes.data % 64 == 0
    again = channels_last(images[::-1], first)
    assert again is first
    np.testing.assert_array_equal(first, images[::-1].transpose(0, 2, 3, 1))
    assert channels_last(images[:1], first).shape == (1, 4, 5, 3)


def test_channels_that_are_last_are_known() -> None:
    images = np.zeros((2, 4, 5, 3), np.float32).transpose(0, 3, 1, 2)
    assert has_channels_last(images)
    assert not has_channels_last(images.copy())
    assert not has_channels_last(images[..., ::2])
