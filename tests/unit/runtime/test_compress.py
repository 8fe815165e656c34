"""Weights in fewer bits: what is read back is what rounding promises, and the file is as small as it should be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from hasten.runtime import compress, openvino

FLOAT = {"INFERENCE_PRECISION_HINT": "f32"}  # by default some processors take bf16


def convolution(channels: int, kernel: int, seed: int = 0) -> tuple[ov.Model, np.ndarray]:
    weight = np.random.default_rng(seed).normal(size=(channels, channels, kernel, kernel)).astype(np.float32)
    x = ops.parameter([1, channels, 8, 8], np.float32, name="x")
    made = ops.convolution(x, ops.constant(weight), [1, 1], [1, 1], [1, 1], [1, 1])
    return ov.Model([ops.result(made)], [x], "one"), weight


def answer(graph: ov.Model, x: np.ndarray) -> np.ndarray:
    return next(iter(openvino.core.compile_model(graph, "CPU", FLOAT)([x]).values()))


@pytest.mark.parametrize(("bits", "rank", "least_db"), [(8, 0, 40.0), (4, 0, 17.0), (4, 16, 18.0)])
def test_the_engine_reads_back_what_was_rounded(bits: int, rank: int, least_db: float, tmp_path: Path) -> None:
    graph, weight = convolution(64, 3)
    openvino.save(compress.compress(graph, bits, rank), tmp_path / "model.xml")
    made = openvino.read(tmp_path / "model.xml")
    x = np.random.default_rng(1).normal(size=(1, 64, 8, 8)).astype(np.float32)
    wanted, found = answer(graph, x), answer(made, x)
    assert 10 * np.log10((wanted**2).mean() / ((wanted - found) ** 2).mean()) > least_db
    by_hand = reconstructed(weight, bits, rank)
    exact = answer(ov_with(graph, by_hand), x)
    np.testing.assert_allclose(found, exact, atol=2e-3 * np.abs(exact).max())
    each = bits / 8 + (2 / 32 if bits == 4 else 2 / 576) + rank * 2 * (64 + 576) / weight.size
    assert (tmp_path / "model.bin").stat().st_size == pytest.approx(each * weight.size, rel=0.03)


def reconstructed(weight: np.ndarray, bits: int, rank: int) -> np.ndarray:
    matrix = weight.reshape(len(weight), -1)
    integers, scales = compress.rounded(matrix, bits)
    assert np.abs(integers).max() <= 2 ** (bits - 1) - 1
    rough = (integers * scales).reshape(matrix.shape)
    if rank:
        left, right = compress.low_rank(matrix - rough, rank)
        rough = rough + left.astype(np.float16).astype(np.float32) @ right.astype(np.float16).astype(np.float32)
    return rough.reshape(weight.shape)


def ov_with(graph: ov.Model, weight: np.ndarray) -> ov.Model:
    graph = graph.clone()
    for op in graph.get_ops():
        if op.get_type_name() == "Convolution":
            op.input(1).replace_source_output(ops.constant(weight.astype(np.float32)).output(0))
    return graph


def test_a_correction_never_makes_it_worse_and_a_full_one_makes_it_whole() -> None:
    weight = np.random.default_rng(2).normal(size=(32, 96)).astype(np.float32)
    integers, scales = compress.rounded(weight, 4)
    error = weight - (integers * scales).reshape(weight.shape)
    left_over = [np.square(error - np.matmul(*compress.low_rank(error, rank))).sum() for rank in (1, 4, 16, 32)]
    assert left_over == sorted(left_over, reverse=True)
    assert left_over[-1] < 1e-6 * np.square(error).sum()


def test_small_tensors_and_the_graph_that_was_given_are_left_alone() -> None:
    graph, _ = convolution(4, 3)
    assert not any(op.get_type_name() == "Convert" for op in compress.compress(graph, 8, 0).get_ops())
    graph, _ = convolution(64, 3)
    before = answer(graph, np.ones((1, 64, 8, 8), np.float32))
    compress.compress(graph, 4, 0)
    assert np.array_equal(before, answer(graph, np.ones((1, 64, 8, 8), np.float32)))
