"""Every model that is shipped, and what holds for all of them."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from segx_model_yolov8.head import Predictions, RawMaps, make_anchors
from segx_model_yolov8.layers import Conv

GOLDEN = json.loads((Path(__file__).parent / "data" / "architecture.json").read_text())
SIZES = ("n", "s", "m", "l", "x")

# parameters, with BatchNorm folded, modules, GFLOPs at 640, GFLOPs of older tables
FIGURES = {
    "n": (3_409_968, 3_404_320, 261, 12.00, 12.6),
    "s": (11_821_056, 11_810_560, 261, 40.09, 42.6),
    "m": (27_285_968, 27_268_704, 331, 104.54, 110.2),
    "l": (45_997_728, 45_973_568, 401, 210.39, 220.5),
    "x": (71_827_888, 71_797_696, 401, 328.36, 344.1),
}


@pytest.mark.parametrize("case", GOLDEN)
def test_weights_have_the_published_names_and_shapes(architecture, case):
    size, classes = case.split("-nc")
    with torch.device("meta"):
        model = architecture.build(architecture.read_config(f"yolov8{size}-seg.yaml", nc=int(classes)))
    assert sum(parameter.numel() for parameter in model.parameters()) == GOLDEN[case]["params"]
    if GOLDEN[case]["keys"] is not None:
        shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
        assert list(shapes.items()) == list(GOLDEN[case]["keys"].items())


@pytest.mark.parametrize("size", SIZES)
def test_summary(architecture, size):
    parameters, fused, layers, gflops, published = FIGURES[size]
    model = architecture.build(architecture.read_config(f"yolov8{size}-seg"))
    summary = architecture.summarise(model, (640, 640))
    assert (summary.parameters, summary.fused_parameters, summary.layers) == (parameters, fused, layers)
    assert summary.gflops == pytest.approx(gflops, abs=0.006)
    assert f"{published:.1f} GFLOPs" in summary.notes[0]
    assert model.training
    assert model.model[0].bn.num_batches_tracked == 0, "counting leaves no trace"


@pytest.mark.parametrize("size", SIZES)
def test_forward(architecture, size):
    """Shapes in both modes, and strides as an image really shrinks."""
    model = architecture.build(architecture.read_config(f"yolov8{size}-seg", nc=5))
    raw = model(torch.rand(2, 3, 64, 96))
    assert isinstance(raw, RawMaps)
    assert raw.boxes.shape == (2, 64, 126)
    assert raw.scores.shape == (2, 5, 126)
    assert raw.coefficients.shape == (2, 32, 126)
    assert raw.prototypes.shape == (2, 32, 16, 24)
    assert raw.sizes == tuple((64 // stride, 96 // stride) for stride in model.strides)
    with torch.inference_mode():
        predictions = model.eval()(torch.rand(1, 3, 64, 32))
    assert isinstance(predictions, Predictions)
    assert predictions.anchors.shape == (1, 4 + 5 + 32, 42)
    assert predictions.prototypes.shape == (1, 32, 16, 8)
    assert model.strides == (8, 16, 32)


@pytest.mark.parametrize("size", ["n", "m"])
@pytest.mark.parametrize("fused", [False, True])
def test_forward_equals_golden(golden_model, architecture, golden, size, fused):
    arrays = golden("forward.npz")
    model = golden_model(f"yolov8{size}-seg").eval()
    model = architecture.fuse(model) if fused else model
    with torch.inference_mode():
        found = model(torch.from_numpy(arrays["x"]))
    np.testing.assert_allclose(found.anchors[:, :, ::5], arrays[f"{size}_pred"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.prototypes[:, :, ::4, ::4], arrays[f"{size}_proto"], rtol=1e-4, atol=2e-6)


def test_biases_say_that_objects_are_rare(architecture):
    model = architecture.build(architecture.read_config("yolov8n-seg"))
    for box, scores, expected in zip(model.head.cv2, model.head.cv3, (-11.5366, -10.1503, -8.7641), strict=True):
        assert torch.all(box[-1].bias == 1.0)
        assert scores[-1].bias.tolist() == pytest.approx([expected] * 80, abs=1e-4)


def test_batch_norm_is_that_of_the_published_weights(tiny):
    norms = [layer for layer in tiny.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    assert norms
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.03)}


def test_anchors_are_centres_row_by_row():
    anchors = make_anchors(((2, 3), (1, 1)), (8, 16), torch.device("cpu"))
    assert anchors.points.T.tolist() == [
        [0.5, 0.5],
        [1.5, 0.5],
        [2.5, 0.5],
        [0.5, 1.5],
        [1.5, 1.5],
        [2.5, 1.5],
        [0.5, 0.5],
    ]
    assert anchors.strides.tolist() == [[8, 8, 8, 8, 8, 8, 16]]


def test_decoded_boxes(tiny):
    """A distribution that is all in one bin is that many cells to each side."""
    model = tiny.eval()
    logits = torch.full((1, 4, 16, 1 + 4 + 16), -1e4)
    for side, cells in enumerate((1, 2, 3, 4)):
        logits[:, side, cells] = 1e4
    raw = RawMaps(
        boxes=logits.flatten(1, 2),
        scores=torch.zeros(1, 3, 21),
        coefficients=torch.zeros(1, 32, 21),
        prototypes=torch.zeros(1, 32, 8, 8),
        sizes=((4, 4), (2, 2), (1, 1)),
    )
    found = model.decode(raw).anchors
    # First cell of the finest level: centre (4, 4), sides at 4-8, 4-16, 4+24, 4+32 pixels.
    assert found[0, :4, 0].tolist() == [12, 12, 32, 48]
    assert found[0, :4, -1].tolist() == [16 + 32, 16 + 32, 4 * 32, 6 * 32]
    assert torch.all(found[0, 4:7] == 0.5)


def test_gradients_reach_every_parameter_but_the_bins(tiny):
    raw = tiny(torch.rand(2, 3, 64, 64))
    sum(tensor.square().sum() for tensor in raw[:4]).backward()
    without = [name for name, parameter in tiny.named_parameters() if parameter.grad is None]
    assert without == [name for name, _ in tiny.named_parameters() if "dfl" in name]


def test_bins_stay_constant_whatever_is_asked(tiny):
    tiny.requires_grad_(requires_grad=False).requires_grad_()
    open_to_training = {name for name, parameter in tiny.named_parameters() if parameter.requires_grad}
    assert {name for name, _ in tiny.named_parameters()} - open_to_training == {"model.10.dfl.conv.weight"}


def test_what_inference_remembers_training_may_use(tiny):
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        tiny.eval()(images)
    raw = tiny.train()(images)
    tiny.decode(raw).anchors.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_decodes_in_float32(tiny, dtype):
    images = torch.rand(1, 3, 64, 64)
    model = tiny.eval()
    with torch.inference_mode():
        wanted = model(images)
        found = copy.deepcopy(model).to(dtype)(images.to(dtype))
    assert found.anchors.dtype == torch.float32
    assert found.prototypes.dtype == dtype
    assert (found.anchors[:, :4] - wanted.anchors[:, :4]).abs().max() < 2
    assert (found.anchors[:, 4:7] - wanted.anchors[:, 4:7]).abs().max() < 0.02


def test_mixed_precision_decodes_in_float32(tiny):
    model = tiny.eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        raw = model.raw(torch.rand(1, 3, 64, 64))
        found = model.decode(raw).anchors
    assert raw.boxes.dtype == torch.bfloat16
    wanted = model.decode(raw._replace(boxes=raw.boxes.float())).anchors
    torch.testing.assert_close(found[:, :4], wanted[:, :4], rtol=0, atol=0)


def test_channels_last_says_the_same(tiny):
    images, model = torch.rand(2, 3, 64, 96), tiny.eval()
    with torch.inference_mode():
        wanted = model(images)
        found = model.to(memory_format=torch.channels_last)(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(tuple(found), tuple(wanted), rtol=1e-4, atol=1e-4)


def test_training_copies_nothing_for_the_activation():
    layer, images = Conv(3, 8), torch.rand(2, 3, 16, 16)
    seen: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: seen.append(tensor) or tensor, lambda tensor: tensor):
        out = layer(images)
    assert out.grad_fn is not None
    assert out.grad_fn.name() == "SiluBackward0"
    assert not any(tensor.data_ptr() == out.data_ptr() for tensor in seen), "it is a map of its own"
    assert layer.eval()(images).grad_fn.name() == "SiluBackward0"
    layer.act = torch.nn.ReLU(inplace=True)
    torch.testing.assert_close(layer.train()(images), layer.bn(layer.conv(images)).relu())


def test_channels_last_stay_so_through_a_training_step(tiny):
    raw = tiny(torch.rand(2, 3, 64, 96).contiguous(memory_format=torch.channels_last))
    assert raw.prototypes.is_contiguous(memory_format=torch.channels_last)
    raw.prototypes.square().sum().backward()
    weights = tiny.model[0].conv.weight
    assert weights.is_contiguous()
    assert weights.grad.is_contiguous(), "state, checkpoints and what processes exchange have one layout"


def test_fused_copy_shares_nothing(tiny, architecture):
    fused = architecture.fuse(tiny)
    assert tiny.training
    assert not fused.training
    own = {tensor.data_ptr() for tensor in tiny.state_dict().values()}
    assert own.isdisjoint(tensor.data_ptr() for tensor in fused.state_dict().values())
    plain, folded = (architecture.summarise(model, (64, 64)) for model in (tiny, fused))
    assert folded.parameters == plain.parameters, "a fused model still says what it was built with"
    assert folded.fused_parameters == plain.fused_parameters == sum(p.numel() for p in fused.parameters())
    assert folded.gflops == plain.gflops


def test_fused_copy_runs_channels_last(tiny, architecture):
    """With images of either layout, and with the same result."""
    fused, images = architecture.fuse(tiny), torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        plain, last = fused(images), fused(images.contiguous(memory_format=torch.channels_last))
    assert plain.prototypes.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(tuple(last), tuple(plain), rtol=1e-5, atol=1e-5)


def test_models_can_be_copied_and_pickled(tiny):
    images, model = torch.rand(1, 3, 64, 64), tiny.eval()
    with torch.inference_mode():
        wanted = model(images)
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            torch.testing.assert_close(tuple(other(images)), tuple(wanted), rtol=0, atol=0)


class TestWeights:
    """Weights with BatchNorm folded and unfolded, into models of either kind."""

    def test_folded_weights_fill_a_model_with_batch_norm(self, tiny, architecture):
        images, folded = torch.rand(1, 3, 64, 64), architecture.fuse(tiny)
        other = architecture.build(tiny.config)
        other.load_state_dict(architecture.adapt_weights(other, folded.state_dict()))
        with torch.inference_mode():
            torch.testing.assert_close(tuple(other.eval()(images)), tuple(folded(images)), rtol=1e-4, atol=1e-4)
        assert all(
            layer.bn.running_var[0] == pytest.approx(0.999) for layer in other.modules() if isinstance(layer, Conv)
        )

    def test_weights_with_batch_norm_fill_a_folded_model(self, tiny, architecture):
        folded = architecture.fuse(architecture.build(tiny.config))
        folded.load_state_dict(architecture.adapt_weights(folded, tiny.state_dict()))
        for found, wanted in zip(folded.parameters(), architecture.fuse(tiny).parameters(), strict=True):
            torch.testing.assert_close(found, wanted, rtol=0, atol=0)

    def test_what_fits_is_handed_on_as_it_is(self, tiny, architecture):
        state = {**tiny.state_dict(), "unknown": torch.zeros(3)}
        adapted = architecture.adapt_weights(tiny, state)
        assert list(adapted) == list(state)
        assert all(adapted[name] is tensor for name, tensor in state.items())

    def test_half_precision_keeps_its_bias(self, tiny, architecture):
        """The variance 1 - 1e-3 is not a half-precision number; it is stored in full precision instead."""
        folded = architecture.fuse(tiny).half()
        adapted = architecture.adapt_weights(tiny, folded.state_dict())
        variance = adapted["model.0.bn.running_var"].double()
        assert torch.all((variance + 1e-3 - 1).abs() < 1e-7)

    @pytest.mark.real
    def test_published_weights_load_by_name(self, architecture, real_data):
        state = torch.load(real_data / "weights" / "yolov8n-seg.state_dict.pt", weights_only=True)
        model = architecture.build(architecture.read_config("yolov8n-seg"))
        model.load_state_dict(architecture.adapt_weights(model, state))
        images = torch.rand(1, 3, 64, 64)
        with torch.inference_mode():
            wanted = model.eval()(images)
            folded = architecture.fuse(model)
            other = architecture.build(model.config)
            other.load_state_dict(architecture.adapt_weights(other, folded.state_dict()))
            torch.testing.assert_close(tuple(other.eval()(images)), tuple(wanted), rtol=1e-3, atol=1e-3)


class TestExport:
    """The wrapped model as the recorders of graphs see it."""

    @pytest.fixture
    def exported(self, tiny, architecture):
        def wrap(**changes):
            info = architecture.info(tiny.config).replace(imgsz=(64, 96), **changes)
            return architecture.export_module(tiny, info)

        return wrap

    def test_outputs(self, exported, tiny):
        wrapped = exported(batch=2)
        assert wrapped.example.shape == (2, 3, 64, 96)
        assert wrapped.example.dtype == np.float32
        images = torch.from_numpy(wrapped.example)
        with torch.inference_mode():
            output0, output1 = wrapped.module(images)
            wanted = tiny.eval()(images)
        torch.testing.assert_close(output0, wanted.anchors, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(output1, wanted.prototypes, rtol=1e-4, atol=1e-4)

    def test_exported_program_takes_other_sizes(self, exported, tiny):
        wrapped = exported(batch=2, dynamic=frozenset({"batch", "height", "width"}))
        stride = wrapped.info.stride
        axes = {
            0: torch.export.Dim("batch", min=1, max=16),
            2: stride * torch.export.Dim("height", min=2, max=32),
            3: stride * torch.export.Dim("width", min=2, max=32),
        }
        example = torch.from_numpy(wrapped.example)
        program = torch.export.export(wrapped.module, (example,), dynamic_shapes=(axes,)).module()
        for shape in ((2, 3, 64, 96), (1, 3, 128, 64), (3, 3, 96, 160)):
            images = torch.rand(shape)
            torch.testing.assert_close(program(images), tuple(tiny.eval()(images)), rtol=1e-4, atol=1e-4)

    def test_fixed_program_holds_the_cells_as_constants(self, exported):
        wrapped = exported()
        program = torch.export.export(wrapped.module, (torch.from_numpy(wrapped.example),))
        called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
        assert not {name for name in called if "arange" in name or "sym_size" in name or "to." in name}

    def test_fixed_model_refuses_another_size(self, exported):
        with pytest.raises(RuntimeError, match="size of tensor"):
            exported().module(torch.rand(1, 3, 64, 64))

    @pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
    def test_trace_takes_other_sizes(self, exported, tiny):
        wrapped = exported(dynamic=frozenset({"height", "width"}))
        traced = torch.jit.trace(wrapped.module, torch.from_numpy(wrapped.example))
        images = torch.rand(2, 3, 128, 32)
        with torch.inference_mode():
            torch.testing.assert_close(traced(images), tuple(tiny.eval()(images)), rtol=1e-4, atol=1e-4)

    def test_bare_model_can_be_exported_too(self, tiny):
        """What a user hands to torch.export directly must not remember the cells of the example."""
        model, height = tiny.eval(), torch.export.Dim("height", min=2, max=16)
        program = torch.export.export(model, (torch.rand(1, 3, 64, 64),), dynamic_shapes=({2: 32 * height},)).module()
        images = torch.rand(1, 3, 96, 64)
        torch.testing.assert_close(tuple(program(images)), tuple(model(images)), rtol=1e-4, atol=1e-4)
