from __future__ import annotations

import io
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest

import segx.io.images
from segx.errors import DataError, UsageError
from segx.io.sources import Unreadable, natural_order, open_source
from segx.structures.batch import SourceImage


def jpeg(value: int = 100, size: tuple[int, int] = (12, 16)) -> bytes:
    return cv2.imencode(".jpg", np.full((*size, 3), value, np.uint8))[1].tobytes()


def write_image(path: Path, value: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jpeg(value))
    return path


def write_video(path: Path, frames: int = 6) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (32, 24))
    for number in range(frames):
        writer.write(np.full((24, 32, 3), number * 20, np.uint8))
    writer.release()
    return path


def values(source) -> list[int]:
    return [int(item.image.mean()) for item in source]


def names(source) -> list[str]:
    return [Path(item.path).name for item in source]


def test_a_file_as_text_and_as_path(tmp_path):
    path = write_image(tmp_path / "größe ünïcode 写真.jpg")
    for given in (str(path), path):
        (item,) = open_source(given)
        assert isinstance(item, SourceImage)
        assert item.path == str(path)
        assert item.image.shape == (12, 16, 3)
        assert item.frame is None
    assert open_source(path).length() == 1


def test_a_folder_is_sorted_as_people_count(tmp_path):
    for name in ("10.jpg", "9.JPG", "b2.png", "B10.jpeg", "b1.bmp", ".hidden.jpg", "notes.md", "sub/1.jpg"):
        write_image(tmp_path / name)
    write_video(tmp_path / "a.avi", frames=2)
    source = open_source(tmp_path)
    assert names(source) == ["9.JPG", "10.jpg", "a.avi", "a.avi", "b1.bmp", "b2.png", "B10.jpeg"]
    assert source.length() == 7


def test_globs_reach_into_folders_when_asked(tmp_path):
    for name in ("a/1.jpg", "a/b/2.jpg", "a/b/c/10.jpg", "a/b/c/9.jpg", "a/note.txt"):
        write_image(tmp_path / name)
    assert names(open_source(f"{tmp_path}/a/*")) == ["1.jpg"]
    assert names(open_source(f"{tmp_path}/**/*.*")) == ["1.jpg", "2.jpg", "9.jpg", "10.jpg"]


def test_a_file_whose_name_looks_like_a_glob(tmp_path):
    path = write_image(tmp_path / "photo[1].jpg")
    assert names(open_source(path)) == ["photo[1].jpg"]


@pytest.mark.parametrize("given", ["nothing/*.jpg", "empty", "nothing.jpg", "only_text"])
def test_what_is_missing_is_reported_before_any_work(tmp_path, given):
    (tmp_path / "empty").mkdir()
    (tmp_path / "only_text").mkdir()
    (tmp_path / "only_text" / "a.md").write_text("x")
    with pytest.raises(DataError, match=given.rpartition("/")[2].replace("*", r"\*")):
        open_source(f"{tmp_path}/{given}")


def test_a_close_name_is_suggested(tmp_path):
    write_image(tmp_path / "street.jpg")
    with pytest.raises(DataError, match=r"did you mean .*street\.jpg"):
        open_source(tmp_path / "stret.jpg")


def test_a_folder_of_folders_says_how_to_look_deeper(tmp_path):
    write_image(tmp_path / "sub" / "a.jpg")
    with pytest.raises(DataError, match=r"sub-folders: source='.*\*\*"):
        open_source(tmp_path)


def test_an_unreadable_image_is_reported_and_passed_over(tmp_path):
    write_image(tmp_path / "1.jpg")
    (tmp_path / "2.jpg").write_bytes(jpeg()[:200])
    (tmp_path / "3.jpg").write_bytes(b"")
    write_image(tmp_path / "4.jpg")
    (tmp_path / "5.mp4").write_bytes(b"no video")
    found = list(open_source(tmp_path))
    assert [type(item) for item in found] == [SourceImage, Unreadable, Unreadable, SourceImage, Unreadable]
    assert "3.jpg: it is empty" in str(found[2])
    assert "5.mp4: it is damaged" in str(found[4])


@pytest.mark.parametrize("suffix", [".txt", ".csv"])
@pytest.mark.parametrize("header", ["", "source\n"])
def test_lists_are_relative_to_themselves(tmp_path, suffix, header, monkeypatch):
    write_image(tmp_path / "data" / "a b.jpg", 10)
    outside = write_image(tmp_path / "other" / "ü.jpg", 30)
    listing = tmp_path / "data" / f"list{suffix}"
    listing.write_text(f"\ufeff{header}a b.jpg\n\n{outside}\n", encoding="utf-8")
    monkeypatch.chdir("/")
    assert values(open_source(listing)) == [10, 30]


