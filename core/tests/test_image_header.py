"""Sizes of images from their headers agree with reading them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from PIL import Image as PillowImage

from segx.errors import DataError
from segx.io.image_header import image_shape
from segx.io.images import read_image

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp", "tif", "gif"])
def test_agrees_with_reading(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    PillowImage.fromarray(np.zeros((37, 51, 3), np.uint8)).save(path)
    assert image_shape(path) == (37, 51) == read_image(path).shape[:2]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("progressive", [False, True])
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, progressive: bool) -> None:
    path = tmp_path / "a.jpg"
    image = PillowImage.fromarray(np.zeros((37, 51, 3), np.uint8))
    exif = image.getexif()
    exif[0x010F] = "a maker before it"
    exif[0x0112] = orientation
    image.save(path, exif=exif, progressive=progressive, icc_profile=b"x" * 3000)
    assert image_shape(path) == read_image(path).shape[:2] == ((51, 37) if orientation > 4 else (37, 51))


def test_a_large_image_is_no_danger(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    ok, data = cv2.imencode(".png", np.zeros((4, 4), np.uint8))
    assert ok
    blob = bytearray(data.tobytes())
    blob[16:24] = (40_000).to_bytes(4, "big") + (30_000).to_bytes(4, "big")
    path.write_bytes(blob)
    assert image_shape(path) == (30_000, 40_000)


@pytest.mark.parametrize(
    "content",
    [b"", b"text", b"\xff\xd8\xff", b"\xff\xd8\xff\xe1\x00", b"\xff\xd8\xff\xda\x00\x02", b"\x89PNG\r\n\x1a\n"],
)
def test_what_is_no_image_is_reported(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match="size of the image cannot be read"):
        image_shape(path)
    with pytest.raises(DataError, match="No such file"):
        image_shape(tmp_path / "gone.jpg")
