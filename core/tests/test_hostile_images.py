"""Images that are no images, far too many pixels, pipes and devices: each is told in one line and passed over."""

from __future__ import annotations

import io
import os
import socket
import struct
import subprocess
import sys
import tracemalloc
import zlib
from typing import TYPE_CHECKING

import cv2
import numpy as np
import PIL.EpsImagePlugin
import PIL.Image
import pytest

from segx import YOLO
from segx.errors import DataError, ModelError, UsageError
from segx.io import images
from segx.io.files import open_regular, read_regular, utf8_name, write_image
from segx.io.image_header import image_shape
from segx.io.images import decode_image, from_array, from_pillow, read_image
from segx.io.sources import Unreadable, open_source
from segx.structures.batch import SourceImage

if TYPE_CHECKING:
    from pathlib import Path

SIDE = 30_000


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *after: bytes) -> bytes:
    pixels = zlib.compress(b"".join(b"\0" + bytes(width) for _ in range(height)))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", pixels), *after, chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def exif(orientation: int) -> bytes:
    data = PIL.Image.Exif()
    data[0x0112] = orientation
    return data.tobytes().removeprefix(b"Exif\0\0")


def saved(kind: str, image: PIL.Image.Image | None = None, **options: object) -> bytearray:
    out = io.BytesIO()
    (image or PIL.Image.new("RGB", (16, 8), (200, 30, 30))).save(out, kind, **options)
    return bytearray(out.getvalue())


def lying(kind: str) -> bytes:
    """Return a small image that says it has 30,000 pixels a side."""
    if kind == "PNG":
        data = bytearray(png(4, 4))
        data[16:24] = struct.pack(">II", SIDE, SIDE)
    elif kind == "JPEG":
        data = saved("JPEG")
        at = data.index(b"\xff\xc0")
        data[at + 5 : at + 9] = struct.pack(">HH", SIDE, SIDE)
    elif kind == "GIF":
        data = saved("GIF")
        data[6:10] = struct.pack("<HH", SIDE, SIDE)
    elif kind == "BMP":
        data = saved("BMP")
        data[18:26] = struct.pack("<ii", SIDE, SIDE)
    elif kind == "TIFF":
        entries = b"".join(struct.pack("<HHII", tag, 4, 1, SIDE) for tag in (256, 257))
        data = bytearray(b"II*\0" + struct.pack("<IH", 8, 2) + entries + bytes(4))
    elif kind == "WEBP":
        side = (SIDE - 1).to_bytes(3, "little")
        body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + side + side
        data = bytearray(b"RIFF" + struct.pack("<I", len(body)) + body)
    elif kind == "TGA":
        data = saved("TGA")
        data[12:16] = struct.pack("<HH", SIDE, SIDE)
    elif kind == "PPM":
        data = bytearray(b"P6\n%d %d\n255\n" % (SIDE, SIDE))
    else:
        data = saved("AVIF")
        at = data.index(b"ispe") + 8
        data[at : at + 8] = struct.pack(">II", SIDE, SIDE)
    return bytes(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "TGA", "PPM"])
def test_an_image_that_states_too_many_pixels_is_named_and_not_decoded(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"bomb.{kind.lower()}"
    path.write_bytes(lying(kind))
    for read in (lambda: read_image(path), lambda: decode_image(path.read_bytes())):
        with pytest.raises(DataError, match=r"30,000 x 30,000 pixels.*[24]00,000,000.*SEGX_MAX_PIXELS"):
            read()
    assert image_shape(path) == (SIDE, SIDE)


@pytest.mark.filterwarnings("error")
def test_the_limit_is_a_setting_and_ours_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 10)  # Pillow warns beyond, and raises beyond twice as many
    assert decode_image(bytes(saved("TGA"))).shape == (8, 16, 3)
    assert PIL.Image.MAX_IMAGE_PIXELS == 10
    monkeypatch.setenv("SEGX_MAX_PIXELS", "127")
    for read in (
        lambda: decode_image(bytes(saved("PNG"))),
        lambda: from_pillow(PIL.Image.new("RGB", (16, 8))),
        lambda: from_array(np.zeros((8, 16), np.uint8)),
    ):
        with pytest.raises(DataError, match="16 x 8 pixels, more than the 127"):
            read()
    monkeypatch.setenv("SEGX_MAX_PIXELS", "128")
    assert decode_image(bytes(saved("PNG"))).shape == (8, 16, 3)
    for heavy in (saved("TGA"), saved("PNG", PIL.Image.new("I;16", (16, 8)))):
        with pytest.raises(DataError, match="more than the 64 that are read of this kind"):
            decode_image(bytes(heavy))
    monkeypatch.setenv("SEGX_MAX_PIXELS", "many")
    with pytest.raises(UsageError, match="SEGX_MAX_PIXELS=many"):
        decode_image(bytes(saved("PNG")))


