"""Downloads against a server on this machine that stalls, truncates, lies and changes its mind."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from segx import YOLO
from segx.artifact import WeightsFile
from segx.errors import DataError, ModelError, UsageError
from segx.io import download, network
from segx.io.download import RetryPolicy, fetch
from segx.plugin.specs import ArchitectureSpec
from segx.plugin.weights import resolve_weights, weights_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HASTY = RetryPolicy(timeout=0.4, attempts=3, connections=8, pause=0.01, longest=0.05, lock=5)


def archive(size: int = 300_000) -> bytes:
    """A whole zip archive of about this size, as a ``.pt`` file is."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("weights/data.pkl", bytes(range(256)) * (size // 256))
    return buffer.getvalue()


CONTENT = archive()


@dataclass
class Server:
    """Answers each request by the next rule of its script; the last rule stays."""

    address: str = ""
    content: bytes = CONTENT
    etag: str = '"one"'
    script: list[Callable[[Server, http.server.BaseHTTPRequestHandler], None]] = field(default_factory=list)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def url(self, name: str = "tiny.pt") -> str:
        return f"{self.address}/{name}"

    @property
    def ranges(self) -> list[str | None]:
        return [headers.get("range") for _, headers in self.requests]


def send(
    server: Server,
    request: http.server.BaseHTTPRequestHandler,
    *,
    upto: int | None = None,
    ranges: bool = True,
    **lies: str,
) -> None:
    """Answer as an honest server does, but for the headers that lie and the byte at which the connection breaks."""
    match = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
    known = request.headers.get("If-Range") in {None, server.etag}
    start = int(match[1]) if match and ranges and known else 0
    total = len(server.content)
    if match and ranges and start >= total:
        request.send_response(416)
        request.send_header("Content-Range", f"bytes */{total}")
        request.send_header("Content-Length", "0")
        request.end_headers()
        return
    request.send_response(206 if match and ranges and known else 200)
    headers = {"Content-Length": str(total - start), **({"ETag": server.etag} if server.etag else {})}
    if match and ranges and known:
        headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
    for name, value in (headers | {name.replace("_", "-"): value for name, value in lies.items()}).items():
        if value:
            request.send_header(name, value)
    request.end_headers()
    request.wfile.write(server.content[start : total if upto is None else upto])


def honest(server: Server, request: http.server.BaseHTTPRequestHandler) -> None:
    send(server, request)


def breaks_at(byte: int, **lies: str) -> Callable[[Server, http.server.BaseHTTPRequestHandler], None]:
    return lambda server, request: send(server, request, upto=byte, **lies)


def stalls(server: Server, request: http.server.BaseHTTPRequestHandler) -> None:
    send(server, request, upto=100_000)
    server.stop.wait(5)


def silent(server: Server, request: http.server.BaseHTTPRequestHandler) -> None:
    send(server, request, upto=0)
    server.stop.wait(5)


def crawls(server: Server, request: http.server.BaseHTTPRequestHandler) -> None:
    send(server, request, upto=10)
    while not server.stop.wait(0.05):
        request.wfile.write(b"x")


def ignores_range(server: Server, request: http.server.BaseHTTPRequestHandler) -> None:
    send(server, request, ranges=False)


