"""What a checkpoint file holds, told from its content alone and without torch."""

from __future__ import annotations

import contextlib
import json
import weakref
from dataclasses import dataclass
from pathlib import PureWindowsPath
from typing import TYPE_CHECKING, Any, Literal, Self, cast

from segx.artifact import ArtifactInfo
from segx.errors import ModelError
from segx.io.files import open_regular
from segx_torch.archive import Archive
from segx_torch.records import Malformed, definition_of, plain, scale_letter, state_dict
from segx_torch.safetensors_file import CHECKSUMS, DEFINITION, SafetensorsFile
from segx_torch.unpickle import ITEM_SIZE, Record, TensorRef, read_pickle

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from io import BufferedReader
    from pathlib import Path

CheckpointType = Literal["segx", "official", "weights", "safetensors"]

FORMAT = 1
"""Version of segx's own layout, under the key ``segx``; a reader takes every version up to its own."""

MAX_METADATA = 1 << 20
"""Characters of one value; the names of ten thousand classes take a fifth of it."""

ANY_SIZE = frozenset({"batch", "height", "width"})

_ZIP, _PICKLE, _TAR = b"PK\x03\x04", b"\x80", b"ustar"
_OTHER_KINDS: Mapping[bytes, str] = {
    b"version https://git-lfs": "a Git LFS pointer, not the file it points to",
    b"<": "a web page; the download did not give the file",
    b"\x1f\x8b": "a gzip archive",
    b"\x89HDF": "an HDF5 file",
    b"GGUF": "a GGUF file",
}


@dataclass(frozen=True, kw_only=True)
class Container:
    """An open checkpoint file: everything but the numbers, which are read when asked for.

    Attributes:
        path: The file.
        kind: Who wrote it: ``"segx"``; ``"official"``, a pickled model; ``"weights"``, a plain state dict;
            ``"safetensors"``.
        info: What is known of the model; for bare weights only what a file can say of itself.
        definition: The model's YAML content, or None when the file does not carry it.
        weights: Name to place of the weights to predict with.
        training: The state of a run that can be resumed, with tensors as places; only segx's own files have it.
        numbers: Where the numbers are.
    """

    path: Path
    kind: CheckpointType
    info: ArtifactInfo
    definition: Mapping[str, Any] | None = None
    weights: Mapping[str, TensorRef]
    training: Mapping[str, Any] | None = None
    numbers: Archive | SafetensorsFile

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.numbers.close()

    def __del__(self) -> None:
        self.numbers.close()  # a model may be dropped that nobody has opened a session of


def open_container(path: Path) -> Container:
    """Open a checkpoint of any known kind; nothing in it is executed.

    Raises:
        ModelError: The file is missing, damaged, unsafe or of another kind.
    """
    try:
        file = cast("BufferedReader", open_regular(path))
        with contextlib.ExitStack() as opening:
            opening.enter_context(file)
            head = file.read(512)
            if head.startswith(_ZIP):
                opening.pop_all()  # the archive's from here on
                container = _open_archive(path, file)
                weakref.finalize(container, file.close)  # of a model that is named and never run
                return container
    except OSError as error:
        msg = f"{path}: cannot be read: {error.strerror or error}"
        raise ModelError(msg, hint="give the path of a .pt or .safetensors file") from error
    if head[8:9] == b"{":
        return _open_safetensors(path)
    raise ModelError(f"{path}: {_other_kind(head)}", hint=_fix(head))


def _other_kind(head: bytes) -> str:
    if not head:
        return "the file is empty"
    if _old_torch(head):
        return "a pickle, or a file in the layout torch used before version 1.6; it is not read"
    what = next((name for magic, name in _OTHER_KINDS.items() if head.lstrip().startswith(magic)), "")
    return f"this is {what}" if what else "not a checkpoint: neither a torch.save archive nor safetensors"


def _old_torch(head: bytes) -> bool:
    return head.startswith(_PICKLE) or head[257:262] == _TAR


def _fix(head: bytes) -> str:
    if _old_torch(head):
        return "whoever trusts it can convert it: torch.save(model.state_dict(), 'new.pt') with torch 1.6 or later"
    return "download or save the file again"


def _open_safetensors(path: Path) -> Container:
    file = SafetensorsFile(path)
    definition, info = None, _bare_info()
    try:
        if "segx" in file.metadata:
            info = _read_info({k: v for k, v in file.metadata.items() if k not in {DEFINITION, CHECKSUMS}}, path)
            definition = _json(file.metadata.get(DEFINITION, "null"))
    except Malformed as error:
        file.close()
        msg = f"{path}: not a sound safetensors file: {error}"
        raise ModelError(msg, hint="download or save the file again") from error
    return Container(
        path=path,
        kind="safetensors",
        info=info,
        definition=definition,
        weights=file.tensors,
        numbers=file,
    )


def _open_archive(path: Path, file: BufferedReader) -> Container:
    archive = Archive(path, file)
    try:
        archive.check_byte_order()
        content = read_pickle(archive.pickle(), where=str(path))
        container = _recognise(path, content, archive)
        _check_storages(container)
    except (Malformed, ModelError) as error:
        archive.close()
        if isinstance(error, ModelError):
            raise
        msg = f"{path}: not a checkpoint of a model: {error}"
        raise ModelError(msg, hint="give a checkpoint, or a state dict saved with torch.save") from error
    return container


