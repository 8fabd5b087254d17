"""What programs import from the tool they were written for, and what there is instead."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_FAMILY = "other families of models are not there"
_CLASSES = "YOLO(...).train(), val(), predict(), export() with add_callback(), or a plugin of your own, do their work"
_UTILS = (
    "beside ops they are private elsewhere too: segx.ops computes on boxes and polygons (iou, nms, areas), "
    "result.plot() draws, logging.getLogger('segx') logs"
)

NAMES = {
    **dict.fromkeys(("SAM", "FastSAM", "RTDETR", "NAS", "YOLOWorld", "YOLOE"), _FAMILY),
    "settings": "nothing is kept outside of the run and cache folders; project= says where runs are written",
    "checks": "segx doctor looks at the installation",
    "download": "models and data sets of known names are downloaded when they are first used",
    "ASSETS": "it ships no images; segx.testing.scenes draws some",
    "solutions": "boxes and masks of results are what is counted, cut out, blurred; supervision has zones, heat maps",
    "hub": "nothing is sent anywhere, and models are files",
    "Explorer": "segx data check and segx data show look at data sets",
    "trackers": "trackers.ByteTrackTracker().update(result.to_supervision()) tracks",
    "nn": "model.model is the network of a .pt, YOLO(...) opens every format",
    "cfg": "cfg=FILE reads options; segx VERB --help shows them with their defaults",
}
"""Name below ``segx`` to what there is in its place."""
MODULES = {
    **NAMES,
    **dict.fromkeys(("engine.trainer", "engine.validator", "engine.predictor", "engine.exporter"), _CLASSES),
    "engine.model": "from segx import YOLO",
    "engine.tuner": "call train() in a loop, or from Optuna with on_fit_epoch_end",
    "models.sam": _FAMILY,
    "models": f"from segx import YOLO; {_CLASSES}",
    "utils.plotting": "result.plot() draws, and supervision has annotators that take these results",
    "utils": _UTILS,
    **dict.fromkeys(
        (
            f"data.{name}"
            for name in (
                "annotator",
                "augment",
                "base",
                "build",
                "dataset",
                "explorer",
                "loaders",
                "split_dota",
                "utils",
            )
        ),
        "plugins read data sets; segx data check, convert, split and show work on them",
    ),
}
"""Module below ``segx``, those below it included, to the same."""


def refused(name: str, reasons: dict[str, str]) -> ImportError | None:
    """Return the error for a name below ``segx`` that is known elsewhere; None for another."""
    for known, instead in reasons.items():
        if name == known or name.startswith(f"{known}."):
            msg = f"segx has no {name}: {instead}; see docs/how-to/come-from-ultralytics.md"
            return ModuleNotFoundError(msg, name=f"segx.{name}")
    return None


def asked_by_python(module: str, name: str) -> AttributeError | None:
    """Return the usual error for a name that Python itself looks for in every module; None for another."""
    return AttributeError(f"module {module!r} has no attribute {name!r}") if name.startswith("__") else None


class _Finder:
    """Is asked for modules that nobody has, after all that find some."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: object = None) -> None:  # noqa: ARG004
        if name.startswith("segx.") and (error := refused(name.removeprefix("segx."), MODULES)):
            raise error


def listen() -> None:
    """Say of modules that are not there what is, from now on."""
    sys.meta_path.append(_Finder)
