"""The loss: golden numbers, a plain rewriting of the mask loss, its memory, and its corners."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate
from torch.utils._python_dispatch import TorchDispatchMode

from segx.options.verbs import TrainOptions
from segx_model_yolov8 import mask_loss as mask_module
from segx_model_yolov8.loss import Gains, SegmentationLoss
from segx_model_yolov8.mask_loss import MaskTarget, mask_loss


@pytest.fixture
def golden_step(golden_model, golden):
    case = golden("loss.npz")
    batch = {
        "images": torch.from_numpy(case["img"]),
        "batch_idx": torch.from_numpy(case["batch_idx"]),
        "classes": torch.from_numpy(case["cls"]),
        "boxes": torch.from_numpy(case["bboxes"]),
        "masks": torch.from_numpy(case["masks"]),
        "overlap": True,
    }
    return golden_model("yolov8n-seg"), batch, case


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_equals_golden(golden_step, layout):
    """In either layout: on a CPU, training is with channels last."""
    model, batch, case = golden_step
    loss, parts = SegmentationLoss(model)(model(batch["images"].contiguous(memory_format=layout)), batch)
    total = loss * len(batch["images"])
    total.backward()
    assert list(parts) == case["item_names"].tolist()
    np.testing.assert_allclose([part.item() for part in parts.values()], case["items"], rtol=1e-4)
    np.testing.assert_allclose(total.item(), case["total"], rtol=1e-4)
    norms = {name: p.grad.double().norm().item() for name, p in model.named_parameters() if p.grad is not None}
    assert norms.keys() == set(case["grad_names"].tolist())
    np.testing.assert_allclose([norms[name] for name in case["grad_names"]], case["grad_norms"], rtol=1e-3, atol=1e-6)


def test_full_masks_equal_the_index_map_where_nothing_is_hidden(golden_step):
    """Each object's own mask, cut by what lies over it, is what the map shows."""
    model, batch, _ = golden_step
    criterion, raw = SegmentationLoss(model), model(batch["images"])
    numbers = [1 + int((batch["batch_idx"][:i] == b).sum()) for i, b in enumerate(batch["batch_idx"])]
    own = torch.stack([batch["masks"][b] == n for b, n in zip(batch["batch_idx"], numbers, strict=True)])
    _, by_map = criterion(raw, batch)
    _, by_mask = criterion(raw, {**batch, "masks": own.to(torch.uint8), "overlap": False})
    assert by_map["seg"] > 0
    torch.testing.assert_close(by_mask, by_map)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int32, torch.float32])
def test_maps_of_any_type(golden_step, kind):
    model, batch, _ = golden_step
    criterion, raw = SegmentationLoss(model), model(batch["images"])
    torch.testing.assert_close(criterion(raw, {**batch, "masks": batch["masks"].to(kind)}), criterion(raw, batch))


def test_order_of_objects_does_not_matter(golden_step):
    """But for their numbers in the map, which are given by the order within an image."""
    model, batch, _ = golden_step
    criterion, raw = SegmentationLoss(model), model(batch["images"])
    own = {**batch, "masks": torch.rand(8, 64, 64) > 0.5, "overlap": False}
    order = torch.randperm(8)
    shuffled = {**own, **{name: own[name][order] for name in ("batch_idx", "classes", "boxes", "masks")}}
    torch.testing.assert_close(criterion(raw, shuffled), criterion(raw, own))


class TestWithoutObjects:
    def test_only_classes_speak_and_every_parameter_hears(self, tiny):
        empty = _no_objects(images=2)
        loss, parts = SegmentationLoss(tiny)(tiny(torch.rand(2, 3, 64, 64)), empty)
        loss.backward()
        assert [parts[name].item() for name in ("box", "seg", "dfl")] == [0, 0, 0]
        assert parts["cls"] > 0
        silent = [name for name, p in tiny.named_parameters() if p.requires_grad and p.grad is None]
        assert silent == []
        assert all(torch.isfinite(p.grad).all() for p in tiny.parameters() if p.grad is not None)

    def test_half_precision_that_overflows_does_not_turn_to_nan(self, tiny):
        raw = tiny(torch.rand(1, 3, 64, 64))
        raw = raw._replace(prototypes=raw.prototypes.half() * 6e4, coefficients=raw.coefficients.half())
        loss, _ = SegmentationLoss(tiny)(raw, _no_objects(images=1))
        assert torch.isfinite(loss)

    def test_one_of_the_images(self, golden_step):
        model, batch, _ = golden_step
        raw, first = model(batch["images"]), batch["batch_idx"] == 0
        part = {name: batch[name][first] for name in ("batch_idx", "classes", "boxes")}
        loss, parts = SegmentationLoss(model)(raw, {**batch, **part})
        assert torch.isfinite(loss)
        assert parts["seg"] > 0