def _recognise(path: Path, content: Any, numbers: Archive) -> Container:
    if isinstance(content, dict) and type(content.get("segx")) is int:
        return _own(path, content, numbers)
    module = _module_of(content)
    if module is not None:
        about = content if isinstance(content, dict) else {}
        return _official(path, about, module, numbers)
    weights = _plain_weights(content)
    if weights is None:
        raise Malformed("it holds neither a model nor a state dict")
    return Container(
        path=path,
        kind="weights",
        info=_bare_info(),
        weights=weights,
        numbers=numbers,
    )


def _own(path: Path, content: Mapping[str, Any], numbers: Archive) -> Container:
    if content["segx"] > FORMAT:
        msg = f"{path}: written by a newer segx (layout {content['segx']}, this one reads up to {FORMAT})"
        raise ModelError(msg, hint="pip install --upgrade segx-torch")
    metadata, definition, training = content.get("metadata"), content.get("definition"), content.get("training")
    weights = _tensors(content.get("weights"))
    if not isinstance(metadata, dict) or weights is None or not isinstance(training, dict | None):
        raise Malformed("its parts are missing")
    return Container(
        path=path,
        kind="segx",
        info=_read_info(metadata, path),
        definition=plain(definition),
        weights=weights,
        training=training,
        numbers=numbers,
    )


def _read_info(metadata: Mapping[Any, Any], path: Path) -> ArtifactInfo:
    if not all(isinstance(key, str) and isinstance(value, str) for key, value in metadata.items()):
        raise Malformed("its metadata are not text")
    if any(len(value) > MAX_METADATA for value in metadata.values()):
        raise Malformed("its metadata are larger than metadata can be")
    try:
        return ArtifactInfo.from_metadata(metadata, where=str(path))
    except (ModelError, RecursionError, MemoryError) as error:  # the parser's answers to nesting without end
        raise Malformed("its metadata cannot be read") from error


def _module_of(content: Any) -> Record | None:
    """Return the pickled model: the averaged one while a training runs, else the only one."""
    candidates = [content.get("ema"), content.get("model")] if isinstance(content, dict) else [content]
    return next((item for item in candidates if isinstance(item, Record) and "_modules" in item.state), None)


def _plain_weights(content: Any) -> dict[str, TensorRef] | None:
    if not isinstance(content, dict):
        return None
    for part in (content, content.get("state_dict"), content.get("model"), content.get("ema")):
        weights = _tensors(part)
        if weights:
            wrapped = all(name.startswith("module.") for name in weights)  # saved from DistributedDataParallel
            return {name.removeprefix("module."): ref for name, ref in weights.items()} if wrapped else weights
    return None


def _tensors(part: Any) -> dict[str, TensorRef] | None:
    if not isinstance(part, dict):
        return None
    complete = all(isinstance(name, str) and isinstance(value, TensorRef) for name, value in part.items())
    return part if complete else None


def _official(path: Path, about: Mapping[str, Any], module: Record, numbers: Archive) -> Container:
    settings = plain(about.get("train_args")) or plain(module.state.get("args")) or {}
    if not isinstance(settings, dict):
        settings = {}
    definition = definition_of(module, path.stem)
    weights = state_dict(module)
    info = _bare_info().replace(
        task="detect" if module.kind.endswith("DetectionModel") else "segment",
        variant=_variant(path, module, settings),
        names=_names(module),
        imgsz=_imgsz(settings.get("imgsz")),
        settings={key: value for key, value in settings.items() if isinstance(key, str)},
        versions={"ultralytics": str(about["version"])} if isinstance(about.get("version"), str) else {},
        date=str(plain(about.get("date")) or ""),
        extra={key: about[key] for key in ("license", "docs") if isinstance(about.get(key), str)},
    )
    return Container(
        path=path,
        kind="official",
        info=info,
        definition=definition,
        weights=weights,
        numbers=numbers,
    )


def _bare_info() -> ArtifactInfo:
    return ArtifactInfo(dynamic=ANY_SIZE)


def _variant(path: Path, module: Record, settings: Mapping[str, Any]) -> str:
    """Return the configuration's name: from the definition's own file, the training's model, or this file's name."""
    definition = module.state.get("yaml")
    own = definition.get("yaml_file") if isinstance(definition, dict) else None
    candidates = [PureWindowsPath(str(name)).stem for name in (own, settings.get("model"), path) if name]
    return next((name for name in candidates if scale_letter(name)), candidates[0] if candidates else path.stem)


def _names(module: Record) -> dict[int, str]:
    names = plain(module.state.get("names"))
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict):
        return {}
    return {key: str(value) for key, value in names.items() if isinstance(key, int)}


def _imgsz(value: Any) -> tuple[int, int]:
    sides = value if isinstance(value, list) and len(value) == 2 else [value, value]
    sound = all(isinstance(side, int) and 0 < side < 1 << 16 for side in sides)
    return (sides[0], sides[1]) if sound else (640, 640)


def _check_storages(container: Container) -> None:
    """Hold every storage against the length of its entry before a byte of it is read or allocated."""
    for ref in [*container.weights.values(), *_tensor_refs(container.training)]:
        storage = ref.storage
        expected = storage.count * ITEM_SIZE[storage.dtype]
        if expected and container.numbers.size(storage.key) != expected:
            raise Malformed(f"storage {storage.key} should have {expected} bytes")


def _tensor_refs(tree: Any) -> Iterable[TensorRef]:
    waiting, seen = [tree], set[int]()
    while waiting:
        value = waiting.pop()
        if isinstance(value, TensorRef):
            yield value
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            waiting.extend(value.values() if isinstance(value, dict) else value)


def _json(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Malformed("its definition is not JSON") from error
    return value if isinstance(value, dict) else None
