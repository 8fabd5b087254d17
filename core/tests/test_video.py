from __future__ import annotations

import struct
import threading
import time
from itertools import pairwise

import cv2
import numpy as np
import pytest

from segx.errors import DataError
from segx.io.video import Frame, LiveStreams, Lost, VideoFile, silence_ffmpeg
from segx.io.writers import _VideoFile
from segx.structures.batch import Clip

silence_ffmpeg()  # as segx does before its first video; the tests below write theirs with OpenCV alone


def write_video(path, frames=10, size=(64, 48), fps=12.5, codec="MJPG"):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), fps, size)
    assert writer.isOpened()
    for number in range(frames):
        writer.write(np.full((size[1], size[0], 3), number % 12 * 20, np.uint8))
    writer.release()
    return path


def shade(image) -> int:
    return round(float(image.mean()) / 20)


def test_frames_rate_and_length(tmp_path):
    video = VideoFile(str(write_video(tmp_path / "straße.avi")))
    assert video.clip().fps == pytest.approx(12.5)
    assert video.clip().frames == 10
    frames = list(video.frames())
    assert [frame.index for frame in frames] == list(range(10))
    assert [shade(frame.image) for frame in frames] == list(range(10))
    assert len(list(video.frames())) == 10  # from the beginning again


def test_a_stride_takes_every_nth_frame_and_lowers_the_rate(tmp_path):
    video = VideoFile(str(write_video(tmp_path / "clip.avi")), stride=4)
    assert video.clip().frames == 3
    assert video.clip().fps == pytest.approx(12.5 / 4)
    assert [(frame.index, shade(frame.image)) for frame in video.frames()] == [(0, 0), (4, 4), (8, 8)]


def test_a_damaged_video_is_refused_quietly(tmp_path, capfd):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"no video")
    with pytest.raises(DataError, match="damaged"):
        list(VideoFile(str(path)).frames())
    assert capfd.readouterr().err == ""


def test_a_video_cut_short_gives_its_frames_and_then_says_so(tmp_path):
    path = write_video(tmp_path / "clip.avi", frames=60)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    frames = []
    with pytest.raises(DataError, match=r"ends after \d+ of 60 frames"):
        frames.extend(VideoFile(str(path)).frames())


def stream_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("segx-stream")]


def test_a_lost_stream_is_opened_again_and_given_up_in_the_end(camera, caplog):
    camera.sessions = [8, 6]
    streams = LiveStreams((camera.address,), keep_all=True, tries=2, pause=0.05)
    got = list(streams.frames())
    streams.close()
    frames = [item for item in got if isinstance(item, Frame)]
    assert len(frames) >= 12  # the frame that proves a stream is back is not delivered
    assert [frame.index for frame in frames] == list(range(len(frames)))
    assert frames[0].clip.live
    assert isinstance(got[-1], Lost)
    assert got[-1].name == camera.address
    assert "2 tries" in got[-1].reason
    assert "opening it again (1 of 2)" in caplog.text
    assert not stream_threads()


def test_only_the_newest_frame_is_kept_unless_asked_otherwise(camera):
    camera.sessions = [100]
    with_newest = LiveStreams((camera.address,))
    frames = with_newest.frames()
    first = next(frames)
    time.sleep(0.4)
    second = next(frames)
    with_newest.close()
    assert second.index - first.index > 5
    assert list(frames) == []
    assert not stream_threads()


def test_a_full_queue_holds_the_stream_back(camera):
    camera.sessions, camera.pause = [200], 0
    streams = LiveStreams((camera.address,), keep_all=True)
    frames = streams.frames()
    first = next(frames)
    time.sleep(0.3)
    rest = [next(frames).index for _ in range(40)]
    streams.close()
    assert [first.index, *rest] == list(range(41))