def test_objects_known_by_their_box_only_do_not_count_for_masks(golden_step):
    model, batch, _ = golden_step
    criterion, raw = SegmentationLoss(model), model(batch["images"])
    _, whole = criterion(raw, {**batch, "has_mask": torch.ones(8, dtype=torch.bool)})
    torch.testing.assert_close(whole, criterion(raw, batch)[1])
    _, none = criterion(raw, {**batch, "has_mask": torch.zeros(8, dtype=torch.bool)})
    assert none["seg"] == 0
    assert none["box"] == whole["box"]
    some = torch.tensor([True, False] * 4)
    _, half = criterion(raw, {**batch, "has_mask": some})
    blank = batch["masks"].clone()
    for i in (~some).nonzero().flatten().tolist():  # what their masks are plays no part
        number = 1 + int((batch["batch_idx"][:i] == batch["batch_idx"][i]).sum())
        image = blank[batch["batch_idx"][i]]
        image[image == number] = 200
    torch.testing.assert_close(criterion(raw, {**batch, "masks": blank, "has_mask": some})[1], half)


def test_gains(tiny, architecture, golden):
    raw, batch = tiny(torch.rand(2, 3, 64, 64)), _some_objects()
    _, parts = SegmentationLoss(tiny, Gains(box=1, cls=1, dfl=1))(raw, batch)
    loss, weighed = architecture.criterion(tiny, TrainOptions(box=2, cls=3, dfl=4))(raw, batch)
    expected = {"box": 2, "seg": 2, "cls": 3, "dfl": 4}
    for name, gain in expected.items():
        torch.testing.assert_close(weighed[name], parts[name] * gain)
    torch.testing.assert_close(loss.detach(), sum(weighed.values()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_outputs(golden_step, dtype):
    """Widened before anything is computed: equal to the loss of the same values in float32."""
    model, batch, _ = golden_step
    raw = model(batch["images"])
    narrow = raw._replace(**{name: getattr(raw, name).to(dtype) for name in raw._fields[:4]})
    wide = raw._replace(**{name: getattr(narrow, name).float() for name in raw._fields[:4]})
    with torch.autocast("cpu", torch.bfloat16):
        loss, parts = SegmentationLoss(model)(narrow, batch)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(parts, SegmentationLoss(model)(wide, batch)[1], rtol=1e-6, atol=1e-6)
    loss.backward()


def test_training_lowers_it(tiny):
    """A few steps on one batch: every part falls."""
    batch, images = _some_objects(), torch.rand(2, 3, 64, 64)
    criterion, optimiser = SegmentationLoss(tiny), torch.optim.AdamW(tiny.parameters(), lr=2e-3)
    history = []
    for _ in range(60):
        loss, parts = criterion(tiny(images), batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append({name: part.item() for name, part in parts.items()})
    for name in ("box", "seg", "cls", "dfl"):
        first, last = np.mean([row[name] for row in history[:5]]), np.mean([row[name] for row in history[-5:]])
        assert last < 0.8 * first, name


class TestMaskLoss:
    """The windowed loss with its own gradients, against the same written plainly and left to autograd."""

    @pytest.mark.parametrize("overlap", [True, False])
    @pytest.mark.parametrize("scale", [1, 2, 0.5])
    def test_equals_the_plain_loss(self, overlap, scale, monkeypatch):
        case = _mask_case(overlap=overlap, scale=scale)
        wanted = _with_gradients(_plain_mask_loss, *case)
        for chunk in (mask_module.CHUNK, 5000):  # all at once, and in many parts
            monkeypatch.setattr(mask_module, "CHUNK", chunk)
            for found, expected in zip(_with_gradients(mask_loss, *case), wanted, strict=True):
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)

    def test_maps_smaller_than_any_window(self):
        case = _mask_case(overlap=True, height=3, width=5)
        for found, expected in zip(
            _with_gradients(mask_loss, *case), _with_gradients(_plain_mask_loss, *case), strict=True
        ):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)

    def test_box_between_pixels_is_nothing(self):
        case = list(_mask_case(overlap=True))
        masks = case[3]
        boxes = torch.tensor([[0.501, 0.501, 0.502, 0.502]]).expand_as(masks.boxes)
        case[3] = masks._replace(boxes=boxes)
        loss, *gradients = _with_gradients(mask_loss, *case)
        assert loss == 0
        assert all(torch.all(gradient == 0) for gradient in gradients)

    def test_no_positives(self):
        coefficients, prototypes, owner, masks = _mask_case(overlap=True)
        loss, *gradients = _with_gradients(mask_loss, coefficients[:0], prototypes, owner[:0], masks)
        assert loss == 0
        assert [gradient.shape for gradient in gradients] == [(0, 32), prototypes.shape]

    def test_without_gradients(self):
        coefficients, prototypes, owner, masks = _mask_case(overlap=True)
        with torch.inference_mode():
            found = mask_loss(coefficients, prototypes, owner, masks)
        torch.testing.assert_close(found, _plain_mask_loss(coefficients, prototypes, owner, masks))

    def test_only_one_side_learns(self):
        coefficients, prototypes, owner, masks = _mask_case(overlap=True)
        coefficients = coefficients.requires_grad_()
        mask_loss(coefficients, prototypes, owner, masks).backward()
        assert coefficients.grad.abs().sum() > 0

    def test_scaled_gradients(self):
        """What a gradient scaler does."""
        case = _mask_case(overlap=True)
        plain = _with_gradients(mask_loss, *case)
        scaled = _with_gradients(lambda *args: mask_loss(*args) * 1024, *case)
        for found, expected in zip(scaled, plain, strict=True):
            torch.testing.assert_close(found, expected * 1024)

    def test_memory_does_not_grow_with_the_positives(self):
        """What is kept for the backward pass grows by the coefficients alone, and nothing large is ever made."""
        kept, largest = {}, {}
        for positives in (50, 800):
            case = _mask_case(overlap=True, positives=positives, height=160, width=160, objects=100)
            kept[positives], largest[positives] = _memory(case)
        height_times_width = 160 * 160
        assert kept[800] - kept[50] == 750 * 32
        assert largest[800] < 800 * height_times_width / 2, "far from positives times pixels"
        assert largest[800] <= max(mask_module.CHUNK, 2 * 32 * height_times_width)


def _memory(case):
    """Return how many numbers are kept for the backward pass, and the most in one tensor that is made."""
    largest, kept = 0, 0

    class Largest(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, tuple | list) else [result]:
                if isinstance(tensor, torch.Tensor):
                    largest = max(largest, tensor.untyped_storage().nbytes() // tensor.element_size())
            return result

    def keep(tensor):
        nonlocal kept
        kept += tensor.numel()
        return tensor

    coefficients, prototypes, owner, masks = case
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), Largest():
        loss = mask_loss(coefficients.requires_grad_(), prototypes.requires_grad_(), owner, masks)
        loss.backward()
    return kept, largest


def _mask_case(*, overlap, scale=1.0, positives=60, objects=12, height=24, width=40):
    size = torch.rand(objects, 2) ** 2 * 0.9 + 0.02
    corner = torch.rand(objects, 2) * (1 - size)
    boxes = torch.cat((corner, corner + size), 1)
    boxes[0] = torch.tensor([-0.2, -0.1, 1.3, 1.1])  # beyond the image
    image = torch.randint(0, 2, (objects,))
    shape = int(height * scale), int(width * scale)
    numbers = torch.stack([(image[: i + 1] == image[i]).sum() for i in range(objects)])
    if overlap:
        masks = MaskTarget(image, boxes, torch.randint(0, objects, (2, *shape), dtype=torch.uint8), numbers)
    else:
        masks = MaskTarget(image, boxes, torch.randint(0, 2, (objects, *shape), dtype=torch.uint8), None)
    coefficients, prototypes = torch.randn(positives, 32), torch.randn(2, 32, height, width)
    return coefficients, prototypes, torch.randint(0, objects, (positives,)), masks


def _with_gradients(loss, coefficients, prototypes, owner, masks):
    inputs = [tensor.clone().requires_grad_() for tensor in (coefficients, prototypes)]
    value = loss(*inputs, owner, masks)
    value.backward()
    return value.detach(), *(tensor.grad for tensor in inputs)


def _plain_mask_loss(coefficients, prototypes, owner, masks):
    """Positives times the whole map: logits, cross-entropy, crop, mean, over the area of the box."""
    height, width = prototypes.shape[2:]
    maps = interpolate(masks.maps[None].float(), (height, width), mode="nearest")[0]
    x, y = torch.arange(width), torch.arange(height)
    limits = torch.tensor([width, height, width, height])
    total = torch.zeros(())
    for coefficient, o in zip(coefficients, owner.tolist(), strict=True):
        logits = torch.einsum("m,mhw->hw", coefficient, prototypes[masks.image[o]])
        target = maps[o] if masks.numbers is None else (maps[masks.image[o]] == masks.numbers[o])
        x1, y1, x2, y2 = masks.boxes[o] * limits
        crop = ((x >= x1) & (x < x2))[None] & ((y >= y1) & (y < y2))[:, None]
        area = (masks.boxes[o, 2:] - masks.boxes[o, :2]).prod()
        each = binary_cross_entropy_with_logits(logits, target.float(), reduction="none")
        total = total + (each * crop).mean() / area
    return total / len(owner)


def _no_objects(*, images):
    return {
        "batch_idx": torch.zeros(0, dtype=torch.int64),
        "classes": torch.zeros(0, dtype=torch.int64),
        "boxes": torch.zeros(0, 4),
        "masks": torch.zeros(images, 16, 16, dtype=torch.uint8),
        "overlap": True,
    }


def _some_objects():
    masks = torch.zeros(2, 16, 16, dtype=torch.uint8)
    masks[0, 2:10, 2:10], masks[0, 8:15, 6:14], masks[1, 4:12, 3:15] = 1, 2, 1
    return {
        "batch_idx": torch.tensor([0, 0, 1]),
        "classes": torch.tensor([0, 2, 1]),
        "boxes": torch.tensor([[6, 6, 8, 8], [10, 11.5, 8, 7], [9, 8, 12, 8]]) / 16,
        "masks": masks,
        "overlap": True,
    }
