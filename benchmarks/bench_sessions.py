"""What a session costs beside its runtime alone: one run of the network, through segx and without.

    python benchmarks/bench_sessions.py yolov8n-seg.onnx yolov8n-seg_openvino_model yolov8n-seg.tflite ...

Both sides open the same file with the same settings on one thread, take turns, and end with arrays of their own. The
bare side gets its input as the runtime wants it; what segx does to bring images there (other axes, other numbers,
another process) is part of its time. Runtimes that segx runs in a process of their own run bare in one, timed in there.
Printed: medians in milliseconds, and the median of the ratios of each pair of runs; the target is 1.03. Exit code 1 if
one is above it. ``--realtime`` (Linux, root) measures at real-time priority, for a machine that others are using.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    Bare = Callable[[], object]  # a run; it returns its milliseconds where it is timed elsewhere

TARGET = 1.03


def onnxruntime(path: Path, images: np.ndarray) -> Bare:
    """ONNX Runtime, with the settings of segx's session."""
    from segx.options.verbs import SessionOptions
    from segx_backend_onnxruntime import session as ours

    settings = ours._settings(SessionOptions(threads=1))  # noqa: SLF001 - the very same
    opened = ours.onnxruntime.InferenceSession(str(path), sess_options=settings, providers=["CPUExecutionProvider"])
    (source,) = opened.get_inputs()
    feed = images.astype(np.float16) if source.type == "tensor(float16)" else images
    return lambda: opened.run(None, {source.name: feed})


def openvino(path: Path, images: np.ndarray) -> Bare:
    """OpenVINO's request, which is used again and again; its results are copied out."""
    from segx.options.verbs import SessionOptions
    from segx_backend_openvino import ir, session

    core = session.ov.Core()
    file = path if path.suffix == ".onnx" else ir.graph_file(path)
    settings = session.settings("CPU", "fp32", SessionOptions(threads=1))
    opened = core.compile_model(core.read_model(str(file)), "CPU", settings)
    request = opened.create_infer_request()

    def run() -> object:
        found = request.infer({0: images}, share_inputs=True)
        return [found[output] for output in opened.outputs]

    return run


def ncnn(path: Path, images: np.ndarray) -> Bare:
    """ncnn's extractor."""
    from segx_backend_ncnn import layers, session

    text, weights = layers.find(path)
    blobs = layers.read(text)
    net = session.load(text, weights, device="cpu", precision="fp16" if "fp16" in path.name else "fp32", threads=1)

    def run() -> object:
        with net.create_extractor() as extractor:
            extractor.input(blobs.inputs[0], session.ncnn.Mat(images[0]).clone())
            return [np.array(extractor.extract(blob)[1]) for blob in blobs.outputs]

    return run


def torchscript(path: Path, images: np.ndarray) -> Bare:
    """PyTorch's own loader."""
    import torch

    torch.set_num_threads(1)
    module = torch.jit.load(str(path)).eval()
    given = torch.from_numpy(images)

    def run() -> object:
        with torch.inference_mode():
            return [output.numpy() for output in module(given)]

    return run


def litert(path: Path, images: np.ndarray) -> Bare:
    """LiteRT's interpreter, given channels last."""
    from ai_edge_litert.interpreter import Interpreter

    opened = Interpreter(model_path=str(path), num_threads=1)
    opened.allocate_tensors()
    (source,) = opened.get_input_details()
    given = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    if scale := source["quantization"][0]:
        given = np.rint(given / scale + source["quantization"][1]).astype(source["dtype"])
    outputs = [item["index"] for item in opened.get_output_details()]

    def run() -> object:
        opened.set_tensor(source["index"], given)
        opened.invoke()
        return [opened.get_tensor(index) for index in outputs]

    return run


def tensorflow(path: Path, images: np.ndarray) -> Bare:
    """TensorFlow's signature, given channels last."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    loaded = tf.saved_model.load(str(path))
    signature = loaded.signatures["serving_default"]
    (name,) = signature.structured_input_signature[1]
    given = tf.constant(np.ascontiguousarray(images.transpose(0, 2, 3, 1)))
    signature.owner = loaded
    return lambda: [output.numpy() for output in signature(**{name: given}).values()]


def paddle(path: Path, images: np.ndarray) -> Bare:
    """Paddle Inference, with the settings of segx's session."""
    from segx.options.verbs import SessionOptions
    from segx_backend_paddle import backend, session

    predictor = session.start(backend.find_program(path), SessionOptions(threads=1), sizes_vary=False).get()
    source = predictor.get_input_handle(predictor.get_input_names()[0])

    def run() -> object:
        source.reshape(images.shape)
        source.copy_from_cpu(images)
        predictor.run()
        return [predictor.get_output_handle(name).copy_to_cpu() for name in predictor.get_output_names()]

    return run


