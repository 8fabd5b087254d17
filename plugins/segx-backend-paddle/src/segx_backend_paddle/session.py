"""Runs a PaddlePaddle model: what Paddle Inference is told, and what it is fed."""

from __future__ import annotations

import warnings
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from segx.plugin.base import FormatSession
from segx.runtime import cores
from segx_backend_paddle.backend import WEIGHTS

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of compilers that nothing here needs
    from paddle import inference

if TYPE_CHECKING:
    from pathlib import Path

    from segx.options.verbs import SessionOptions
    from segx.structures.types import Array, Images

_SHAPES = 16
"""Image sizes for which oneDNN keeps what it has prepared."""


class PaddleSession(FormatSession[SimpleQueue[Any]]):
    """A PaddlePaddle model that is ready to run: one predictor for each thread, of the same weights."""

    runtime = "Paddle Inference"

    def _run(self, model: SimpleQueue[Any], images: Images) -> list[Array]:
        predictor = model.get()
        try:
            (name,) = predictor.get_input_names()
            source = predictor.get_input_handle(name)
            source.reshape(images.shape)
            source.copy_from_cpu(images)
            predictor.run()
            handles = [predictor.get_output_handle(output) for output in predictor.get_output_names()]
            return [handle.copy_to_cpu() for handle in handles]
        finally:
            model.put(predictor)


def start(program: Path, options: SessionOptions, *, sizes_vary: bool, onednn: bool = True) -> SimpleQueue[Any]:
    """Return predictors for as many threads as will ask at once; oneDNN is four times as fast as Paddle's own loops."""
    config = inference.Config(str(program), str(program.with_suffix(WEIGHTS)))
    config.disable_gpu()
    config.disable_glog_info()
    if onednn:
        config.enable_mkldnn()
        config.set_mkldnn_cache_capacity(_SHAPES if sizes_vary else 1)
    else:
        config.disable_mkldnn()  # it is on by default
    config.set_cpu_math_library_num_threads(options.threads or cores())
    first = inference.create_predictor(config)
    predictors: SimpleQueue[Any] = SimpleQueue()
    for predictor in (first, *(first.clone() for _ in range(options.streams - 1))):
        predictors.put(predictor)
    return predictors
