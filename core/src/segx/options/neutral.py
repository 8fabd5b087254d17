"""Options that other programs pass and segx does not have: taken at values that change nothing, else refused by name.

So settings that were written down elsewhere, such as the ``args.yaml`` of a training, are used as they are.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

from segx.errors import WrongValueError
from segx.options.schema import parse_literal, plain, shown
from segx.options.verbs import ExportOptions, PredictOptions, TrainOptions, ValOptions

if TYPE_CHECKING:
    from collections.abc import Mapping


class Neutral(NamedTuple):
    """What is known of an option that a verb does not have.

    Attributes:
        values: Those that change nothing; None always does. Empty: every value.
        reason: Why any other is refused.
    """

    values: tuple[Any, ...]
    reason: str


def _each(reason: str, **neutral: Any) -> dict[str, Neutral]:
    return {
        name: Neutral(values if isinstance(values, tuple) else (values,), reason) for name, values in neutral.items()
    }


_ANY = ()
_UNSET = (None,)

NEUTRAL: dict[str, Neutral] = {
    **_each("test-time augmentation is not there", augment=False),
    **_each("feature maps are not written", visualize=False),
    **_each("feature vectors are not returned", embed=_UNSET),
    **_each("labels are not mixed with predictions", save_hybrid=False),
    **_each("frames of a video are written as a video", save_frames=False),
    **_each("runtimes are named with backend=", dnn=False),
    **_each("models are run as they are", compile=False, profile=False),
    **_each("nothing is left out at random", dropout=0),
    **_each("classes are learned as they are", label_smoothing=0, fl_gamma=0, cls_pw=0, image_weights=False),
    **_each("this augmentation is not there", bgr=0, cutmix=0, copy_paste_mode="flip"),
    **_each("see show_labels=, show_conf= and show_boxes=", hide_labels=False, hide_conf=False, boxes=True),
    **_each("see line_width=", line_thickness=(3,)),
    **_each("images are loaded in one way", v5loader=False, min_memory=False),
    **_each("of other tasks", pose=_ANY, kobj=_ANY, rle=_ANY, angle=_ANY, kpt_shape=_ANY),
    **_each("of classification", auto_augment=_ANY, erasing=_ANY, crop_fraction=_ANY),
    **_each("an option of some export formats", keras=False, optimize=False, int8=False, dynamic=False, nms=False),
    **_each("an option of some export formats", simplify=(True, False), opset=_UNSET, workspace=(4,), end2end=False),
    **_each("the call says it", source=_ANY, format=_ANY),
    **_each("the call says it", task=_ANY, mode=_ANY, model=_ANY, cfg=_ANY, save_dir=_ANY, tracker=_ANY),
}
"""Options that no verb has, or only some formats."""

_BESIDE_DEFAULT: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("workers", "data", "verbose"), _ANY),
    **dict.fromkeys(("rect", "plots", "save", "exist_ok", "retina_masks"), (True, False)),
    "conf": (0.25, 0.001),
    "patience": (50,),
    "close_mosaic": (0,),
    "warmup_bias_lr": (0,),
    "line_width": (3,),
}
"""Of options that other verbs have, what else changes nothing where they are not."""


def known_elsewhere() -> dict[str, Neutral]:
    """Return what is known of every option that a verb may not have."""
    of_verbs: dict[str, Neutral] = {}
    for kind in (PredictOptions, ValOptions, TrainOptions, ExportOptions):
        for item in dataclasses.fields(kind):
            beside = _BESIDE_DEFAULT.get(item.name, _UNSET)
            values = (*beside, item.default) if beside else _ANY
            verb = kind.__name__.removesuffix("Options").lower()
            of_verbs.setdefault(item.name, Neutral(values, f"an option of {verb}"))
    return of_verbs | NEUTRAL


def not_neutral(values: Mapping[str, Any]) -> list[str]:
    """Return which names, of those that a verb does not have, are known nowhere.

    Args:
        values: Names and values, as they were given.

    Raises:
        UsageError: One is known, and would change something.
    """
    known = known_elsewhere()
    for name in [name for name in values if name in known]:
        value = plain(values[name])
        value = parse_literal(value) if isinstance(value, str) else value
        if known[name].values and value is not None and value not in known[name].values:
            raise WrongValueError(f"{name}={shown(values[name])} cannot be: {known[name].reason}")
    return [name for name in values if name not in known]