def tfjs(path: Path, images: np.ndarray) -> Bare:
    """TensorFlow.js in Node.js, which times itself."""
    from segx_tfjs.runtime import modules

    script = Path(__file__).with_name("tfjs_bare.cjs")
    line = ["node", str(script), str(modules().resolve()), str(path), *map(str, images.shape[2:])]
    node = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run() -> float:
        node.stdin.write("\n")
        node.stdin.flush()
        return float(node.stdout.readline())

    return run


BARE = {
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "ncnn": ncnn,
    "torchscript": torchscript,
    "litert": litert,
    "tensorflow": tensorflow,
    "paddle": paddle,
    "tfjs": tfjs,
}


def milliseconds(run: Callable[[], object]) -> float:
    """Return how long one call takes."""
    start = time.perf_counter()
    said = run()
    return said if isinstance(said, float) else (time.perf_counter() - start) * 1e3


def serve(name: str, path: Path, shape: tuple[int, ...], pipe: Any) -> None:
    """Time a bare runtime in this process, a run for each message."""
    run = BARE[name](path, drawn(shape))
    pipe.send(0.0)
    while pipe.recv():
        pipe.send(milliseconds(run))


def drawn(shape: tuple[int, ...]) -> np.ndarray:
    """Return the input of both sides."""
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def measure(path: Path, rounds: int) -> tuple[str, str, float, float, float]:
    """Return the backend, the precision, the medians of both sides, and of their ratio."""
    from segx.options.verbs import SessionOptions
    from segx.plugin.registry import get_registry

    registry = get_registry()
    registry.prepare()
    artifact = registry.artifact(path)
    spec = registry.backend_for(artifact.format)
    if spec.name not in BARE:
        sys.exit(f"{path}: {spec.name} is not measured here; those are {', '.join(BARE)}")
    session = registry.backends.load(spec).open(artifact, SessionOptions(device="cpu", threads=1))
    info = session.info
    shape = (info.batch, 3, *info.imgsz)
    images = drawn(shape)
    if spec.apart:
        pipe, theirs = multiprocessing.get_context("spawn").Pipe()
        process = multiprocessing.get_context("spawn").Process(
            target=serve, args=(spec.name, path, shape, theirs), daemon=True
        )
        process.start()
        pipe.recv()

        def bare() -> float:
            pipe.send(True)
            return float(pipe.recv())
    else:
        run = BARE[spec.name](path, images)

        def bare() -> float:
            return milliseconds(run)

    pairs = []
    for index in range(rounds + 3):
        sides = [bare, lambda: milliseconds(lambda: session.run(images))]
        order = (0, 1) if index % 2 else (1, 0)
        times = {side: sides[side]() for side in order}
        pairs.append((times[0], times[1]))
    pairs = pairs[3:]  # those before warm up
    session.close()
    if spec.apart:
        pipe.send(False)
        process.join()
    medians = [statistics.median(pair[side] for pair in pairs) for side in (0, 1)]
    return spec.name, info.precision, *medians, statistics.median(ours / theirs for theirs, ours in pairs)


def main() -> None:
    """Measure each file, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL")
    parser.add_argument("--rounds", type=int, default=40, help="pairs of runs")
    parser.add_argument("--realtime", action="store_true")
    given = parser.parse_args()
    if given.realtime:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    print("| backend | precision | bare, ms | segx, ms | ratio |\n|---|---|---|---|---|")
    worst = 0.0
    for path in given.models:
        name, precision, bare, ours, ratio = measure(path, given.rounds)
        worst = max(worst, ratio)
        print(f"| {name} | {precision} | {bare:.1f} | {ours:.1f} | {ratio:.3f} |", flush=True)
    sys.exit(worst > TARGET)


if __name__ == "__main__":
    main()
