"""Task-aligned assignment: the golden case, a plain rewriting of the rule, and its corners."""

from __future__ import annotations

import pytest
import torch

from segx_model_yolov8 import assignment
from segx_model_yolov8.assignment import Objects, assign
from segx_model_yolov8.boxes import complete_iou


def test_equals_golden(golden):
    case = {name: torch.from_numpy(array) for name, array in golden("assign.npz").items()}
    valid = case["gt_valid"].squeeze(-1) > 0
    image, place = valid.nonzero(as_tuple=True)
    label = case["gt_labels"][valid].squeeze(-1)
    found = assign(
        case["pred_scores"].transpose(1, 2).logit(),
        case["pred_boxes"].transpose(1, 2),
        case["anchors"].T,
        Objects(image, label, case["gt_boxes"][valid]),
    )
    foreground = torch.zeros_like(case["foreground"])
    foreground[found.image, found.anchor] = True
    index = torch.zeros_like(case["target_index"])
    index[found.image, found.anchor] = place[found.object]
    scores = torch.zeros_like(case["target_scores"])
    scores[found.image, found.anchor, label[found.object]] = found.score
    assert torch.equal(foreground, case["foreground"])
    assert torch.equal(index, case["target_index"])
    torch.testing.assert_close(scores, case["target_scores"], rtol=0, atol=1e-5)
    boxes = case["gt_boxes"][valid][found.object]
    torch.testing.assert_close(boxes, case["target_boxes"][found.image, found.anchor], rtol=0, atol=0)


@pytest.fixture
def crowd():
    """Three images of many overlapping objects and predictions near them; the last image is empty."""
    points = torch.stack(torch.meshgrid(torch.arange(4.0, 128, 8), torch.arange(4.0, 128, 8), indexing="xy")).flatten(1)
    count, images = 40, 3
    centre, size = torch.rand(count, 2) * 128, torch.rand(count, 2) * 80 + 1
    objects = Objects(
        torch.randint(0, images - 1, (count,)).sort().values,
        torch.randint(0, 4, (count,)),
        torch.cat((centre - size / 2, centre + size / 2), 1).clamp(0, 128),
    )
    half = torch.rand(images, 2, points.shape[1]) * 40
    boxes = torch.cat((points - half, points + half), 1)
    return torch.randn(images, 4, points.shape[1]) * 2, boxes, points, objects


def test_equals_the_rule_written_plainly(crowd):
    found = assign(*crowd)
    assert len(found.image) > 100
    wanted = _plain(*crowd)
    rows = {(b, a): (o, s) for b, a, o, s in zip(*(part.tolist() for part in found), strict=True)}
    assert rows.keys() == wanted.keys()
    for place, (owner, score) in wanted.items():
        assert rows[place][0] == owner
        assert rows[place][1] == pytest.approx(score, abs=1e-5)


def test_testing_in_parts_changes_nothing(crowd, monkeypatch):
    whole = assign(*crowd)
    monkeypatch.setattr(assignment, "CHUNK", 7 * crowd[2].shape[1])
    for found, wanted in zip(assign(*crowd), whole, strict=True):
        assert torch.equal(found, wanted)


def test_order_of_objects_does_not_matter(crowd):
    scores, boxes, points, objects = crowd
    order = torch.randperm(len(objects.label))
    shuffled = assign(scores, boxes, points, Objects(*(part[order] for part in objects)))
    straight = assign(scores, boxes, points, objects)
    assert torch.equal(shuffled.anchor, straight.anchor)
    assert torch.equal(order[shuffled.object], straight.object)
    torch.testing.assert_close(shuffled.score, straight.score)


def test_at_most_one_object_an_anchor_and_ten_anchors_an_object_that_shares_none(crowd):
    scores, boxes, points, objects = crowd
    found = assign(scores, boxes, points, objects)
    places = found.image * points.shape[1] + found.anchor
    assert len(places.unique()) == len(places)
    assert torch.equal(objects.image[found.object], found.image)
    alone = [
        assign(scores, boxes, points, Objects(*(part[[i]] for part in objects))) for i in range(len(objects.label))
    ]
    assert max(len(one.image) for one in alone) == 10