def answers(code: int, **headers: str) -> Callable[[Server, http.server.BaseHTTPRequestHandler], None]:
    def rule(server: Server, request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(code)
        for name, value in {"Content-Length": "0", **headers}.items():
            request.send_header(name.replace("_", "-"), value.replace("HERE", server.address))
        request.end_headers()

    return rule


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            rule = state.script.pop(0) if len(state.script) > 1 else (state.script or [honest])[0]
            try:
                rule(state, self)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.daemon_threads = True
        state.address = f"http://127.0.0.1:{httpd.server_address[1]}"
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield state
        state.stop.set()
        httpd.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("SEGX_OFFLINE", "SEGX_WEIGHTS_URL", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SEGX_CACHE", str(tmp_path / "cache"))


def names(folder: Path) -> list[str]:
    """What lies in a folder, but for the cache, where the locks are."""
    return sorted(item.name for item in folder.iterdir() if item.name != "cache") if folder.is_dir() else []


def get(server: Server, tmp_path: Path, *, retry: RetryPolicy = HASTY, **known: object) -> Path:
    return fetch(WeightsFile(url=server.url(), **known), tmp_path / "tiny.pt", retry=retry)


SHA = hashlib.sha256(CONTENT).hexdigest()


def test_a_file_arrives_whole_and_alone(server: Server, tmp_path: Path) -> None:
    path = get(server, tmp_path / "new" / "folder", size=len(CONTENT), sha256=SHA.upper())
    assert path.read_bytes() == CONTENT
    assert names(path.parent) == ["tiny.pt"]


def test_a_file_that_is_there_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    get(server, tmp_path)
    get(server, tmp_path, size=len(CONTENT))
    assert len(server.requests) == 1


def test_a_file_of_another_size_is_fetched_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "tiny.pt").write_bytes(b"half")
    assert get(server, tmp_path, size=len(CONTENT)).read_bytes() == CONTENT


def test_a_broken_connection_is_resumed(server: Server, tmp_path: Path) -> None:
    server.script = [breaks_at(100_000), breaks_at(200_000), honest]
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-", "bytes=200000-"]
    assert names(tmp_path) == ["tiny.pt"]


def test_a_second_run_resumes_what_the_first_left(server: Server, tmp_path: Path) -> None:
    server.script = [breaks_at(100_000), answers(503)]
    with pytest.raises(ModelError, match=re.escape(f"cannot download {server.url()}: the server answers 503")):
        get(server, tmp_path)
    assert names(tmp_path) == ["tiny.pt.part", "tiny.pt.part.json"]
    server.script = [honest]
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges[-1] == "bytes=100000-"


def test_a_stalling_server_is_left_and_asked_again(server: Server, tmp_path: Path) -> None:
    server.script = [stalls, honest]
    started = time.monotonic()
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert time.monotonic() - started < 3
    assert server.ranges[1] == "bytes=100000-"


def test_a_server_that_always_stalls_ends_with_one_line(server: Server, tmp_path: Path) -> None:
    server.script = [silent]
    with pytest.raises(ModelError) as caught:
        get(server, tmp_path)
    assert len(server.requests) == HASTY.attempts
    assert str(tmp_path / "tiny.pt") in caught.value.hint
    assert "\n" not in caught.value.message


def test_a_crawling_server_is_a_stalling_one(server: Server, tmp_path: Path) -> None:
    server.script = [crawls, honest]
    server.etag = ""
    started = time.monotonic()
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert time.monotonic() - started < 3


def test_connections_are_bounded_even_when_each_brings_a_byte(server: Server, tmp_path: Path) -> None:
    counter = iter(range(1, 1000))
    server.script = [lambda s, r: send(s, r, upto=next(counter))]
    with pytest.raises(ModelError, match="broke 8 times"):
        get(server, tmp_path)
    assert len(server.requests) == HASTY.connections


def test_a_length_that_promises_more_than_comes_is_reported(server: Server, tmp_path: Path) -> None:
    server.script = [lambda s, r: send(s, r, ranges=False, Content_Length=str(len(CONTENT) + 5))]
    with pytest.raises(ModelError, match=f"ended after {len(CONTENT)} of {len(CONTENT) + 5} bytes"):
        get(server, tmp_path)
    assert "tiny.pt" not in names(tmp_path)


def test_a_length_that_promises_less_than_the_file_is_not_taken_for_whole(server: Server, tmp_path: Path) -> None:
    server.script = [lambda s, r: send(s, r, Content_Length="1000")]
    with pytest.raises(ModelError, match="not a whole archive"):
        get(server, tmp_path)
    assert names(tmp_path) == []


def test_no_length_at_all_is_read_to_the_end(server: Server, tmp_path: Path) -> None:
    server.script = [lambda s, r: send(s, r, Content_Length="")]
    assert get(server, tmp_path, sha256=SHA).read_bytes() == CONTENT


def test_a_server_that_ignores_range_starts_anew(server: Server, tmp_path: Path) -> None:
    server.script = [breaks_at(100_000), ignores_range]
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_a_new_version_on_the_server_is_fetched_from_its_start(server: Server, tmp_path: Path) -> None:
    newer = archive(200_000)

    def changed(state: Server, request: http.server.BaseHTTPRequestHandler) -> None:
        state.content, state.etag = newer, '"two"'
        honest(state, request)

    server.script = [breaks_at(100_000), changed]
    assert get(server, tmp_path).read_bytes() == newer


def test_a_new_version_behind_a_server_that_ignores_if_range_is_noticed(server: Server, tmp_path: Path) -> None:
    newer = archive(310_000)

    def changed(state: Server, request: http.server.BaseHTTPRequestHandler) -> None:
        state.content, state.etag = newer, '"two"'
        if "If-Range" in request.headers:
            request.headers.replace_header("If-Range", '"two"')
        honest(state, request)

    server.script = [breaks_at(100_000), changed]
    assert get(server, tmp_path).read_bytes() == newer


def test_without_a_version_or_a_hash_nothing_is_spliced(server: Server, tmp_path: Path) -> None:
    server.etag, server.script = "", [breaks_at(100_000), honest]
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, None]


