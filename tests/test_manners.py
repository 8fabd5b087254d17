"""What segx is asked to do in a program changes nothing else there: no variable, filter, handler or allocator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segx.testing.interpreter import environment, run_fresh

if TYPE_CHECKING:
    from pathlib import Path

CALLS = """
import importlib.util, json, logging, os, signal, sys, warnings
import cv2, numpy, numpy.testing  # which change variables and filters themselves
warnings.resetwarnings()  # what the libraries warn of is not the question here
def state():
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    return {"variables": set(os.environ.items()), "filters": set(warnings.filters), "signals": set(signals.items()),
            "handlers": set(logging.getLogger().handlers), "hook": {sys.excepthook}}
found = {}
def call(name, function):
    before = state()
    result = function()
    after = state()
    different = {part: str(before[part] ^ after[part])[:1000] for part in before if before[part] != after[part]}
    if different:
        found[name] = different
    return result

def imports():
    import segx.io.video, segx.plugin.registry
    segx.plugin.registry.get_registry().prepare()
    return segx.YOLO

YOLO = call("import", imports)
import lightning_fabric, matplotlib.figure, onnx, onnxscript, torch, torch.onnx  # what these change is theirs
for name in ("urllib3", "requests", "botocore.compat", "botocore.httpsession"):  # which some of them import later
    if importlib.util.find_spec(name.partition(".")[0]):
        importlib.import_module(name)
from segx.testing.models import TINY_YOLOV8
from segx_data_synth.dataset import write_dataset
from pathlib import Path
Path("tiny-seg.yaml").write_text(TINY_YOLOV8)
data = write_dataset(Path("data"), images=2, val_images=1, imgsz=64)
model = YOLO("tiny-seg.yaml")
small = {"data": str(data), "imgsz": 64, "batch": 2, "workers": 1, "device": "cpu"}
call("train", lambda: model.train(epochs=1, **small))
image = next(Path("data").rglob("*.png"), None) or next(Path("data").rglob("*.jpg"))
call("predict", lambda: model.predict(image, save=True, imgsz=64, conf=0.0))
call("val", lambda: model.val(plots=True, **small))
exported = call("export", lambda: model.export("onnx", imgsz=64))
call("predict with onnx", lambda: YOLO(exported).predict(image, conf=0.0))
if sys.argv[1:] == ["taken"]:
    import segx.runtime
    segx.runtime.take_process()
    from segx.runtime import variables
    with variables(SEGX_TRIED="1"):
        pass
    assert os.environ["SEGX_TRIED"] == "1"
print(json.dumps(found))
"""


def test_a_call_leaves_the_process_as_it_was(tmp_path: Path) -> None:
    assert run_fresh(CALLS, "taken", warnings="default", folder=tmp_path, env=environment()) == {}


def test_the_command_line_takes_its_process(tmp_path: Path) -> None:
    code = """
    import json, os, sys
    os.environ.pop("ORT_DISABLE_TELEMETRY", None)
    from segx import runtime
    import segx_cli.main as cli
    ended = []
    os._exit = lambda code: ended.append((code, runtime.process_taken()))
    sys.argv = ["segx", "--version"]
    out, sys.stdout = sys.stdout, sys.stderr
    before = runtime.process_taken()
    cli.program()
    print(json.dumps([before, ended]), file=out)
    """
    assert run_fresh(code, folder=tmp_path) == [False, [[0, True]]]