def test_a_table_names_its_column(tmp_path):
    write_image(tmp_path / "a.jpg", 10)
    (tmp_path / "list.csv").write_text('id,source,note\n1,"a.jpg","x, y"\n2,,none\n')
    assert names(open_source(tmp_path / "list.csv")) == ["a.jpg"]


def test_lists_with_nothing_or_with_what_is_missing(tmp_path):
    (tmp_path / "none.txt").write_text("\n")
    (tmp_path / "gone.txt").write_text("x.jpg\ny.jpg\n")
    (tmp_path / "me.txt").write_text("me.txt\n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\xfa")
    for name, reason in (
        ("none", "names no source"),
        ("gone", r"x\.jpg.*1 more"),
        ("me", "nested"),
        ("bytes", "UTF-8"),
    ):
        with pytest.raises(DataError, match=reason):
            open_source(tmp_path / f"{name}.txt")


def test_a_list_of_anything(tmp_path):
    path = write_image(tmp_path / "a.jpg", 10)
    video = write_video(tmp_path / "v.avi", frames=2)
    sources = [
        path,
        str(path),
        np.full((8, 9, 3), 20, np.uint8),
        PIL.Image.new("RGB", (8, 9), (30, 30, 30)),
        jpeg(40),
        io.BytesIO(jpeg(50)),
        (path, [np.full((8, 9), 60, np.uint8)]),
        video,
    ]
    source = open_source(sources)
    assert source.length() == 10
    assert [round(value, -1) for value in values(source)] == [10, 10, 20, 30, 40, 50, 10, 60, 0, 20]
    assert names(source) == [
        "a.jpg",
        "a.jpg",
        "image0",
        "image1",
        "image2",
        "image3",
        "a.jpg",
        "image4",
        "v.avi",
        "v.avi",
    ]


def test_files_that_are_already_open(tmp_path):
    path = write_image(tmp_path / "a.jpg", 70)
    with path.open("rb") as file:
        (item,) = open_source(file)
    assert item.path == str(path)
    with path.open(encoding="latin-1") as file, pytest.raises(UsageError, match="rb"):
        open_source(file)


def test_whether_there_are_many(tmp_path):
    for name in "abc":
        write_image(tmp_path / f"{name}.jpg")
    source = open_source(tmp_path)
    assert source.holds(3)
    assert not source.holds(4)
    assert open_source(iter([])).holds(100)
    assert open_source([tmp_path, write_video(tmp_path / "v.avi", frames=6)]).holds(9)


def test_an_iterator_is_read_as_it_goes():
    given = []

    def frames():
        for number in range(3):
            given.append(number)
            yield np.full((4, 4, 3), number * 10, np.uint8)
        yield "missing.jpg"

    source = open_source(frames())
    assert source.length() is None
    assert given == []
    items = iter(source)
    assert next(items).image[0, 0, 0] == 0
    assert given == [0]
    rest = list(items)
    assert [item.path for item in rest] == ["image1", "image2", "missing.jpg"]
    assert isinstance(rest[-1], Unreadable)


def test_a_batch_of_arrays():
    source = open_source(np.stack([np.full((4, 5, 3), value, np.uint8) for value in (1, 2, 3)]))
    assert values(source) == [1, 2, 3]
    assert names(source) == ["image0", "image1", "image2"]


@pytest.mark.parametrize(
    "bad", [{}, {"a": 1}, None, 3.5, True, np.zeros((3, 4, 5, 6, 7)), np.zeros(3), "", "ftp://x/y.jpg"]
)
def test_what_is_no_source(bad):
    with pytest.raises(UsageError):
        open_source(bad)


def test_an_empty_list():
    with pytest.raises(DataError, match="empty"):
        open_source([])


def test_tensors_are_used_as_they_are():
    torch = pytest.importorskip("torch")
    generator = np.random.default_rng(0)
    values_ = generator.random((2, 3, 32, 64), dtype=np.float32)
    first, second = open_source(torch.from_numpy(values_))
    assert (first.network == values_[0]).all()
    assert (second.network == values_[1]).all()
    assert first.image.shape == (32, 64, 3)
    assert np.abs(first.image[..., 0] - values_[0, 2] * 255).max() <= 0.5 + 1e-4
    (single,) = open_source(torch.from_numpy(values_[0]).to(torch.bfloat16).requires_grad_())
    assert np.abs(single.network - values_[0]).max() < 0.01
    (outside,) = open_source(torch.full((3, 32, 32), 1.5))
    assert isinstance(outside, Unreadable)
    assert "0..1" in outside.reason
    for wrong in (torch.zeros(1, 4, 32, 32), torch.zeros(32, 32), torch.zeros(3, 32, 32, dtype=torch.int32)):
        with pytest.raises(UsageError, match="tensor"):
            open_source(wrong)


