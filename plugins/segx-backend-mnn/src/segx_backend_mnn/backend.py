"""Opens ``.mnn`` files with MNN: ours and those that other tools made."""

from __future__ import annotations

import json
import mmap
import struct
from typing import TYPE_CHECKING, Any

from segx.errors import ModelError
from segx.io.files import open_regular
from segx.io.flatbuffer import field_of_root, follow, span_at
from segx.plugin.base import FormatBackend, FormatSession, Graph
from segx.runtime import choose_device, cores

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from segx.artifact import Artifact, ArtifactInfo
    from segx.options.verbs import SessionOptions
    from segx.structures.types import Array, Images

_BIZ_CODE, _OUTPUT_NAMES = 0, 4
"""Fields of the root of such a file, a flatbuffer; source: MNN's schema/default/MNN.fbs, table Net."""


_WINOGRAD, _SMALL_TILES = 3, 2
"""WINOGRAD_MEMORY_LEVEL of MNN's HintMode. Convolutions by large tiles, its default, are off by 0.001 of the outputs'
range, by small ones by 0.00004; they take 18 % longer. What is rounded in the file gains nothing by them."""


class MnnBackend(FormatBackend):
    """MNN models."""

    title = "MNN"
    runtime = "MNN"

    def _read(self, path: Path) -> tuple[Mapping[str, Any] | None, Graph]:
        """Return what the file's free text says where that is JSON, as ours and other tools' is, and the outputs."""
        with open_regular(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            text, names = (field_of_root(data, number) for number in (_BIZ_CODE, _OUTPUT_NAMES))
            begin = follow(data, names) if names else 0
            (count,) = struct.unpack_from("<I", data, begin) if names else (0,)
            outputs = [_text(data, begin + 4 + 4 * place) for place in range(count)]
            said = _text(data, text) if text else ""
        metadata = json.loads(said) if said.startswith("{") else {}
        texts = {key: value if isinstance(value, str) else str(value) for key, value in metadata.items()}
        return texts or None, Graph(outputs=outputs)

    def _open(self, artifact: Artifact, info: ArtifactInfo, options: SessionOptions) -> MnnSession:
        device = choose_device(options.device, ("cpu",))
        import MNN

        settings = {"backend": "CPU", "numThread": options.threads or cores(), "precision": "high"}
        manager = MNN.nn.create_runtime_manager((settings,))
        if info.precision == "fp32":
            manager.set_hint(_WINOGRAD, _SMALL_TILES)
        module = MNN.nn.load_module_from_file(str(artifact.path), [], list(info.outputs), runtime_manager=manager)
        if module is None:
            raise ModelError(f"{artifact.path}: is damaged, or newer than MNN {MNN.version()} knows")
        return MnnSession(module, path=artifact.path, info=info, device=device)


class MnnSession(FormatSession[Any]):
    """An MNN model that is ready to run."""

    runtime = "MNN"

    def _run(self, model: Any, images: Images) -> list[Array]:
        from MNN import expr

        outputs = model.onForward([expr.const(images, list(images.shape), expr.NCHW, expr.float)])
        # Within, channels lie in groups of four; what is read is MNN's own memory, which the next run fills anew.
        return [expr.convert(output, expr.NCHW).read().copy() for output in outputs]


def _text(data: mmap.mmap, field: int) -> str:
    return data[slice(*span_at(data, follow(data, field)))].decode()