def test_no_objects(crowd):
    scores, boxes, points, objects = crowd
    found = assign(scores, boxes, points, Objects(*(part[:0] for part in objects)))
    assert [len(part) for part in found] == [0, 0, 0, 0]


@pytest.mark.parametrize("box", [[5, 5, 5, 5], [5, 5, 7, 7], [-90, -90, -10, -10], [200, 200, 300, 300]])
def test_object_without_an_anchor_inside(crowd, box):
    """Empty, between the cells, outside: no positives, no failure."""
    scores, boxes, points, _ = crowd
    objects = Objects(torch.tensor([1]), torch.tensor([2]), torch.tensor([box], dtype=torch.float32))
    assert len(assign(scores, boxes, points, objects).image) == 0


def test_predictions_that_overlap_nothing_are_not_positive(crowd):
    scores, boxes, points, objects = crowd
    assert len(assign(scores, boxes + 1e4, points, objects).image) == 0


def test_half_precision_scores(crowd):
    scores, boxes, points, objects = crowd
    half = assign(scores.half(), boxes, points, objects)
    assert half.score.dtype == torch.float32
    whole = assign(scores.half().float(), boxes, points, objects)
    assert torch.equal(half.anchor, whole.anchor)


class TestCompleteIoU:
    def test_of_equal_boxes_is_one(self):
        boxes = torch.tensor([[0.0, 0, 10, 20], [3, 4, 5, 6]])
        torch.testing.assert_close(complete_iou(boxes, boxes), torch.ones(2))

    def test_by_hand(self):
        """Squares of side 2, one shifted by 1: IoU 1/3, centres 1 apart, diagonal of the hull squared 13."""
        first, second = torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2]])
        assert complete_iou(first, second).item() == pytest.approx(1 / 3 - 1 / 13, abs=1e-5)

    def test_gradient_is_finite_for_boxes_apart_and_empty(self):
        first = torch.tensor([[0.0, 0, 2, 2], [5, 5, 5, 5]], requires_grad=True)
        complete_iou(first, torch.tensor([[10.0, 10, 12, 12], [5, 5, 5, 5]])).sum().backward()
        assert torch.isfinite(first.grad).all()


def _plain(scores, boxes, points, objects):
    """The rule, one object and one anchor after the other."""
    anchors, count = points.shape[1], len(objects.label)
    overlap, metric = torch.zeros(count, anchors), torch.zeros(count, anchors)
    for o in range(count):
        image, label, (x1, y1, x2, y2) = objects.image[o], objects.label[o], objects.boxes[o]
        inside = (points[0] > x1) & (points[0] < x2) & (points[1] > y1) & (points[1] < y2)
        goal = objects.boxes[o].expand(anchors, 4)
        overlap[o] = complete_iou(goal, boxes[image].T).clamp(min=0) * inside
        metric[o] = scores[image, label].sigmoid() ** 0.5 * overlap[o] ** 6
    chosen = {}
    for o in range(count):
        for a in metric[o].topk(10).indices.tolist():
            if metric[o, a] > 0 and metric[o].max() > 1e-9:
                chosen.setdefault((int(objects.image[o]), a), []).append(o)
    owners = {}
    for (image, a), wanting in chosen.items():
        same = (objects.image == image).nonzero().squeeze(1)
        owners[image, a] = wanting[0] if len(wanting) == 1 else int(same[overlap[same, a].argmax()])
    result = {}
    for (image, a), o in owners.items():
        mine = [other for (_, other), owner in owners.items() if owner == o]
        score = metric[o, a] * overlap[o, mine].max() / (metric[o, mine].max() + 1e-9)
        result[image, a] = (o, float(score))
    return result