def test_a_tensor_is_forgiven_a_rounding_error_and_may_be_bytes():
    torch = pytest.importorskip("torch")
    nearly = torch.full((3, 32, 32), float(np.nextafter(np.float32(1), np.float32(2))))
    (item,) = open_source(nearly)
    assert item.network.max() == 1
    (item,) = open_source(torch.full((3, 32, 32), 255.0))
    assert item.network.max() == 1
    rgb = torch.arange(3 * 8 * 10, dtype=torch.uint8).reshape(3, 8, 10)
    (item,) = open_source(rgb)
    assert item.network is None
    np.testing.assert_array_equal(item.image, rgb.numpy()[::-1].transpose(1, 2, 0))


def test_memory_that_is_filled_again_is_no_matter():
    torch = pytest.importorskip("torch")
    array, tensor, pillow = np.empty((8, 10, 3), np.uint8), torch.empty(3, 32, 32), PIL.Image.new("L", (10, 8))

    def camera():
        for number in range(1, 5):
            array[:] = number
            tensor[:] = number / 255
            pillow.paste(number, (0, 0, 10, 8))
            yield [array, tensor, pillow]

    loads = list(open_source(camera()).loaders())
    array[:], tensor[:] = 99, 0
    pillow.paste(99, (0, 0, 10, 8))
    assert [int(load().image.max()) for load in loads] == [number for number in range(1, 5) for _ in range(3)]


@pytest.mark.parametrize("kind", ["array", "batch", "tensor"])
def test_results_hold_no_memory_of_the_callers(kind):
    torch = pytest.importorskip("torch")
    given = {
        "array": np.full((32, 32, 3), 7, np.uint8),
        "batch": np.full((1, 32, 32, 3), 7, np.uint8),
        "tensor": torch.full((1, 3, 32, 32), 7 / 255),
    }[kind]
    (item,) = open_source(given)
    given[:] = 0
    assert item.image.max() == 7
    assert item.network is None or item.network.max() > 0


def test_a_video_and_its_stride(tmp_path):
    video = write_video(tmp_path / "v.avi", frames=7)
    source = open_source(video, vid_stride=3)
    assert source.length() == 3
    assert [item.frame for item in source] == [0, 3, 6]
    assert next(iter(source)).clip.fps == pytest.approx(10 / 3)


def test_an_animation_is_a_video_and_a_still_gif_an_image(tmp_path):
    images = [PIL.Image.new("RGB", (32, 24), (shade, 0, 0)) for shade in (10, 120, 240)]
    images[0].save(tmp_path / "many.gif", save_all=True, append_images=images[1:])
    images[0].save(tmp_path / "one.gif")
    assert [item.frame for item in open_source(tmp_path / "many.gif")] == [0, 1, 2]
    assert [item.frame for item in open_source(tmp_path / "one.gif")] == [None]


def test_a_camera_that_is_not_there_is_reported_at_once():
    for given in (97, "97"):
        with pytest.raises(DataError, match="camera 97 cannot be opened"):
            open_source(given)


def test_digits_without_end_are_no_camera(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        open_source("9" * 400)
    (tmp_path / "all.streams").write_text("9" * 5000 + "\n")
    with pytest.raises(DataError, match="cannot be opened"):
        open_source(tmp_path / "all.streams")


def test_a_streams_file_without_streams(tmp_path):
    (tmp_path / "all.streams").write_text("\n")
    with pytest.raises(DataError, match="names no stream"):
        open_source(tmp_path / "all.streams")
    (tmp_path / "all.streams").write_text("97\n")
    with pytest.raises(DataError, match="camera 97"):
        open_source(tmp_path / "all.streams")


def test_a_source_that_somebody_else_has_made(tmp_path):
    made = open_source([str(write_image(tmp_path / "a.jpg", 50)), str(write_image(tmp_path / "b.jpg", 90))])
    assert open_source(made) is made
    assert values(made) == [50, 90]


def test_natural_order():
    ordered = ["a1/b10.jpg", "a2/b9.jpg", "a2/B10.jpg", "a10/b1.jpg", "ä.jpg", "²3.jpg"]
    paths = [Path(name) for name in ordered[:4]]
    shuffled = [paths[2], paths[0], paths[3], paths[1]]
    assert sorted(shuffled, key=natural_order) == paths
    sorted(map(Path, ordered), key=natural_order)


class Web(BaseHTTPRequestHandler):
    """Answers of good and bad servers."""

    def do_GET(self):
        path = self.path.partition("?")[0]
        data = jpeg(80)
        if path in {"/a.jpg", "/picture"}:
            self.answer("image/jpeg", data)
        elif path == "/page":
            self.answer("text/html", b"<html>")
        elif path == "/short.jpg":
            self.answer("image/jpeg", data[:-50], length=len(data))
        elif path == "/huge.jpg":
            self.answer("image/jpeg", data, length=1 << 40)
        elif path == "/endless.jpg":
            self.answer("image/jpeg", data * 100, length=None)
        elif path == "/moved.jpg":
            self.send_response(302)
            self.send_header("Location", "/a.jpg")
            self.end_headers()
        else:
            self.send_error(404, "Not Found")

    def answer(self, kind, data, length=-1):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(len(data) if length < 0 else length))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def web():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Web)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("path", ["/a.jpg", "/a.jpg?width=3&x=.png", "/picture", "/moved.jpg"])