def test_a_splice_that_fails_its_hash_is_fetched_once_more(server: Server, tmp_path: Path) -> None:
    part = tmp_path / "tiny.pt.part"
    part.write_bytes(b"\0" * 1000)
    part.with_name("tiny.pt.part.json").write_text(json.dumps({"url": server.url(), "version": "", "total": None}))
    server.etag = ""
    assert get(server, tmp_path, sha256=SHA).read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-", None]


def test_a_part_that_is_already_whole_is_only_checked(server: Server, tmp_path: Path) -> None:
    part = tmp_path / "tiny.pt.part"
    part.write_bytes(CONTENT)
    part.with_name("tiny.pt.part.json").write_text(
        json.dumps({"url": server.url(), "version": '"one"', "total": len(CONTENT)})
    )
    assert get(server, tmp_path, sha256=SHA).read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_a_part_longer_than_the_file_is_thrown_away(server: Server, tmp_path: Path) -> None:
    part = tmp_path / "tiny.pt.part"
    part.write_bytes(CONTENT + b"more")
    part.with_name("tiny.pt.part.json").write_text(json.dumps({"url": server.url(), "version": '"one"', "total": None}))
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_a_damaged_note_costs_only_the_part(server: Server, tmp_path: Path) -> None:
    (tmp_path / "tiny.pt.part").write_bytes(CONTENT[:500])
    (tmp_path / "tiny.pt.part.json").write_text("{half")
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None]


def test_redirects_are_followed(server: Server, tmp_path: Path) -> None:
    server.script = [answers(302, Location="HERE/elsewhere/tiny.pt"), honest]
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert [path for path, _ in server.requests] == ["/tiny.pt", "/elsewhere/tiny.pt"]


def test_redirects_without_end_are_left(server: Server, tmp_path: Path) -> None:
    server.script = [answers(302, Location="HERE/tiny.pt")]
    with pytest.raises(ModelError, match="302"):
        get(server, tmp_path)


@pytest.mark.parametrize("elsewhere", ["file:///etc/passwd", "ftp://127.0.0.1/tiny.pt"])
def test_a_redirect_to_another_kind_of_address_is_refused(server: Server, tmp_path: Path, elsewhere: str) -> None:
    server.script = [answers(302, Location=elsewhere)]
    with pytest.raises(ModelError, match=r"not safe to follow|not allowed"):
        get(server, tmp_path)


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/tiny.pt", "data:,x"])
def test_only_http_addresses_are_opened(url: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="are not fetched"):
        fetch(WeightsFile(url=url), tmp_path / "tiny.pt", retry=HASTY)


def test_an_https_address_is_not_left_for_http() -> None:
    import urllib.request

    request = urllib.request.Request("https://example.org/tiny.pt")
    with pytest.raises(network.NotAllowed, match="not safe"):
        network._Redirects().redirect_request(request, None, 302, "Found", None, "http://example.org/tiny.pt")


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_an_answer_that_will_not_change_is_reported_at_once(server: Server, tmp_path: Path, code: int) -> None:
    server.script = [answers(code)]
    with pytest.raises(ModelError, match=f"the server answers {code}"):
        get(server, tmp_path)
    assert len(server.requests) == 1
    assert names(tmp_path) == []


