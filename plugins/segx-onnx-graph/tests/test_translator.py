"""What every translator gets from the base class."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from onnx import TensorProto, helper

from segx.errors import ExportError
from segx_onnx_graph import Translator, read


def chain(*ops, domain=""):
    names = [f"v{index}" for index in range(len(ops) + 1)]
    nodes = [
        helper.make_node(op, [before], [after], domain=domain)
        for op, before, after in zip(ops, names, names[1:], strict=False)
    ]
    given = helper.make_tensor_value_info("v0", TensorProto.FLOAT, (1, 3, 4, 4))
    result = helper.make_tensor_value_info(names[-1], TensorProto.FLOAT, None)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("here", 1)]
    return helper.make_model(helper.make_graph(nodes, "g", [given], [result]), opset_imports=opsets)


class OnlyRelu(Translator):
    title = "Small"

    def Relu(self, x):  # noqa: N802
        return np.maximum(x, 0)


def test_all_missing_operators_are_named_before_any_work():
    with pytest.raises(ExportError, match=r"Small has no translation of the operators Gelu, Tanh\n") as caught:
        OnlyRelu(read(chain("Tanh", "Relu", "Gelu")))
    assert caught.value.hint


def test_operators_of_other_domains_are_named_in_full():
    with pytest.raises(ExportError, match=r"operators here\.Odd"):
        OnlyRelu(read(chain("Odd", domain="here")))


def test_methods_that_are_no_operators_are_not_taken_for_one():
    with pytest.raises(ExportError, match=r"here\.run"):
        OnlyRelu(read(chain("run", domain="here")))


def test_idle_operators_need_no_method():
    fed = np.ones((1, 3, 4, 4), np.float32)
    np.testing.assert_array_equal(OnlyRelu(read(chain("Identity", "Relu", "Dropout"))).run(fed)[0], fed)


def test_open_lengths_need_shape():
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Expand", ["x", "s"], ["y"]),
    ]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", 3, "h", "w"))
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    made = helper.make_model(helper.make_graph(nodes, "g", [given], [result]))
    with pytest.raises(ExportError, match="operators Expand, Shape"):
        OnlyRelu(read(made, (None, 3, None, None)))


def test_values_are_let_go_once_nobody_needs_them():
    alive, most = weakref.WeakSet(), 0

    class Value:
        pass

    class Counting(Translator):
        def Relu(self, x):  # noqa: N802
            nonlocal most
            del x
            gc.collect()
            most = max(most, len(alive))
            made = Value()
            alive.add(made)
            return made

    Counting(read(chain(*["Relu"] * 9))).run(Value())
    assert most <= 2