def test_several_streams_take_turns(camera):
    camera.sessions = [30, 30]
    streams = LiveStreams((camera.address, camera.address + "?second"), tries=1, pause=0.01)
    names = [item.clip.name for item in streams.frames() if isinstance(item, Frame)]
    streams.close()
    assert set(names) == {camera.address, camera.address + "?second"}
    changes = sum(one != other for one, other in pairwise(names))
    assert changes >= len(names) // 4


def test_a_stream_that_is_not_there_is_reported_at_once(camera, capfd):
    with pytest.raises(DataError, match="cannot be opened"):
        LiveStreams((camera.address,))
    assert capfd.readouterr().err == ""


def matroska(path, milliseconds, *, duration):
    """Write frames shown at any times (RFC 9559): OpenCV itself writes only at one rate."""

    def element(name, content):
        return bytes.fromhex(name) + (0x0100000000000000 | len(content)).to_bytes(8, "big") + content

    def frame(number, at):
        data = cv2.imencode(".jpg", np.full((48, 64, 3), number % 12 * 20, np.uint8))[1].tobytes()
        return element("A3", b"\x81" + at.to_bytes(2, "big", signed=True) + b"\x80" + data)

    video = element("E0", element("B0", b"\x40") + element("BA", b"\x30"))
    track = element("D7", b"\1") + element("73C5", b"\1") + element("83", b"\1") + element("86", b"V_MJPEG") + video
    info = element("2AD7B1", (1_000_000).to_bytes(4, "big")) + element("4489", struct.pack(">d", duration))
    blocks = b"".join(frame(number, at) for number, at in enumerate(milliseconds))
    parts = element("1549A966", info) + element("1654AE6B", element("AE", track))
    cluster = element("1F43B675", element("E7", b"\0") + blocks)
    path.write_bytes(element("1A45DFA3", element("4282", b"matroska")) + element("18538067", parts + cluster))
    return path


VARIED = [33 * number for number in range(30)] + [990 + 500 * number for number in range(10)]


def test_a_rate_that_varies_is_no_false_alarm_and_an_early_end_still_told(tmp_path):
    frames = list(VideoFile(str(matroska(tmp_path / "a.mkv", VARIED, duration=5990))).frames())
    assert [round(1000 * frame.seconds) for frame in frames] == VARIED
    with pytest.raises(DataError, match=r"ends after 30 of \d+ frames"):
        list(VideoFile(str(matroska(tmp_path / "b.mkv", VARIED[:30], duration=5990))).frames())


def test_what_a_video_claims_is_checked(tmp_path, monkeypatch):
    path = str(write_video(tmp_path / "clip.avi"))
    monkeypatch.setenv("SEGX_MAX_PIXELS", "3000")
    with pytest.raises(DataError, match="64 x 48 pixels, more than the 3,000"):
        list(VideoFile(path).frames())


@pytest.mark.parametrize(
    "milliseconds", [VARIED, [500 * number for number in range(10)] + [5000 + 33 * n for n in range(16)]]
)
def test_a_video_is_saved_at_its_true_length(tmp_path, milliseconds):
    path = matroska(tmp_path / "a.mkv", milliseconds, duration=milliseconds[-1] + 33)
    frames = list(VideoFile(str(path)).frames())
    for rate in (30.0, 8.0):
        clip = Clip(name="a.mkv", fps=rate)
        saved = _VideoFile(tmp_path / "a.mp4", clip, frames[0].image)
        for frame in frames:
            saved.write(frame.image, frame.seconds)
        saved.close()
        read = list(VideoFile(str(tmp_path / "a.mp4")).frames())
        assert len(read) / rate == pytest.approx(milliseconds[-1] / 1e3 + 1 / rate, abs=1.5 / rate)


def test_frames_without_a_time_are_all_saved(tmp_path):
    saved = _VideoFile(tmp_path / "a.mp4", Clip(name="a", fps=10.0), np.zeros((48, 64, 3), np.uint8))
    for _ in range(7):
        saved.write(np.zeros((48, 64, 3), np.uint8), None)
    saved.close()
    assert len(list(VideoFile(str(tmp_path / "a.mp4")).frames())) == 7
