"""Names of what segx writes: safe on every system, unique, the same for the same inputs."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segx.io.names import (
    ImageIds,
    Names,
    class_folders,
    crop_stem,
    file_names,
    image_ids,
    image_suffix,
    key,
    safe,
    split_name,
    stems,
)

ANY = st.text(st.characters(exclude_categories=()), max_size=300)  # halves of characters too: names that are not UTF-8
ALIKE = st.text("aA-_1\uff122.é\u0301\u200b", max_size=6)


def same_file(one: str, other: str) -> bool:
    """Return True if some file system takes two names for one, said otherwise than segx.io.names says it."""
    return any(
        unicodedata.normalize(form, one).casefold() == unicodedata.normalize(form, other).casefold()
        for form in ("NFC", "NFD", "NFKC", "NFKD")
    )


@given(ANY)
def test_any_text_becomes_one_component_that_every_system_takes(text: str) -> None:
    name = safe(text)
    assert name
    assert name not in {".", ".."}
    assert not set(name) & set('<>:"/\\|?*')
    assert not any(unicodedata.category(letter) in {"Cc", "Cs", "Zl", "Zp"} for letter in name)
    assert not name.endswith((" ", "."))
    assert len(name.encode()) <= 121
    assert safe(name) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("bus", "bus"),
        ("größe 写真", "größe 写真"),
        ("pill#1", "pill#1"),
        ("../../x", "_.._x"),
        ("/etc/passwd", "_etc_passwd"),
        ("..", "image"),
        ("", "image"),
        (" . ", "image"),
        ("\u200b", "image"),
        ("a\nb\x1b[31m", "a_b_[31m"),
        ("a\u202eb", "a_b"),
        ("C:\\x", "C__x"),
        ("con", "_con"),
        ("NUL.x", "_NUL.x"),
        ("com1 .x", "_com1 .x"),
        ("console", "console"),
        ("b\udcff", "b_"),
        ("é" * 200, "é" * 60),
    ],
)
def test_safe(text: str, name: str) -> None:
    assert safe(text) == name


@given(st.lists(st.tuples(st.one_of(ALIKE, ANY), st.booleans()), max_size=12))
def test_no_two_names_are_one_and_no_frame_has_the_name_of_an_image(wanted: list[tuple[str, bool]]) -> None:
    names = Names()
    given_names = [(names.new(text, frames=frames), frames) for text, frames in wanted]
    everything = [name for name, _ in given_names]
    everything += [f"{name}_{number}" for name, frames in given_names if frames for number in (0, 1, 2, 12)]
    assert len({key(name) for name in everything}) == len(everything)
    assert not any(same_file(one, other) for i, one in enumerate(everything) for other in everything[:i])
    again = Names()
    assert [again.new(text, frames=frames) for text, frames in wanted] == [name for name, _ in given_names]


@given(st.lists(ALIKE, max_size=8))
def test_objects_of_different_images_never_share_a_crop(texts: list[str]) -> None:
    names = Names()
    crops = [crop_stem(names.new(text), number) for text in texts for number in (1, 2, 3, 12)]
    assert len({key(name) for name in crops}) == len(crops)


def test_crops_are_numbered_from_the_second_on() -> None:
    assert [crop_stem("bus", number) for number in (1, 2, 3)] == ["bus", "bus-2", "bus-3"]
    assert [crop_stem("bus-2", number) for number in (1, 2)] == ["bus-2-1", "bus-2-2"]


@given(st.lists(st.one_of(st.text("0123456789", min_size=1, max_size=20), ALIKE), max_size=12))
def test_image_ids_are_different_as_text_too(texts: list[str]) -> None:
    ids = ImageIds()
    given_ids = [ids.new(text) for text in stems(texts)]
    assert len({str(number) for number in given_ids}) == len(given_ids)
    assert all(abs(number) < 2**53 for number in given_ids if isinstance(number, int))


def test_image_ids_are_numbers_where_names_are() -> None:
    ids = ImageIds()
    assert [ids.new(name) for name in ("000042", "bus", "42", "0042", "42-2")] == [42, "bus", "42-2", "0042", "42-2-2"]
    assert ImageIds().new("9" * 30) == "9" * 30


def test_a_suffix_is_one_of_an_image_a_video_or_a_stream() -> None:
    assert split_name("photos/bus.JPG") == ("bus", ".JPG")
    assert split_name("scan.001") == ("scan.001", "")
    assert split_name("v1.2.png") == ("v1.2", ".png")
    assert split_name("pill#1.png?.png") == ("pill#1.png_", ".png")
    assert split_name("https://example.org/a%20b/bus.webp?size=2#top") == ("bus", ".webp")
    assert split_name("https://example.org/a%2F..%2Fb.png") == ("b", ".png")
    assert split_name("https://user:secret@example.org/") == ("example.org", "")
    assert split_name("https://[broken/x.png")[1] == ".png"
    assert split_name("clips/a.mp4") == ("a", ".mp4")
    assert image_suffix("clips/a.mp4", otherwise=".jpg") == ".jpg"
    assert image_suffix("BUS.JPEG", otherwise=".png") == ".jpeg"


def test_images_of_a_data_set() -> None:
    paths = ["x/1.png", "y/1.png", "x_1.png", "y/1.JPG", "scan.001", "scan.002", "É.png", "E\u0301.png"]
    assert stems(paths) == ["1", "1-2", "x_1", "1-3", "scan.001", "scan.002", "É", "E\u0301-2"]
    assert file_names(paths)[:4] == ["1.png", "1-2.png", "x_1.png", "1-3.JPG"]
    assert image_ids([7, 3]) == [7, 3]
    assert image_ids(["a", 3]) == [1, 2]
    assert image_ids([3, 3]) == [1, 2]


def test_many_namesakes_take_no_time() -> None:
    assert stems(["a/x.png"] * 20_000)[-1] == "x-20000"


def test_each_class_has_a_folder_of_its_own() -> None:
    names = {0: "a/b", 1: "a_b", 2: "A_B", 3: "..", 4: "con", 5: "", 7: "9"}
    folders = {0: "a_b", 1: "a_b-2", 2: "A_B-3", 3: "_", 4: "_con", 5: "_-2", 7: "9"}
    assert class_folders(names) == folders
    assert class_folders(names, [1, 9]) == {**folders, 9: "9-2"}
