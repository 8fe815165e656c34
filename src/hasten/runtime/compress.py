"""Weights of an OpenVINO graph in 8 or 4 bits on disk; the engine runs what they stand for.

With 8 bits each output has a scale.  With 4 bits each group of weights has one, and a product of two thin matrices
gives back the largest singular directions of what rounding lost: ``W = Q + L R`` (Zhang et al. 2024, LQER,
arXiv:2402.02446, section 3.1, without its weighting by activations).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as ops

from hasten.runtime.openvino import PRODUCTS

GROUP = 32  # weights with a common scale, of 4 bits
FEWEST = 1024  # weights of a tensor that is worth it
LARGEST = {8: 127, 4: 7}
Array = NDArray[np.float32]


def compress(graph: Any, bits: int, rank: int) -> Any:
    """A copy of ``graph`` whose convolutions and matrix products read float weights from ``bits`` of each, 8 or 4, and
    from a correction of ``rank``; weights that are in INT8 already stay as they are."""
    graph = graph.clone()
    for op in graph.get_ops():
        if op.get_type_name() not in PRODUCTS:
            continue
        constant = op.input_value(1).get_node()
        if constant.get_type_name() != "Constant" or constant.get_element_type() != ov.Type.f32:
            continue
        weight = np.array(constant.data, np.float32)
        if weight.size >= FEWEST:
            op.input(1).replace_source_output(_stored(weight, bits, rank).output(0))
    graph.validate_nodes_and_infer_types()
    return graph


def rounded(matrix: Array, bits: int) -> tuple[NDArray[np.int8], Array]:
    """Integers (out, groups, n) and scales (out, groups, 1) of ``matrix`` (out, in); groups that don't come out even
    are whole rows."""
    rows, columns = matrix.shape
    group = GROUP if bits == 4 and columns % GROUP == 0 else columns
    cut = matrix.reshape(rows, columns // group, group)
    scales = np.abs(cut).max(axis=2, keepdims=True) / LARGEST[bits]
    scales = np.maximum(scales.astype(np.float16).astype(np.float32), 1e-7)
    found = np.clip(np.rint(cut / scales), -LARGEST[bits], LARGEST[bits]).astype(np.int8)
    return found, scales


def low_rank(error: Array, rank: int) -> tuple[Array, Array]:
    """``left`` (out, rank) and ``right`` (rank, in), whose product is nearest to ``error`` (Eckart and Young 1936)."""
    u, s, v = np.linalg.svd(error, full_matrices=False)
    root = np.sqrt(s[:rank])
    return u[:, :rank] * root, v[:rank] * root[:, None]


def _stored(weight: Array, bits: int, rank: int) -> Any:
    matrix = weight.reshape(len(weight), -1)
    bits = 8 if matrix.size % 2 else bits  # two of 4 bits make a byte
    integers, scales = rounded(matrix, bits)
    kind = ov.Type.i8 if bits == 8 else ov.Type.i4
    node = ops.multiply(ops.convert(_constant(integers, kind), "f32"), _half(scales))
    node = ops.reshape(node, np.array(weight.shape, np.int64), special_zero=False)
    rank = min(rank, *matrix.shape)
    if rank:
        left, right = low_rank(matrix - (integers * scales).reshape(matrix.shape), rank)
        product = ops.matmul(_half(left), _half(right), transpose_a=False, transpose_b=False)
        node = ops.add(node, ops.reshape(product, np.array(weight.shape, np.int64), special_zero=False))
    return node


def _constant(integers: NDArray[np.int8], kind: Any) -> Any:
    if kind == ov.Type.i8:
        return ops.constant(integers)
    nibbles = integers.reshape(-1, 2).view(np.uint8) & 0x0F  # two's complement of four bits, the first number below
    tensor = ov.Tensor(kind, ov.Shape(integers.shape))  # has memory of its own, which the graph shares
    tensor.data[:] = (nibbles[:, 0] | (nibbles[:, 1] << 4)).reshape(tensor.data.shape)
    return ov.op.Constant(tensor, shared_memory=False)


def _half(values: Array) -> Any:
    return ops.convert(ops.constant(values.astype(np.float16)), "f32")