@pytest.mark.parametrize("code", [429, 500, 502, 503])
def test_a_busy_server_is_asked_again_with_pauses(server: Server, tmp_path: Path, code: int) -> None:
    server.script = [answers(code, Retry_After="3"), answers(code), honest]
    started = time.monotonic()
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert time.monotonic() - started >= HASTY.longest


def test_a_wrong_hash_is_refused_and_nothing_stays(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"SHA-256 is {SHA}, published was {'0' * 64}"):
        get(server, tmp_path, sha256="0" * 64)
    assert names(tmp_path) == []
    assert len(server.requests) == 1


def test_a_wrong_size_is_refused_before_it_is_fetched(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="published were 7"):
        get(server, tmp_path, size=7)
    assert names(tmp_path) == []


def test_more_bytes_than_published_are_not_taken(server: Server, tmp_path: Path) -> None:
    server.script = [lambda s, r: send(s, r, Content_Length="")]
    with pytest.raises(ModelError, match="not a whole archive"):
        get(server, tmp_path, size=1000)
    assert names(tmp_path) == []


def test_a_page_instead_of_a_model_is_reported(server: Server, tmp_path: Path) -> None:
    server.content = b"<!DOCTYPE html><title>Please log in</title>"
    with pytest.raises(ModelError, match=r"not a whole archive .*<!DOCTYPE html"):
        get(server, tmp_path)


def test_a_flipped_bit_in_an_archive_is_noticed_without_a_hash(server: Server, tmp_path: Path) -> None:
    broken = bytearray(CONTENT)
    broken[5000] ^= 1
    server.content = bytes(broken)
    with pytest.raises(ModelError, match=r"data\.pkl in the archive that came is damaged"):
        get(server, tmp_path)


