"""Options that other programs pass and segx does not have: taken at values that change nothing, else refused by name.

So settings that were written down elsewhere, such as the ``args.yaml`` of a training, are used as they are.
"""

from __future__ import annotations

from typing import Any, NamedTuple


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


ANY = ()
UNSET = (None,)

NEUTRAL: dict[str, Neutral] = {
    **_each("test-time augmentation is not there", augment=False),
    **_each("feature maps are not written", visualize=False),
    **_each("feature vectors are not returned", embed=UNSET),
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
    **_each("of other tasks", pose=ANY, kobj=ANY, rle=ANY, angle=ANY, kpt_shape=ANY),
    **_each("of classification", auto_augment=ANY, erasing=ANY, crop_fraction=ANY),
    **_each("an option of some export formats", keras=False, optimize=False, int8=False, dynamic=False, nms=False),
    **_each("an option of some export formats", simplify=(True, False), opset=UNSET, workspace=(4,), end2end=False),
    **_each("exports take 8 for int8=true and 16 for half=true", quantize=(32, False)),
    **_each("the call says it", source=ANY, format=ANY),
    **_each("the call says it", task=ANY, mode=ANY, model=ANY, cfg=ANY, save_dir=ANY, tracker=ANY),
}
"""Options that no verb has, or only some formats."""

BESIDE_DEFAULT: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("workers", "data", "verbose"), ANY),
    **dict.fromkeys(("rect", "plots", "save", "exist_ok", "retina_masks"), (True, False)),
    "conf": (0.25, 0.001),
    "patience": (50,),
    "close_mosaic": (0,),
    "warmup_bias_lr": (0,),
    "line_width": (3,),
}
"""Of options that other verbs have, what else changes nothing where they are not."""