def test_images_from_the_web(web, path):
    (item,) = open_source(web + path)
    assert isinstance(item, SourceImage)
    assert item.path == web + path
    assert round(item.image.mean(), -1) == 80


@pytest.mark.parametrize(
    ("path", "reason"),
    [("/gone.jpg", "404 Not Found"), ("/short.jpg", "broke after"), ("/huge.jpg", "MiB"), ("/page", "text/html")],
)
def test_bad_answers_are_reported_and_passed_over(web, path, reason):
    found = list(open_source([web + path, web + "/a.jpg"]))
    assert [type(item) for item in found] == [Unreadable, SourceImage]
    assert reason in found[0].reason


def test_an_answer_without_an_end_is_cut_off(web, monkeypatch):
    monkeypatch.setattr(segx.io.images, "DOWNLOAD_LIMIT", 4000)
    (item,) = open_source(web + "/endless.jpg")
    assert "allowed" in item.reason


def test_an_address_alone_is_looked_at_first(web, monkeypatch):
    with pytest.raises(DataError, match="404"):
        open_source(web + "/gone")
    monkeypatch.setenv("SEGX_OFFLINE", "1")
    (item,) = open_source(web + "/a.jpg")
    assert "SEGX_OFFLINE" in item.reason


def test_nobody_listens_there():
    (item,) = open_source("http://127.0.0.1:9/a.jpg")
    assert "refused" in item.reason.lower()


def test_reading_sources_imports_neither_torch_nor_pillow(tmp_path):
    path = write_image(tmp_path / "a.jpg")
    code = (
        "import sys; from segx.io.sources import open_source; list(open_source(sys.argv[1]));"
        "sys.exit(bool({'torch', 'PIL'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-W", "error", "-c", code, str(path)], check=False).returncode == 0


@pytest.mark.parametrize("scheme", ["http", "https", "rtsp", "rtmp", "udp"])
def test_nothing_is_fetched_offline(monkeypatch, scheme):
    def connect(*_):
        pytest.fail("the network was asked")

    monkeypatch.setattr("socket.socket.connect", connect)
    monkeypatch.setattr(cv2, "VideoCapture", connect)
    monkeypatch.setenv("SEGX_OFFLINE", "1")
    for suffix in (".mp4", ".m3u8", ".png", ""):
        try:
            (item,) = open_source(f"{scheme}://192.0.2.1/a{suffix}")
            reason = item.reason
        except DataError as error:
            reason = error.message
        assert "SEGX_OFFLINE forbids fetching it" in reason


def test_a_file_whose_name_begins_with_a_tilde_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("~nobody.png", np.zeros((8, 8, 3), np.uint8))
    assert [item.path for item in open_source("~nobody.png")] == ["~nobody.png"]
    with pytest.raises(DataError, match="~stranger"):
        open_source("~stranger/a.png")


def test_sub_folders_are_left_aside_and_told_of(tmp_path, caplog):
    """Those that are links too; a pattern with two stars follows them all."""
    inner = tmp_path / "photos" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "photos" / "link").symlink_to(tmp_path / "elsewhere")
    for folder in (tmp_path / "photos", inner, tmp_path / "elsewhere"):
        cv2.imwrite(str(folder / "one.png"), np.zeros((4, 6, 3), np.uint8))
    with caplog.at_level("INFO"):
        assert open_source(tmp_path / "photos").length() == 1
    assert "2 sub-folders left aside; to look into sub-folders: source=" in caplog.text
    assert open_source(str(tmp_path / "photos" / "**" / "*.*")).length() == 3
