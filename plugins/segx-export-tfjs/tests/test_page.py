"""The page in a browser: Chromium without a window, told what to do over its debugging pipe."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pytest

from segx.artifact import Artifact
from segx.flows.export import export
from segx.testing.models import export_file, real_module, tiny_info
from segx_export_tfjs.exporter import write_page
from segx_tfjs import runtime

if TYPE_CHECKING:
    from collections.abc import Iterator

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
SCREENSHOTS = os.environ.get("SEGX_SCREENSHOTS", "")
"""A folder to leave pictures in, for whoever wants to look at them."""

pytestmark = [
    pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium in PATH"),
    pytest.mark.skipif(sys.platform == "win32", reason="the debugging pipe takes file descriptors 3 and 4"),
    pytest.mark.slow,
]

SETTLED = "document.body && (document.body.dataset.ready || document.body.dataset.failed)"
NUMBERED = """
import os, sys
commands, answers = (os.dup(os.dup(os.dup(int(number)))) for number in sys.argv[1:3])  # out of the way of 3 and 4
os.dup2(commands, 3)
os.dup2(answers, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """A page of Chromium's, over ``--remote-debugging-pipe``: messages of JSON, each with a zero byte behind it."""

    def __init__(self, folder: Path) -> None:
        commands, self._write = os.pipe()
        self._read, answers = os.pipe()
        words = [
            *(CHROMIUM, "--headless=new", "--remote-debugging-pipe", f"--user-data-dir={folder}", "--disable-gpu"),
            *("--no-first-run", "--disable-background-networking", "--disable-dev-shm-usage", "--no-sandbox"),
            *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", "about:blank"),
        ]
        numbered = [sys.executable, "-c", NUMBERED, str(commands), str(answers), *words]
        self._process = subprocess.Popen(
            numbered, pass_fds=(commands, answers), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(commands)
        os.close(answers)
        self._number, self._rest, self.errors, self.asked = 0, b"", [], []  # type: ignore[var-annotated]
        self._session = ""
        targets = self.call("Target.getTargets")["targetInfos"]
        target = next(item["targetId"] for item in targets if item["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "DOM"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(20)
        os.close(self._write)
        os.close(self._read)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            told = self._hear()
            if told.get("id") == self._number:
                assert "error" not in told, told
                result: dict[str, Any] = told["result"]
                return result
            if told.get("method") == "Runtime.exceptionThrown":
                self.errors.append(told["params"]["exceptionDetails"])
            elif told.get("method") == "Network.requestWillBeSent":
                self.asked.append(told["params"]["request"]["url"])

    def _hear(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._read, 1 << 20)
            assert part, "Chromium has ended"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        told: dict[str, Any] = json.loads(message)
        return told

    def ask(self, script: str) -> Any:
        done = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def wait_for(self, script: str, seconds: float = 120) -> Any:
        end = time.monotonic() + seconds
        while not (found := self.ask(script)):
            assert time.monotonic() < end, (script, self.ask("document.body.innerText"), self.errors)
            time.sleep(0.2)
        return found

    def choose(self, path: Path) -> None:
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def look(self, name: str, width: int = 1280, height: int = 860, *, dark: bool = False) -> None:
        if not SCREENSHOTS:
            return
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        picture = self.call("Page.captureScreenshot", captureBeyondViewport=width < 600)["data"]
        (Path(SCREENSHOTS) / f"{name}.png").write_bytes(base64.b64decode(picture))


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with Browser(tmp_path / "profile") as started:
        yield started


def serve(browser: Browser, folder: Path) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    browser.call("Page.navigate", url=f"http://127.0.0.1:{server.server_port}/")
    return server


@pytest.fixture
def installed() -> None:
    if runtime.for_a_page() is None:
        pytest.skip(f"TensorFlow.js is not installed: {runtime.SETUP}")


@pytest.mark.usefixtures("installed")
def test_page_loads_a_model_and_asks_nobody_else(browser: Browser, tmp_path: Path) -> None:
    source, _ = export_file("onnx", tmp_path, real_module(tiny_info()))
    made = export(Artifact(path=source.path, format="onnx"), "tfjs", {"verify": False}).path
    server = serve(browser, made)
    try:
        assert browser.wait_for(SETTLED) == "wasm"
        browser.ask("document.getElementById('camera').click()")
        assert browser.wait_for("segx.found() !== null") is True
        browser.ask("document.getElementById('camera').click()")
        origin = f"http://127.0.0.1:{server.server_port}/"
        assert [url for url in browser.asked if not url.startswith((origin, "data:", "blob:"))] == []
        text = tmp_path / "no image.txt"
        text.write_text("no image")
        browser.choose(text)
        browser.wait_for("document.getElementById('status').textContent.includes('is no image this browser can read')")
        assert browser.errors == []
    finally:
        server.shutdown()
        server.server_close()


def test_page_without_tensorflow_js_says_what_to_run(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(runtime.VARIABLE, str(tmp_path / "nowhere"))
    folder = tmp_path / "page"
    folder.mkdir()
    assert write_page(folder) is False
    server = serve(browser, folder)
    try:
        browser.wait_for("document.body && document.body.dataset.failed")
        assert "segx tfjs setup" in browser.ask("document.getElementById('status').textContent")
        browser.look("without-tfjs")
        browser.call("Page.navigate", url=(folder / "index.html").as_uri())
        browser.wait_for("document.getElementById('status')?.textContent.includes('python -m http.server')")
        browser.look("from-a-file")
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.real
@pytest.mark.usefixtures("installed")
def test_masks_of_a_photograph_are_segx_s(browser: Browser, tmp_path: Path, real_data: Path) -> None:
    from segx import YOLO

    weights = tmp_path / "yolov8n-seg.pt"
    shutil.copy(real_data / "weights" / "yolov8n-seg.pt", weights)
    photo = real_data / "coco-mini" / "images" / "val2017" / "000000000139.jpg"
    made = export(Artifact(path=weights, format="pt"), "tfjs", {"verify": False}).path
    wanted = YOLO(weights).predict(photo, imgsz=640, rect=False)[0]
    server = serve(browser, made)
    try:
        browser.wait_for(SETTLED)
        browser.look("ready")
        browser.choose(photo)
        browser.wait_for("segx.found()")
        found = browser.ask(
            "segx.found().map(({category, score, mask}) =>"
            " ({category, score, rect: mask.rect, bits: [...mask.bits].join('')}))"
        )
        browser.look("photo")
        browser.look("photo-dark", dark=True)
        browser.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=2, mobile=True)
        browser.ask("document.getElementById('boxes').onchange()")
        shown = browser.ask("parseInt(canvas.getContext('2d').font.split(' ')[1]) * canvas.clientWidth / canvas.width")
        assert shown > 10, f"names are {shown:.0f} pixels high on a phone"
        browser.look("photo-narrow", width=390, height=844)
        masks = np.asarray(wanted.masks.data, dtype=bool)
        classes = np.asarray(wanted.boxes.cls).astype(int)
        assert len(found) == len(masks) > 3
        assert sorted(one["category"] for one in found) == sorted(classes.tolist())
        for one in found:
            x0, y0, x1, y1 = one["rect"]
            bits = np.frombuffer(one["bits"].encode(), np.uint8) == ord("1")
            mine = np.zeros(masks.shape[1:], bool)
            mine[y0:y1, x0:x1] = bits.reshape(y1 - y0, x1 - x0)
            same = classes == one["category"]
            ious = [(mine & mask).sum() / max((mine | mask).sum(), 1) for mask in masks[same]]
            assert max(ious) >= 0.98, (one["category"], one["score"], max(ious))
        browser.ask("conf.value = 0.8, conf.dispatchEvent(new Event('input'))")
        fewer = browser.ask("segx.found().map((one) => one.score)")
        assert 0 < len(fewer) < len(found)
        assert min(fewer) > 0.8
        browser.look("photo-above-0.8")
        assert browser.errors == []
    finally:
        server.shutdown()
        server.server_close()
