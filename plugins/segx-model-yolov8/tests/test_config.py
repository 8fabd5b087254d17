"""Model YAML: what it may say, and one clear line for what it may not."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segx.errors import ModelError
from segx.testing.models import TINY_YOLOV8
from segx_model_yolov8.blocks import BLOCKS, Scale, strides
from segx_model_yolov8.config import config_rows, make_config, read_config
from segx_model_yolov8.layers import Conv
from segx_model_yolov8.network import BUILDERS, SegmentationModel


@pytest.fixture
def definition():
    return yaml.safe_load(TINY_YOLOV8)


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
        return path

    return write


def test_every_block_can_be_built():
    assert BUILDERS.keys() == BLOCKS.keys()


@pytest.mark.parametrize(
    ("scale", "repeats", "channels"),
    [
        (Scale(0.33, 0.25, 1024), [1, 2], [16, 256]),
        (Scale(0.67, 0.75, 768), [2, 4], [48, 576]),
        (Scale(1.00, 1.00, 512), [3, 6], [64, 512]),
        (Scale(1.00, 1.25, 512), [3, 6], [80, 640]),
    ],
)
def test_compound_scaling(scale, repeats, channels):
    assert [scale.repeats(3), scale.repeats(6)] == repeats
    assert [scale.channels(64), scale.channels(1024)] == channels
    assert scale.repeats(1) == 1


class TestNames:
    @pytest.mark.parametrize("name", ["yolov8s-seg", "yolov8s-seg.yaml", "yolov8s-seg.yml"])
    def test_shipped(self, name):
        config = read_config(name)
        assert (config.variant, config.scale, config.nc) == ("yolov8s-seg", "s", 80)

    def test_without_letter_is_n_and_says_so(self, caplog):
        with caplog.at_level(logging.WARNING):
            config = read_config("yolov8-seg.yaml")
        assert (config.variant, config.scale) == ("yolov8n-seg", "n")
        assert "yolov8-seg.yaml: taking scale 'n' of p, n, s, m, l, x" in caplog.text

    def test_a_file_wins_over_a_shipped_name(self, write, definition, monkeypatch):
        definition["scales"] = {"n": [1, 0.125, 128], "m": [1, 0.25, 128]}
        path = write("yolov8m-seg.yaml", definition)
        monkeypatch.chdir(path.parent)
        assert read_config("yolov8m-seg.yaml").definition["scales"]["m"] == [1, 0.25, 128]

    def test_one_file_for_all_scales(self, write, definition):
        definition["scales"] = {"n": [1, 0.125, 128], "m": [1, 0.25, 128]}
        path = write("my-yolov8-seg.yaml", definition)
        config = read_config(path.with_name("my-yolov8m-seg.yaml"))
        assert (config.variant, config.scale) == ("my-yolov8m-seg", "m")

    def test_the_scale_it_says(self, write, definition):
        definition |= {"scales": {"n": [1, 0.125, 128], "m": [1, 0.25, 128]}, "scale": "m"}
        assert read_config(write("mine.yaml", definition)).scale == "m"

    def test_a_scale_it_has_not(self, write, definition):
        definition["scales"] = {"n": [1, 0.125, 128], "m": [1, 0.25, 128]}
        with pytest.raises(ModelError, match=r"my-yolov8x-seg\.yaml: its name asks for scale 'x', its scales are n, m"):
            read_config(write("my-yolov8x-seg.yaml", definition))
        with pytest.raises(ModelError, match=r"scale 'big' is not one of its scales: n, m"):
            make_config({**definition, "scale": "big"}, variant="mine")

    def test_the_only_scale_needs_no_name(self, definition, caplog):
        assert make_config({**definition, "scales": {"tiny": [1, 0.125, 128]}}, variant="yolov8x").scale == "tiny"
        assert not caplog.text

    @pytest.mark.parametrize("name", ["yolov8q-seg.yaml", "", ".", "folder/yolov8n-seg.yaml", "yolov8n-seg.pt"])
    def test_what_is_not_there(self, name):
        with pytest.raises(ModelError, match=r"no such file|is not a model YAML") as refusal:
            read_config(name)
        assert "yolov8n-seg.yaml" in str(refusal.value)

    def test_close_names_are_suggested(self):
        with pytest.raises(ModelError, match="did you mean 'yolov8n-seg'"):
            read_config("yolo8n-seg.yaml")


class TestClasses:
    def test_those_of_the_data_win(self, definition):
        config = make_config(definition, variant="mine", nc=7)
        assert config.nc == config.definition["nc"] == 7
        assert SegmentationModel(config).nc == 7

    @pytest.mark.parametrize("nc", [None, 0, -1, 1.5, "80", True, [80], 1 << 20])
    def test_not_a_number_of_them(self, definition, nc):
        with pytest.raises(ModelError, match="mine: nc is"):
            make_config({**definition, "nc": nc}, variant="mine")

    def test_a_number_in_the_row_has_to_agree(self, definition):
        definition["head"][-1][3][0] = 3
        assert make_config(definition, variant="mine").nc == 3
        with pytest.raises(ModelError, match=r"head row 4 \(layer 10, Segment\): 3 classes, but nc is 5"):
            make_config(definition, variant="mine", nc=5)


class TestRows:
    """Each wrong row is one line with the file and the row."""

    @pytest.mark.parametrize(
        ("section", "number", "row", "message"),
        [
            ("backbone", 2, [-1, 1, "Covn", [8]], "block 'Covn' is not known; did you mean 'Conv'"),
            ("backbone", 2, [-1, 1, ["Conv"], [8]], r"block \"\['Conv'\]\" is not known"),
            ("backbone", 2, [-1, 1, None, [8]], "block 'None' is not known"),
            ("backbone", 2, [-1, 1, "__import__('os').system('true')", [8]], "is not known"),
            ("backbone", 2, [-1, 1, "Conv"], r"\[-1, 1, 'Conv'\] is not \[from, repeats, block, args\]"),
            ("backbone", 2, "Conv", r"'Conv' is not \[from, repeats, block, args\]"),
            ("backbone", 1, [0, 1, "Conv", [8]], "'from' is 0, but the first row takes -1, the image"),
            ("backbone", 1, [-2, 1, "Conv", [8]], "'from' is -2, but"),
            ("backbone", 1, [[-1], 1, "Concat", [1]], "'from' is -1, but"),
            ("backbone", 3, [2, 1, "Conv", [8]], r"'from' is 2, but the layers before it are 0\.\.1"),
            ("backbone", 3, [-4, 1, "Conv", [8]], r"'from' is -4, but the layers before it are 0\.\.1"),
            ("backbone", 3, [-3, 1, "Conv", [8]], r"'from' is -3, but the layers before it are 0\.\.1"),
            ("backbone", 3, ["0", 1, "Conv", [8]], "'from' is '0', not a row number"),
            ("backbone", 3, [None, 1, "Conv", [8]], "'from' is None, not a row number"),
            ("backbone", 3, [[], 1, "Concat", [1]], r"'from' is \[\], not a row number"),
            ("backbone", 3, [[0, 1], 1, "Conv", [8]], r"takes one row, 'from' names 2: \[0, 1\]"),
            ("backbone", 2, [-1, 0, "Conv", [8]], "repeats is 0"),
            ("backbone", 2, [-1, 1.5, "Conv", [8]], "repeats is 1.5"),
            ("backbone", 2, [-1, 10**9, "Conv", [8]], "repeats are more than 1024"),
            ("backbone", 2, [-1, 1, "Conv", []], r"args \[\] are 0, but it takes 1 to 6: \[channels, kernel=1"),
            ("backbone", 2, [-1, 1, "Conv", [8, 1, 1, None, 1, 1, 1]], "are 7, but it takes 1 to 6"),
            ("backbone", 2, [-1, 1, "Conv", 8], "args is 8, not a list"),
            ("backbone", 2, [-1, 1, "Conv", ["8"]], "channels is '8', not a number of channels"),
            ("backbone", 2, [-1, 1, "Conv", [0]], "channels is 0, not a number of channels"),
            ("backbone", 2, [-1, 1, "Conv", [8, 3, 0]], "stride is 0, not a whole number"),
            ("backbone", 2, [-1, 1, "Conv", [8, 300, 1, 0]], "nothing comes out"),
            ("backbone", 2, [-1, 1, "Conv", [64, 3, 1, None, 3]], "8 channels cannot be split into groups=3"),
            ("backbone", 4, [-1, 3, "C2f", [64, 1]], "shortcut is 1, not true or false"),
            ("backbone", 4, [-1, 3, "C2f", [64, True, 1, 0.01]], "0 channels cannot be split"),
            ("backbone", 7, [-1, 1, "SPPF", [64, 4]], "kernel is 4, not an odd number"),
            ("head", 1, [-1, 1, "Upsample", [None, 3]], "joins maps of different sizes"),
            ("head", 1, [-1, 1, "Upsample", [None, 2, "cubic"]], "mode is 'cubic', not nearest or bilinear"),
            ("head", 1, [-1, 1, "Upsample", [None, 2, ["nearest"]]], r"mode is \['nearest'\]"),
            ("head", 1, [-1, 1, "Upsample", [64, 2]], "size is 64, not null"),
            ("head", 2, [[-1, 2], 1, "Concat", [1]], "different sizes: 16 channels 16x16; 8 channels 32x32"),
            ("head", 2, [[-1, 4], 2, "Concat", [1]], "repeats is 2, but a block that joins rows cannot repeat"),
            ("head", 2, [[-1, 4], 1, "Concat", [0]], "dim is 0, not 1, the channels"),
            ("head", 4, [[6, 9, 3], 1, "Segment", ["nc", 32, 64]], "levels have to come finest first"),
            ("head", 4, [[3, 9, 6], 1, "Segment", ["classes", 32, 64]], "classes is 'classes', not nc or a number"),
            ("head", 4, [-1, 1, "Conv", [8]], "the last row has to be Segment; it is Conv"),
            ("head", 3, [[3, 4], 1, "Segment", ["nc", 32, 64]], "comes after Segment, which has to be the last row"),
        ],
    )  # fmt: skip
    def test_wrong_row(self, write, section, number, row, message):
        definition = yaml.safe_load(TINY_YOLOV8)
        definition[section][number - 1] = row
        path = write("mine.yaml", definition)
        with pytest.raises(ModelError, match=message) as refusal:
            read_config(path)
        assert refusal.value.message.startswith(f"{path}: ")
        assert "\n" not in refusal.value.message
        assert "row" in refusal.value.message

    def test_the_row_is_named(self, write, definition):
        definition["head"][2] = [-1, 3, "C2f", [64, "no"]]
        with pytest.raises(ModelError, match=r"mine\.yaml: head row 3 \(layer 9, C2f\): shortcut is 'no', not true or"):
            read_config(write("mine.yaml", definition))

    def test_known_blocks_are_listed(self, definition):
        definition["backbone"][0][2] = "C3k2"
        with pytest.raises(ModelError, match="known blocks: Conv, Bottleneck, C2f, SPPF, Upsample, Concat, Segment"):
            make_config(definition, variant="mine")

    def test_capped_channels(self, definition):
        definition["scales"] = {"n": [1, 1e9, 1e9]}
        with pytest.raises(ModelError, match="channels are more than 65536"):
            make_config(definition, variant="mine")

    @pytest.mark.parametrize("part", ["backbone", "head"])
    @pytest.mark.parametrize("content", [None, [], {}, "rows", 3])
    def test_missing_section(self, definition, part, content):
        with pytest.raises(ModelError, match=f"mine: '{part}' is missing"):
            make_config({**definition, part: content}, variant="mine")

    @pytest.mark.parametrize(
        "scales",
        [None, {}, [], {"n": None}, {"n": [1, 1]}, {"n": [1, 1, 0]}, {"n": [1, "1", 1]}, {1: [1, 1, 1]}],
    )
    def test_scales(self, definition, scales):
        with pytest.raises(ModelError, match=r"scale.*\n *write: scales: \{n: \[0.33, 0.25, 1024\]\}"):
            make_config({**definition, "scales": scales}, variant="mine")


class TestFiles:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("nc: [", r"YAML \(line \d: "),
            ("a: 1\nb: [1, 2\nc: 3\n", r"YAML \(line 3: "),
            ("nc: 1\nscales: {n: [1, 1, 64]}\nnc: 2\n", r"nc: is there twice, in line 1 and line 3"),
            ("- 1\n- 2\n", "holds a list, not a model"),
            ("", "holds nothing, not a model"),
            ("!!python/object/apply:os.system ['true']", "cannot be read as YAML"),
            ("a: " + "[" * 5000, "cannot be read as YAML"),
            ("d: 2024-99-99", "cannot be read as YAML"),
        ],
    )
    def test_not_a_model(self, write, content, message):
        path = write("wrong.yaml", content)
        with pytest.raises(ModelError, match=message) as refusal:
            read_config(path)
        assert str(path) in refusal.value.message

    def test_not_text(self, tmp_path):
        (tmp_path / "wrong.yaml").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(ModelError, match="is not UTF-8 text"):
            read_config(tmp_path / "wrong.yaml")

    def test_too_large(self, write):
        with pytest.raises(ModelError, match="it has 9 MiB, more than the 8 that are read"):
            read_config(write("wrong.yaml", "# " + "x" * (9 << 20)))

    def test_not_a_yaml(self, tmp_path):
        (tmp_path / "weights.pt").write_bytes(b"")
        with pytest.raises(ModelError, match=r"weights\.pt: is not a model YAML"):
            read_config(tmp_path / "weights.pt")


class TestPublishedDefinitions:
    """What the ``yaml`` attribute of published checkpoints holds."""

    def test_scale_and_other_keys(self, architecture):
        published = copy.deepcopy(dict(read_config("yolov8m-seg").definition))
        published |= {"scale": "m", "ch": 3, "yaml_file": "yolov8m-seg.yaml", "channels": 3}
        published["head"][0][2:] = ["nn.Upsample", ["None", 2, "nearest"]]
        config = architecture.config_from_definition(published, variant="best", nc=5)
        assert (config.variant, config.scale, config.nc) == ("best", "m", 5)
        assert config_rows(config) == config_rows(read_config("yolov8m-seg", nc=5))

    def test_scale_from_the_name_it_was_trained_by(self, architecture):
        published = dict(read_config("yolov8m-seg").definition)
        del published["scale"]
        published["yaml_file"] = "/somewhere/yolov8m-seg.yaml"
        assert architecture.config_from_definition(published, variant="best").scale == "m"

    def test_multiples_instead_of_scales(self, architecture):
        published = dict(read_config("yolov8s-seg").definition)
        del published["scale"], published["scales"]
        published |= {"depth_multiple": 0.33, "width_multiple": 0.5}
        config = architecture.config_from_definition(published, variant="yolov8s-seg")
        assert config_rows(config) == config_rows(read_config("yolov8s-seg"))

    def test_other_tasks_are_not_ours(self, architecture):
        published = copy.deepcopy(dict(read_config("yolov8n-seg").definition))
        published["head"][-1] = [[15, 18, 21], 1, "Detect", ["nc"]]
        assert not architecture.detects(published)
        with pytest.raises(ModelError, match="block 'Detect' is not known"):
            architecture.config_from_definition(published, variant="yolov8n")

    def test_grey_images_are_refused(self, architecture):
        published = dict(read_config("yolov8n-seg").definition)
        with pytest.raises(ModelError, match="ch is 1, but images have 3 channels"):
            architecture.config_from_definition({**published, "ch": 1}, variant="yolov8n-seg")

    @pytest.mark.parametrize(
        "strange", [None, 3, "head", [], {"backbone": [], "head": {}}, {"backbone": [], "head": [3]}]
    )
    def test_detects_never_raises(self, architecture, strange):
        assert not architecture.detects(strange)


class TestOwnModels:
    def test_activation(self, definition):
        model = SegmentationModel(make_config({**definition, "activation": "nn.ReLU()"}, variant="mine"))
        kinds = {type(layer.act) for layer in model.modules() if isinstance(layer, Conv)}
        assert kinds == {torch.nn.ReLU}

    @pytest.mark.parametrize("activation", ["Tanhh", "nn.LeakyReLU(0.1)", "__import__('os')", 3, ["ReLU"]])
    def test_unknown_activation(self, definition, activation):
        with pytest.raises(ModelError, match=r"is not known\n *known: SiLU, ReLU"):
            make_config({**definition, "activation": activation}, variant="mine")

    def test_other_shapes(self, definition):
        """Stacked, grouped, dilated, widely padded and upsampled; strides and channels as they really are."""
        definition["backbone"][1:4] = [
            [-1, 2, "Conv", [64, 3, 1, None, 2]],
            [0, 1, "Conv", [64, 6, 4, 1]],
            [-1, 2, "Bottleneck", [64, True, 2, 1.0]],
        ]
        definition["backbone"][4] = [-1, 1, "Conv", [128, 3, 2, None, 1, 2]]
        definition["head"][0] = ["-1", 1, "Upsample", [None, 2, "bilinear"]]
        definition["head"][0][0] = -1
        config = make_config(definition, variant="mine")
        model = SegmentationModel(config).eval()
        with torch.inference_mode():
            raw = model.raw(torch.rand(1, 3, 256, 256))
        assert strides(config_rows(config)) == model.strides == (8, 16, 32)
        assert raw.sizes == ((32, 32), (16, 16), (8, 8))

    def test_four_levels(self, definition):
        definition["head"][-1][0] = [1, 3, 9, 6]
        model = SegmentationModel(make_config(definition, variant="mine"))
        assert model.strides == (4, 8, 16, 32)
        assert model(torch.rand(1, 3, 64, 64)).prototypes.shape == (1, 32, 32, 32)


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-4, 70),
    st.floats(),
    st.sampled_from(["nc", "None", "nearest", "Conv", "C2f"]),
    st.lists(st.integers(-3, 12), max_size=3),
)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_whatever_a_row_says_it_builds_and_runs_or_is_reported(data):
    """A mangled definition is a ModelError, or a model whose strides are as promised; never another error."""
    definition = yaml.safe_load(TINY_YOLOV8)
    section = data.draw(st.sampled_from(["backbone", "head"]))
    row = data.draw(st.sampled_from(definition[section]))
    place = data.draw(st.integers(0, 3))
    if place == 3 and data.draw(st.booleans()):
        row[3] = data.draw(st.lists(VALUES, max_size=6))
    elif place == 3:
        row[3][data.draw(st.integers(0, len(row[3]) - 1))] = data.draw(VALUES)
    else:
        row[place] = data.draw(VALUES)
    try:
        config = make_config(definition, variant="mine")
    except ModelError:
        return
    model = SegmentationModel(config).eval()
    with torch.inference_mode():
        raw = model.raw(torch.rand(1, 3, 256, 256))
    assert raw.sizes == tuple((256 // stride, 256 // stride) for stride in model.strides)
    model.decode(raw)