def test_bombs_in_a_folder_are_passed_over(tmp_path: Path) -> None:
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"):
        (tmp_path / f"{kind}.{kind.lower()}").write_bytes(lying(kind))
    (tmp_path / "z.png").write_bytes(saved("PNG"))
    found = list(open_source(tmp_path))
    assert [type(item) for item in found] == [Unreadable] * 6 + [SourceImage]


@pytest.mark.parametrize(
    ("begin", "name"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n{} loop\n", "EPS"),
        (b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, SIDE, SIDE, 8, 3), "PSD"),
        (b"SIMPLE  =                    T" + b" " * 50, "FITS"),
        (b"%PDF-1.7\n", "PDF"),
        (b'<svg xmlns="http://www.w3.org/2000/svg">', "SVG"),
        (b"<!DOCTYPE html><title>404", "HTML"),
    ],
)
def test_what_is_not_read_is_refused_by_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begin: bytes, name: str
) -> None:
    def start(*_: object) -> None:
        pytest.fail("a program was started")

    monkeypatch.setattr(PIL.EpsImagePlugin, "Ghostscript", start)
    monkeypatch.setattr(subprocess, "Popen", start)
    path = tmp_path / "harmless.png"
    path.write_bytes(begin)
    with pytest.raises(DataError, match=f"it is {name}, which is not read as an image"):
        read_image(path)
    with pytest.raises(DataError, match=name):
        image_shape(path)


def test_a_jpeg_of_a_thousand_scans_is_refused() -> None:
    data = bytes(saved("JPEG", PIL.Image.new("L", (64, 64)), progressive=True))
    begin, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    assert decode_image(data).shape == (64, 64, 3)
    with pytest.raises(DataError, match="scans"):
        decode_image(data[:begin] + data[begin:end] * 1000 + data[end:])
    hidden = b"\xff\xd9" + b"\xff\xda" * 1000 + b"\xff\xd9"  # behind the end anything may lie, as a phone's film
    assert decode_image(data[:end] + hidden).shape == (64, 64, 3)


