"""The one door to the network: what is asked for, what is followed, what is printed."""

from __future__ import annotations

import contextlib
import http.server
import logging
import threading
import time
import urllib.parse
from typing import TYPE_CHECKING

import pytest

from segx.errors import DataError, SegxError
from segx.io import images, network
from segx.io.sources import open_source
from segx.io.video import VideoFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SEGX_OFFLINE", "http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


class Server:
    """Answers as ``answer`` says, and keeps what was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.answer: Callable[[http.server.BaseHTTPRequestHandler], None] = lambda request: whole(request, b"fine")
        self.stop = threading.Event()
        self.address = ""


def whole(request: http.server.BaseHTTPRequestHandler, content: bytes) -> None:
    request.send_response(200)
    request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    request.wfile.write(content)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            with contextlib.suppress(OSError):
                state.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        state.address = f"http://127.0.0.1:{running.server_address[1]}"
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield state
        state.stop.set()
        running.shutdown()


def get(address: str, *, most: int = 1000, within: float = 10) -> bytes:
    return network.fetch(address, most=most, within=within)[0]


@pytest.mark.parametrize(
    ("written", "asked"),
    [
        ("/a b/ä.png", "/a%20b/%C3%A4.png"),
        ("/a%20b/100%.png?x=ü y&z=%26", "/a%20b/100%25.png?x=%C3%BC%20y&z=%26"),
        ("/a\r\nHost: evil", "/aHost:%20evil"),
        (" ", "/"),
    ],
)
def test_spaces_and_other_letters_are_encoded_once(server: Server, written: str, asked: str) -> None:
    assert get(server.address + written) == b"fine"
    assert server.asked[0][0] in {asked, ""}


def test_credentials_are_used_and_never_printed(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    host = server.address.removeprefix("http://")
    address = f"http://j%C3%B6:se%40cret@{host}/photo.png?access_token=hush&id=3"
    assert get(address) == b"fine"
    assert server.asked[0][1]["authorization"] == "Basic asO2OnNlQGNyZXQ="
    assert server.asked[0][0] == "/photo.png?access_token=hush&id=3"
    assert network.shown(address) == f"http://{host}/photo.png?access_token=***&id=3"
    (item,) = open_source(address)
    assert "cret" not in repr(item)
    assert "hush" not in repr(item)
    video = VideoFile(address.replace("png", "mp4"))
    with pytest.raises(DataError) as caught:
        video.clip()
    assert "cret" not in f"{video.name}{caught.value}{caplog.text}"


def test_credentials_do_not_follow_to_another_host(server: Server) -> None:
    def elsewhere(request: http.server.BaseHTTPRequestHandler) -> None:
        if request.path == "/there":
            whole(request, b"there")
            return
        request.send_response(302)
        port = urllib.parse.urlsplit(server.address).port
        host = "localhost" if request.path == "/away" else "127.0.0.1"
        request.send_header("Location", f"http://{host}:{port}/there")
        request.end_headers()

    server.answer = elsewhere
    for path in ("/away", "/here"):
        assert get(server.address.replace("http://", "http://me:secret@") + path) == b"there"
    assert ["authorization" in headers for _, headers in server.asked] == [True, False, True, True]


@pytest.mark.parametrize("target", ["ftp://127.0.0.1/x", "file:///etc/passwd", "data:,x", "gopher://127.0.0.1/"])
def test_a_redirect_to_another_scheme_is_not_followed(server: Server, target: str) -> None:
    def away(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        request.send_header("Location", target)
        request.end_headers()

    server.answer = away
    with pytest.raises(DataError, match=r"not safe to follow|not allowed"):
        get(server.address)
    (item,) = open_source(f"{server.address}/a.png")
    assert "not " in item.reason


def drip_body(request: http.server.BaseHTTPRequestHandler, server: Server) -> None:
    request.send_response(200)
    request.end_headers()
    while not server.stop.wait(0.05):
        request.wfile.write(b"x")
        request.wfile.flush()


def drip_head(request: http.server.BaseHTTPRequestHandler, server: Server) -> None:
    request.wfile.write(b"HTTP/1.1 200 fine\r\nX: ")
    while not server.stop.wait(0.05):
        request.wfile.write(b"x")
        request.wfile.flush()


def drip_chunk(request: http.server.BaseHTTPRequestHandler, server: Server) -> None:
    request.wfile.write(b"HTTP/1.1 200 fine\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not server.stop.wait(0.05):
        request.wfile.write(b"0")
        request.wfile.flush()


@pytest.mark.parametrize("drip", [drip_body, drip_head, drip_chunk])
def test_what_comes_in_drops_has_an_end(
    server: Server, monkeypatch: pytest.MonkeyPatch, drip: Callable[[http.server.BaseHTTPRequestHandler, Server], None]
) -> None:
    server.answer = lambda request: drip(request, server)
    monkeypatch.setattr(images, "DOWNLOAD_SECONDS", 0.5)
    begun = time.monotonic()
    with pytest.raises(DataError, match=r"0\.5 s"):
        images.fetch_image(f"{server.address}/a.png")
    assert time.monotonic() - begun < 5


def test_more_than_allowed_is_not_read(server: Server) -> None:
    server.answer = lambda request: whole(request, bytes(2000))
    with pytest.raises(DataError, match="more than"):
        get(server.address)


@pytest.mark.parametrize(
    "source", ["{}/clip.mp4", "{}/live.m3u8", "{}/page", "rtsp://127.0.0.1:9/x", "udp://127.0.0.1:9"]
)
def test_offline_holds_for_every_source(server: Server, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.setenv("SEGX_OFFLINE", "1")
    reasons = []
    try:
        reasons += [item.reason for item in open_source(source.format(server.address))]
    except SegxError as error:
        reasons.append(error.message)
    assert len(reasons) == 1
    assert "SEGX_OFFLINE" in reasons[0]
    assert not server.asked


@pytest.mark.parametrize("address", ["http://", "http://[", "http://a:b/", "http://a:99999/", "ftp://a/b", "http:///x"])
def test_what_is_no_address_is_one_line(address: str) -> None:
    with pytest.raises(DataError) as caught:
        get(address)
    assert "\n" not in caught.value.message
