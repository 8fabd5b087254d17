"""Each operator alone, as old and new operator sets write it, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from segx_onnx_graph import read
from segx_onnx_graph.testing import operator_cases


def run(model, images) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images})


@pytest.mark.parametrize("case", operator_cases(), ids=str)
def test_what_is_read_computes_the_same(case, to_numpy):
    expected = run(case.model, case.images)
    graph = read(case.model)
    got = to_numpy(graph).run(case.images)
    assert len(got) == len(expected)
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    shapes = [graph.shapes[name] for name in graph.outputs]
    assert shapes == [array.shape for array in expected]


def test_names_are_unique():
    names = [case.name for case in operator_cases()]
    assert len(names) == len(set(names))