def test_scans_are_counted_wherever_they_lie_and_in_little_memory() -> None:
    scan = b"\xff\xda\0\2"
    for before in (65534, 65535, 65536):  # before, across and behind the end of what is looked through at once
        frame = b"\xff\xd8\xff\xe0" + (before - 4).to_bytes(2, "big") + bytes(before - 6)
        images._check_scans(frame + scan * images._MAX_SCANS)
        with pytest.raises(DataError, match="scans"):
            images._check_scans(frame + scan * (images._MAX_SCANS + 1))
    data = b"\xff\xd8" + b"\xda" * (8 << 20)
    tracemalloc.start()
    try:
        images._check_scans(data)
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def listener(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(f"/proc/self/fd/{folder}/{path.name}")  # a socket's name must be short
    finally:
        os.close(folder)


@pytest.mark.skipif(sys.platform != "linux", reason="pipes and devices by name")
@pytest.mark.parametrize(("make", "what"), [(pipe, "pipe"), (device, "device"), (listener, "socket")])
def test_only_regular_files_are_read(tmp_path: Path, make, what: str) -> None:
    for name in ("a.png", "b.mp4", "c.gif", "d.txt", "model.pt"):
        make(tmp_path / name)
    (tmp_path / "z.png").write_bytes(saved("PNG"))
    found = list(open_source(tmp_path))
    assert [str(item.reason) for item in found[:-1]] == [f"it is a {what}, not a regular file"] * 3
    assert isinstance(found[-1], SourceImage)
    with pytest.raises(DataError, match=what):
        image_shape(tmp_path / "a.png")
    with pytest.raises(DataError, match=what):
        open_source(tmp_path / "d.txt")
    with pytest.raises(OSError, match=what):
        open_regular(tmp_path / "model.pt")
    for name in ("model.pt", "model.onnx", "model.torchscript", "model.yaml"):
        (tmp_path / "model.pt").rename(tmp_path / name)
        with pytest.raises(ModelError, match=f"it is a {what}, not a regular file"):
            YOLO(tmp_path / name)
        (tmp_path / name).rename(tmp_path / "model.pt")


def test_a_file_of_more_bytes_than_are_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a hole: no disk is taken
    with pytest.raises(OSError, match="1,048,576 MiB, more than the 1 that are read"):
        read_regular(path, limit=1 << 20)
    with pytest.raises(DataError, match="MiB, more than"):
        open_source(path)
    path.replace(tmp_path / "a.png")
    with pytest.raises(DataError):
        read_image(tmp_path / "a.png")


def test_lists_that_double_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segx.io.sources._LIST_ENTRIES", 100)
    (tmp_path / "a.png").write_bytes(saved("PNG"))
    (tmp_path / "3.txt").write_text("a.png\n" * 10)
    for number in (2, 1, 0):
        (tmp_path / f"{number}.txt").write_text(f"{number + 1}.txt\n" * 10)
    with pytest.raises(DataError, match="more than 100 sources"):
        open_source(tmp_path / "0.txt")
    assert open_source(tmp_path / "3.txt").length() == 10


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 8])
def test_a_png_is_turned_wherever_that_is_stated(tmp_path: Path, orientation: int, behind: bool) -> None:
    said = chunk(b"eXIf", exif(orientation))
    data = png(16, 8, *([said] if behind else []))
    if not behind:
        data = data[:33] + said + data[33:]
    path = tmp_path / "a.png"
    path.write_bytes(data)
    assert image_shape(path) == read_image(path).shape[:2] == ((16, 8) if orientation > 4 else (8, 16))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "MPO", "AVIF", "BMP", "GIF", "TGA", "JPEG2000", "PPM"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_size_and_pixels_agree_in_every_format(tmp_path: Path, kind: str, orientation: int) -> None:
    if kind == "AVIF" and not PIL.features.check("avif"):
        pytest.skip("this Pillow writes no AVIF")
    data = PIL.Image.Exif()
    data[0x0112] = orientation
    image = PIL.Image.fromarray(np.arange(16 * 32 * 3, dtype=np.uint8).reshape(16, 32, 3) // 8 * 8)
    path = tmp_path / "a"
    path.write_bytes(saved(kind, image, exif=data))
    read = read_image(path)
    assert image_shape(path) == read.shape[:2]
    with PIL.Image.open(path) as opened:
        seen = from_pillow(opened)
    assert read.shape == seen.shape
    assert np.abs(read.astype(int) - seen.astype(int)).mean() < 12


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
def test_a_tiff_of_either_order_and_size_is_turned(tmp_path: Path, order: str, big: bool) -> None:
    pixels = bytes(range(32))
    tags = [(256, 3, 8), (257, 3, 4), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 0), (274, 3, 6), (278, 3, 4)]
    tags.append((279, 4, 32))
    start = 16 + 8 + 20 * len(tags) + 8 if big else 8 + 2 + 12 * len(tags) + 4
    wide = struct.Struct(order + ("HHQ8s" if big else "HHI4s"))
    entries = b"".join(
        wide.pack(tag, kind, 1, struct.pack(order + {3: "H", 4: "I"}[kind], start if tag == 273 else value))
        for tag, kind, value in tags
    )
    mark = {"<": b"II", ">": b"MM"}[order]
    if big:
        head = mark + struct.pack(f"{order}HHHQQ", 43, 8, 0, 16, len(tags))
        data = head + entries + bytes(8) + pixels
    else:
        data = mark + struct.pack(f"{order}HIH", 42, 8, len(tags)) + entries + bytes(4) + pixels
    path = tmp_path / "a.tif"
    path.write_bytes(data)
    expected = np.rot90(np.arange(32, dtype=np.uint8).reshape(4, 8), -1)
    assert image_shape(path) == (8, 4)
    np.testing.assert_array_equal(read_image(path)[..., 0], expected)


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes there")
def test_names_that_are_not_utf8_never_reach_opencv(tmp_path: Path) -> None:
    """In a process of its own: where it is broken, it ends with a signal."""
    code = """
import os, sys, cv2, numpy as np
from pathlib import Path
from segx.io.files import utf8_name, write_image
from segx.io.sources import open_source
from segx.io.writers import _open_writer
folder = Path(sys.argv[1]) / os.fsdecode(b"caf\\xe9")
image = np.full((64, 64, 3), 90, np.uint8)
assert write_image(folder / os.fsdecode(b"o\\xe9.png"), image).exists()
assert write_image(folder / os.fsdecode(b"o.\\xe9"), image).suffix == ".png"
writer = _open_writer(folder / os.fsdecode(b"v\\xe9.mp4"), 5.0, (64, 64))
for _ in range(3):
    writer.write(image)
writer.release()
print(sorted(type(item).__name__ for item in open_source(folder)))
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(["SourceImage"] * 5)


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes there")
def test_a_name_that_is_utf8_is_given_as_it_is(tmp_path: Path) -> None:
    with utf8_name(tmp_path / "größe.avi") as name:
        assert name == str(tmp_path / "größe.avi")
    path = tmp_path / os.fsdecode(b"\xe9.avi")
    with utf8_name(path) as name:
        assert name.encode().endswith(b".avi")
        with open(name, "wb") as file:  # noqa: PTH123 - as OpenCV does
            file.write(b"x")
    assert path.read_bytes() == b"x"
    assert not os.path.lexists(name)


def test_an_image_is_written_in_the_format_of_its_suffix(tmp_path: Path) -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    assert write_image(tmp_path / "a.JPG", image).suffix == ".JPG"
    assert cv2.imread(str(tmp_path / "a.JPG")).shape == (4, 4, 3)


def variants() -> dict[str, bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    deep = np.random.default_rng(0).integers(0, 65536, (40, 60, 3)).astype(np.uint16)
    found = {f"colour{suffix}": cv2.imencode(suffix, pixels)[1] for suffix in (".jpg", ".png", ".bmp", ".tif", ".webp")}
    found |= {"grey.png": cv2.imencode(".png", pixels[..., 0])[1], "deep.png": cv2.imencode(".png", deep)[1]}
    found["alpha.png"] = cv2.imencode(".png", np.dstack([pixels, pixels[..., :1]]))[1]
    turned = io.BytesIO()
    PIL.Image.fromarray(pixels).save(turned, "JPEG", exif=exif(6))
    return {name: bytes(data) for name, data in found.items()} | {"turned.jpg": turned.getvalue()}


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="this system has no files in memory")
@pytest.mark.parametrize(("name", "data"), variants().items(), ids=list(variants()))
def test_large_images_are_read_as_small_ones(name: str, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    small = decode_image(data)
    read: list[object] = []

    def spy(*given: object) -> object:
        read.append(result := cv2_imread(*given))
        return result

    cv2_imread = cv2.imread
    monkeypatch.setattr(images, "LARGE", 0)
    monkeypatch.setattr(cv2, "imread", spy)
    large = decode_image(data)
    assert [result is not None for result in read] == ([] if name == "deep.png" else [True])  # of 8 bits only
    np.testing.assert_array_equal(large, small)
    monkeypatch.setattr(cv2, "imread", lambda *_: None)  # it cannot be done so on this machine
    np.testing.assert_array_equal(decode_image(data), small)


PEAK = """
import sys
from pathlib import Path
from segx.io.images import read_image

def peak():  # that of getrusage may be the parent's
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024

path = Path(sys.argv[1])
read_image(path.with_name("small.jpg"))
before = peak()
image = read_image(path)
print((peak() - before) / image.nbytes)
"""


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="this system has no files in memory")
def test_a_large_image_is_not_held_twice_while_it_is_read(tmp_path: Path) -> None:
    image = np.full((8200, 8200, 3), 90, np.uint8)
    image[1000:3000, 2000:5000] = (0, 0, 255)
    for name, pixels in (("large.jpg", image), ("small.jpg", image[:64, :64])):
        cv2.imwrite(str(tmp_path / name), pixels)
    command = [sys.executable, "-c", PEAK, str(tmp_path / "large.jpg")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 0.5 < float(done.stdout) < 1.3
