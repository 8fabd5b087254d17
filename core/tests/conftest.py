"""What several tests of the core need."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest


class Camera(BaseHTTPRequestHandler):
    """A network camera that sends MJPEG; the server's ``sessions`` says how many frames each connection gets."""

    def do_GET(self):
        server = self.server
        with server.lock:
            frames = server.sessions.pop(0) if server.sessions else 0
        if not frames:
            self.send_error(503)
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        try:
            for _ in range(frames):
                jpeg = cv2.imencode(".jpg", np.full((48, 64, 3), server.count % 12 * 20, np.uint8))[1].tobytes()
                server.count += 1
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n".encode()
                self.wfile.write(head + jpeg + b"\r\n")
                time.sleep(server.pause)
        except OSError:
            server.left += 1

    def log_message(self, *_):
        pass


@pytest.fixture
def camera():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    server.daemon_threads = True
    server.lock, server.sessions, server.count, server.left, server.pause = threading.Lock(), [], 0, 0, 0.01
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    server.address = f"http://127.0.0.1:{server.server_port}/live.mjpg"
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
