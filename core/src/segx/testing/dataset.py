"""What every dataset format keeps: ground truth in pixels of the image, ids of its own, and files left as they are."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import pytest

from segx.errors import DataError
from segx.io.images import read_image
from segx.plugin.catalog import full_name
from segx.structures.annotations import DatasetSource, masks_of
from segx.testing.plugin import PluginContract, load_or_skip
from segx.testing.scenes import draw_scene

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from segx.plugin.interfaces import Dataset, DatasetReader
    from segx.plugin.registry import Registry
    from segx.plugin.specs import DatasetFormatSpec
    from segx.structures.annotations import Annotation
    from segx.testing.scenes import Scene

_READS = """
    from pathlib import Path
    from segx.structures.annotations import DatasetSource
    origin, split, entries, names = json.loads(sys.argv[3])
    entries, names = tuple(map(Path, entries)), {int(number): name for number, name in names.items()} or None
    source = DatasetSource(origin=Path(origin), split=split, entries=entries, names=names)
    spec = registry.dataset_formats.get(sys.argv[2])
    list(registry.dataset_formats.load(spec).read(source))
"""


class DatasetContract(PluginContract, standard=True):
    """Tests of a dataset format, with drawn images written in it.

    A subclass overrides the class method ``write``.

    Attributes:
        name: The format's name.
        holes: Whether the format can say that an object has a hole.
    """

    name: ClassVar[str]
    holes: ClassVar[bool] = False

    @classmethod
    def write(cls, folder: Path, scenes: list[Scene]) -> DatasetSource:
        """Write images and their ground truth into a folder in this format, and return the split they are.

        The classes are :data:`segx.testing.scenes.NAMES`. The first entry of the split is what ``detects`` is shown.
        """
        raise NotImplementedError(f"{cls.__name__} has to override write()")

    @pytest.fixture(scope="class")
    @classmethod
    def spec(cls, registry: Registry) -> DatasetFormatSpec:
        """The format's declaration."""
        return registry.dataset_formats.get(f"{cls.name}@{cls.distribution}")

    @pytest.fixture(scope="class")
    @classmethod
    def reader(cls, registry: Registry, spec: DatasetFormatSpec) -> DatasetReader:
        """The reader, loaded; skips where what it requires is not installed."""
        return cast("DatasetReader", load_or_skip(registry, spec))

    @pytest.fixture(scope="class")
    @classmethod
    def scenes(cls) -> list[Scene]:
        """Three images of different sizes, the last with nothing in it."""
        return [draw_scene(120, 160), draw_scene(200, 90, objects=2), draw_scene(64, 64, objects=0)]

    @pytest.fixture(scope="class")
    @classmethod
    def source(cls, tmp_path_factory: pytest.TempPathFactory, scenes: list[Scene]) -> DatasetSource:
        """The images, written."""
        return cls.write(tmp_path_factory.mktemp("data"), scenes)

    @pytest.fixture
    def dataset(
        self, reader: DatasetReader, source: DatasetSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Dataset:
        """The images, read."""
        monkeypatch.setenv("SEGX_CACHE", str(tmp_path / "cache"))
        return reader.read(source)

    @pytest.fixture
    def work(self, spec: DatasetFormatSpec, source: DatasetSource) -> tuple[str, tuple[str, ...]]:
        """Read the images and what is written of them."""
        entries = [str(entry) for entry in source.entries]
        return _READS, (
            full_name(spec),
            json.dumps([str(source.origin), source.split, entries, dict(source.names or {})]),
        )

    def test_is_detected(self, spec: DatasetFormatSpec, source: DatasetSource, registry: Registry) -> None:
        """By a look at the path; no other installed format claims it."""
        assert spec.detects(source.entries[0]) is True
        assert registry.dataset_format_for(source.entries[0]) == spec

    def test_detects_nothing_else(self, spec: DatasetFormatSpec, tmp_path: Path) -> None:
        """Whatever it is shown, it answers, and does not raise."""
        files = {"a.json": "{", "b.json": "[1, 2]", "c.csv": "\0\1", "d.yaml": "- 1", "e.bin": "", "f.jsonl": "{"}
        for name, content in files.items():
            (tmp_path / name).write_text(content, encoding="utf-8")
            assert spec.detects(tmp_path / name) in {False, True}
        assert not spec.detects(tmp_path / "d.yaml"), "that is a definition, which names where the data are"
        assert not spec.detects(tmp_path / "e.bin")
        assert not spec.detects(tmp_path / "absent")

    def test_holds_every_image(self, dataset: Dataset, scenes: list[Scene]) -> None:
        """All of them, those without objects too, in the order of ``paths``, with the size they are read with."""
        assert len(dataset) == len(scenes)
        assert not list(dataset.problems)
        samples = list(dataset)
        assert [sample.path for sample in samples] == list(dataset.paths())
        assert len({sample.id for sample in samples}) == len(samples)
        np.testing.assert_array_equal(dataset.shapes(), [sample.shape for sample in samples])
        for sample in samples:
            assert read_image(sample.path).shape[:2] == sample.shape
        assert sorted(sample.shape for sample in samples) == sorted(scene.image.shape[:2] for scene in scenes)

    def test_ground_annotation_is_what_was_drawn(self, dataset: Dataset, scenes: list[Scene]) -> None:
        """Each object once: its class, its box in pixels, its mask, its area."""
        by_shape = {scene.image.shape[:2]: scene for scene in scenes}
        for sample in dataset:
            drawn = by_shape[sample.shape].objects
            assert sorted(annotation.category for annotation in sample.annotations) == sorted(
                item.category for item in drawn
            )
            for annotation in sample.annotations:
                item = next(item for item in drawn if item.category == annotation.category)
                x, y, width, height = annotation.box
                np.testing.assert_allclose((x, y, x + width, y + height), item.box, atol=1.5)
                assert annotation.has_mask
                assert not annotation.crowd
                mask = _mask(annotation, sample.shape)
                overlap = (mask & item.mask).sum() / (mask | item.mask).sum()
                assert overlap > (0.95 if self.holes else 0.8), (
                    f"{sample.path}: class {annotation.category}: mask IoU {overlap:.3f}"
                )

    def test_index_and_order_agree(self, dataset: Dataset) -> None:
        """``dataset[i]`` is the i-th sample; beyond the end is an IndexError."""
        by_index = [dataset[index] for index in range(len(dataset))]
        assert [sample.path for sample in by_index] == [sample.path for sample in dataset]
        assert [[annotation.box for annotation in sample.annotations] for sample in by_index] == [
            [annotation.box for annotation in sample.annotations] for sample in dataset
        ]
        with pytest.raises(IndexError):
            dataset[len(dataset)]

    def test_names_and_ids(self, dataset: Dataset) -> None:
        """Classes count from 0; each has a name and an id of the data set's own; objects have ids of their own."""
        assert sorted(dataset.names) == list(range(len(dataset.names)))
        assert dict(dataset.names) == {0: "red", 1: "green", 2: "blue"}
        assert set(dataset.category_ids) == set(dataset.names)
        assert len(set(dataset.category_ids.values())) == len(dataset.names)
        for sample in dataset:
            assert len({annotation.id for annotation in sample.annotations}) == len(sample.annotations)

    def test_reads_the_same_twice(self, reader: DatasetReader, source: DatasetSource, dataset: Dataset) -> None:
        """From the files and from the cache: the same ground truth, the same fingerprint."""
        again = reader.read(source)
        assert again.fingerprint == dataset.fingerprint != ""
        assert [[annotation.box for annotation in sample.annotations] for sample in again] == [
            [annotation.box for annotation in sample.annotations] for sample in dataset
        ]

    def test_fingerprint_reports_other_data(
        self, reader: DatasetReader, dataset: Dataset, scenes: list[Scene], tmp_path: Path
    ) -> None:
        """Other objects, another fingerprint."""
        fewer = [*scenes[:1], type(scenes[1])(image=scenes[1].image, objects=scenes[1].objects[:1]), scenes[2]]
        assert reader.read(self.write(tmp_path, fewer)).fingerprint != dataset.fingerprint

    def test_leaves_files_as_they_are(self, reader: DatasetReader, scenes: list[Scene], tmp_path: Path) -> None:
        """Reading writes nothing beside the data."""
        fresh = self.write(tmp_path, scenes)
        before = _listing(tmp_path)
        for sample in reader.read(fresh):
            assert sample.path.exists()
        assert _listing(tmp_path) == before

    def test_missing_data_are_reported(self, reader: DatasetReader, source: DatasetSource, tmp_path: Path) -> None:
        """With the path that was tried."""
        absent = tmp_path / f"absent{source.entries[0].suffix}"
        with pytest.raises(DataError, match="absent"):
            list(reader.read(DatasetSource(origin=absent, split="val", entries=(absent,), names=source.names)))


def _mask(annotation: Annotation, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return an object's mask, bool (H, W), from whichever form it has."""
    dense: NDArray[np.bool_] = masks_of([annotation], shape).data[0].astype(bool)
    return dense


def _listing(folder: Path) -> dict[str, str]:
    return {
        str(item.relative_to(folder)): hashlib.sha256(item.read_bytes()).hexdigest()
        for item in sorted(folder.rglob("*"))
        if item.is_file()
    }