def test_safetensors_are_checked_by_their_header(server: Server, tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    whole = len(header).to_bytes(8, "little") + header + b"\0" * 8
    server.content = whole
    file = WeightsFile(url=server.url("w.safetensors"))
    assert fetch(file, tmp_path / "w.safetensors", retry=HASTY).read_bytes() == whole
    for wrong in (whole[:-1], whole[:20], b"\xff" * 40, b"", (3).to_bytes(8, "little") + b"[1]"):
        server.content = wrong
        with pytest.raises(ModelError, match="not a whole safetensors file"):
            fetch(file, tmp_path / "other.safetensors", retry=HASTY)


def test_a_full_disk_is_reported_before_the_download(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(ModelError, match="10 are free"):
        get(server, tmp_path)


def test_a_folder_that_cannot_be_made_is_reported(server: Server, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(ModelError, match=r"cannot download .*taken"):
        get(server, tmp_path / "taken" / "inside")


def test_a_cache_that_cannot_be_looked_into_is_reported(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(type(tmp_path), "is_file", denied)
    with pytest.raises(ModelError, match=r"tiny.pt: cannot be looked at \(Permission denied\)") as caught:
        get(server, tmp_path)
    assert "SEGX_CACHE" in caught.value.hint


def test_offline_names_the_address_and_the_place(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGX_OFFLINE", "1")
    with pytest.raises(ModelError, match="SEGX_OFFLINE") as caught:
        get(server, tmp_path)
    assert server.url() in caught.value.hint
    assert str(tmp_path / "tiny.pt") in caught.value.hint
    assert server.requests == []
    (tmp_path / "tiny.pt").write_bytes(CONTENT)
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_an_unreachable_server_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ModelError, match=r"cannot download .*Connection refused") as caught:
        fetch(WeightsFile(url=f"http://127.0.0.1:{port}/tiny.pt"), tmp_path / "tiny.pt", retry=HASTY)
    assert caught.value.hint == f"get it by other means and put it at {tmp_path / 'tiny.pt'}"


def test_the_proxy_of_the_environment_is_used(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.address)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    path = fetch(WeightsFile(url="http://weights.invalid/tiny.pt"), tmp_path / "tiny.pt", retry=HASTY)
    assert path.read_bytes() == CONTENT
    assert server.requests[0][0] == "http://weights.invalid/tiny.pt"


def test_a_caller_chooses_the_error(server: Server, tmp_path: Path) -> None:
    server.script = [answers(404)]
    with pytest.raises(DataError):
        fetch(WeightsFile(url=server.url()), tmp_path / "data.zip", retry=HASTY, error=DataError)


def test_the_bar_is_shown_on_standard_error(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fetch(WeightsFile(url=server.url()), tmp_path / "tiny.pt", retry=HASTY, progress=True)
    captured = capsys.readouterr()
    assert "tiny.pt: 100%" in captured.err
    assert captured.out == ""


FETCH = """
import sys
from pathlib import Path
from segx.artifact import WeightsFile
from segx.io.download import RetryPolicy, fetch
fetch(WeightsFile(url=sys.argv[1]), Path(sys.argv[2]), retry=RetryPolicy(lock=20))
"""


def test_two_processes_fetch_a_file_once(server: Server, tmp_path: Path) -> None:
    def slowly(state: Server, request: http.server.BaseHTTPRequestHandler) -> None:
        time.sleep(0.5)
        honest(state, request)

    server.script = [slowly]
    words = [sys.executable, "-c", FETCH, server.url(), str(tmp_path / "tiny.pt")]
    processes = [subprocess.Popen(words) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert len(server.requests) == 1
    assert names(tmp_path) == ["tiny.pt"]


def test_a_lock_that_is_never_released_is_reported(server: Server, tmp_path: Path) -> None:
    with download._only_one(tmp_path / "tiny.pt", HASTY), pytest.raises(ModelError, match="another process"):
        get(server, tmp_path, retry=RetryPolicy(lock=0.2))


@dataclass
class Catalog:
    """What resolve_weights needs of a registry."""

    published: dict[str, WeightsFile]

    @property
    def architectures(self) -> dict[str, ArchitectureSpec]:
        spec = ArchitectureSpec(name="tiny", summary="", load=lambda: None, task="segment", weights=self.published)
        return {"tiny": spec}

    def weights_file(self, name: str) -> WeightsFile | None:
        return self.published.get(name)


def test_a_known_name_comes_into_the_cache(server: Server, tmp_path: Path) -> None:
    catalog = Catalog({"tiny.pt": WeightsFile(url=server.url("release/tiny.pt"))})
    path = resolve_weights("tiny.pt", catalog, retry=HASTY)
    assert path == tmp_path / "cache" / "weights" / "tiny.pt"
    assert path.read_bytes() == CONTENT


def test_a_mirror_takes_the_place_of_the_release(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGX_WEIGHTS_URL", f"{server.address}/mirror/")
    catalog = Catalog({"tiny.pt": WeightsFile(url="https://weights.invalid/v1/tiny.pt", sha256=SHA)})
    assert resolve_weights("tiny.pt", catalog, retry=HASTY).is_file()
    assert server.requests[0][0] == "/mirror/tiny.pt"


def test_a_mirror_is_advised_for_what_it_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("SEGX_WEIGHTS_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
    catalog = Catalog({"tiny.pt": WeightsFile(url="https://weights.invalid/v1/tiny.pt", sha256=SHA)})
    with pytest.raises(ModelError, match=r"cannot download") as caught:
        resolve_weights("tiny.pt", catalog, retry=HASTY)
    assert caught.value.hint.endswith("set SEGX_WEIGHTS_URL to a mirror")


def test_an_unknown_name_is_suggested_not_changed(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"'tinny\.pt' .*did you mean 'tiny\.pt'") as caught:
        resolve_weights("tinny.pt", Catalog({"tiny.pt": WeightsFile(url="http://weights.invalid/tiny.pt")}))
    assert "tiny.pt" in caught.value.hint


def test_a_model_is_named_by_its_address(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from segx.plugin.registry import get_registry

    shipped = get_registry().weights_file("shapes-seg.pt")
    assert shipped is not None
    assert shipped.path is not None
    server.content = shipped.path.read_bytes()
    server.script = [honest]
    address = server.url("mine.pt?download=true")
    for _ in range(2):
        assert dict(YOLO(address).names) == dict(YOLO("shapes-seg.pt").names)
    assert len(server.requests) == 1, "the second time it is there"
    assert "secret" not in repr(YOLO(server.url("mine.pt?token=secret")))
    assert [path.name for path in weights_folder().glob("*/*.pt")] == ["mine.pt"] * 2, "of each address its own"
    with pytest.raises(UsageError, match="is not the address of a") as caught:
        YOLO(server.url("mine.onnx?token=secret"))
    assert "secret" not in caught.value.message
