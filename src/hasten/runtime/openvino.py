"""OpenVINO as an engine: convert a torch module once, run it at static shapes, quantise its graph with NNCF.

A batch may be split over streams: each part runs on its own cores, which on few cores beats one part on all of them.
"""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hasten.environment import quiet
from hasten.errors import BadInput, MissingExtra
from hasten.model.target import Call

quiet()

try:
    import openvino as ov
    from openvino.frontend import FrontEndManager
except ImportError as error:  # pragma: no cover - a core dependency
    raise MissingExtra("openvino", "openvino") from error

PRODUCTS = {"Convolution", "GroupConvolution", "MatMul"}
ELEMENTWISE = ("Add", "Multiply", "Divide", "Subtract", "Concat", "Interpolate", "ReduceMean", "MVN")
INFERENCE_TYPES = {"float32": "f32", "bfloat16": "bf16"}
core = ov.Core()


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def supports(capability: str) -> bool:
    """Whether the CPU plugin lists ``capability``, such as "BF16"."""
    return capability in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class _Wrapped(torch.nn.Module):
    """Positional tensors in, one tensor out: what the converter traces."""

    def __init__(self, module: torch.nn.Module, call: Call) -> None:
        super().__init__()
        self.module, self.call = module, call

    def forward(self, x: torch.Tensor, time: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        return self.call(self.module, x, time, labels)


def convert(module: torch.nn.Module, call: Call, shape: tuple[int, ...], labelled: bool) -> Any:
    """The module as an OpenVINO graph with a free batch size; inputs ``x``, ``time`` and, if labelled, ``labels``."""
    example: list[torch.Tensor] = [torch.zeros((2, *shape)), torch.full((2,), 0.5)]
    shapes: list[Any] = [ov.PartialShape([-1, *shape]), ov.PartialShape([-1])]
    if labelled:
        example.append(torch.zeros(2, dtype=torch.int64))
        shapes.append(ov.PartialShape([-1]))
    with torch.no_grad(), warnings.catch_warnings():
        # asserts on channel counts become constants; only the batch size is left free, and the example has that too
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
        graph = ov.convert_model(_Wrapped(module, call).eval(), example_input=tuple(example), input=shapes)
    for port, name in zip(graph.inputs, ("x", "time", "labels"), strict=False):
        port.get_tensor().set_names({name})
    return graph


def save(graph: Any, path: Path) -> None:
    """Write ``path`` (.xml) and its weights beside it (.bin), uncompressed."""
    ov.save_model(graph, path, compress_to_fp16=False)


def read(path: Path) -> Any:
    """The graph in ``path`` (.xml).  Raises BadInput for what is none; ``core`` would try all formats that it knows."""
    for each in (path, path.with_suffix(".bin")):
        if not each.is_file():  # as a pipe, which would be waited for
            raise BadInput(f"{each} is missing or no file; make the artifact again, or remove its folder")
    own = _formats().load_by_framework("ir")
    try:
        return own.convert(own.load(str(path), True))  # mapped into memory, not read
    except RuntimeError as error:
        last = (str(error).strip().splitlines() or [""])[-1][:200]
        raise BadInput(f"{path} is no graph of OpenVINO's ({last}); make the artifact again, or remove it") from error


@cache
def _formats() -> Any:
    return FrontEndManager()


def quantize(graph: Any, states: Sequence[tuple[torch.Tensor, ...]], share: float) -> Any:
    """``graph`` with the costliest products in INT8 by NNCF, without bias correction.

    Ranges of activations are the extremes over all ``states``: NNCF's default, the mean of each state's extremes, clips
    what only some sampling times reach.
    What :func:`kept_float` names stays float, and so do element-wise operations: quantising them saves next to nothing,
    and NNCF's bias correction costs more than it mends here (LOG.md has the figures).
    """
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    nncf.set_log_level("ERROR")
    inputs = [port.get_any_name() for port in graph.inputs]
    with contextlib.redirect_stdout(io.StringIO()):  # its progress bar is not ours
        return nncf.quantize(
            graph.clone(),
            nncf.Dataset(list(states), lambda state: {n: p.numpy() for n, p in zip(inputs, state, strict=True)}),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(states),
            ignored_scope=nncf.IgnoredScope(types=list(ELEMENTWISE), names=kept_float(graph, share), validate=False),
            advanced_parameters=AdvancedQuantizationParameters(
                disable_bias_correction=True,
                activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
            ),
        )


def kept_float(graph: Any, share: float) -> list[str]:
    """The convolutions and matrix products to leave alone: the cheapest, beyond ``share`` of all multiplications.

    And those that take ``x`` itself or give the output, whatever they cost: their rounding is noise in the sample.
    """
    costs = multiplications(graph)
    ends = _ends([graph.input("x").get_node()], _after) | _ends([port.get_node() for port in graph.outputs], _before)
    kept, covered, whole = set(ends & set(costs)), 0, sum(costs.values())
    for name in sorted(costs, key=lambda name: -costs[name]):
        if covered >= share * whole:
            kept.add(name)
        covered += costs[name]
    return sorted(kept)


def multiplications(graph: Any) -> dict[str, int]:
    """Multiplications for one sample of each convolution and matrix product, by its name."""
    single = graph.clone()
    single.reshape({port: ov.PartialShape([1, *list(port.partial_shape)[1:]]) for port in single.inputs})
    costs = {}
    for op in single.get_ops():
        kind = op.get_type_name()
        if kind in PRODUCTS:
            weight = list(op.input_value(1).get_partial_shape())
            outputs = int(np.prod([size.get_length() for size in op.output(0).get_partial_shape()]))
            if kind == "MatMul":  # the dimension summed over is the first input's last one
                summed = list(op.input_value(0).get_partial_shape())[-1].get_length()
            else:  # (out, in, kernel...), after a group dimension where there are groups
                summed = int(np.prod([size.get_length() for size in weight[1 if kind == "Convolution" else 2 :]]))
            costs[op.get_friendly_name()] = outputs * summed
    return costs


def _ends(start: list[Any], neighbours: Callable[[Any], Iterable[Any]]) -> set[str]:
    """The names of all operations that ``start`` leads to without passing through a product, those included."""
    names: set[str] = set()
    waiting = list(start)
    while waiting:
        op = waiting.pop()
        if op.get_friendly_name() not in names:
            names.add(op.get_friendly_name())
            if op.get_type_name() not in PRODUCTS:
                waiting.extend(neighbours(op))
    return names


def _after(op: Any) -> list[Any]:
    if op.get_type_name() == "ShapeOf":  # a shape is not the sample
        return []
    return [target.get_node() for output in op.outputs() for target in output.get_target_inputs()]


def _before(op: Any) -> list[Any]:
    return [port.get_source_output().get_node() for port in op.inputs()]


class Network:
    """A graph as a :class:`hasten.model.target.Network`; compiled at the first call of each batch size.

    ``graph()`` reads it, at most once, and not at all where another graph is made of it and is there already; ``made``
    says how it was made.
    """

    def __init__(
        self, graph: Callable[[], Any], precision: str, streams: int, made: str = "", counters: bool = False
    ) -> None:
        self._read, self.precision, self.streams, self.made, self.counters = graph, precision, streams, made, counters
        self._requests: dict[int, list[Any]] = {}

    @cached_property
    def graph(self) -> Any:
        """The graph."""
        return self._read()

    def request(self, size: int) -> Any:
        """The first request of a batch size that was called before: where the engine keeps its counters."""
        return self._requests[size][0]

    def __call__(self, x: torch.Tensor, time: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        """Split the batch over the streams, run the parts at once, join them."""
        inputs = [part.contiguous().numpy() for part in (x, time, labels) if part is not None]
        parts = self.streams if len(x) % self.streams == 0 else 1
        size = len(x) // parts
        requests = self._compiled(size, parts)
        for i, request in enumerate(requests):
            feed = {n: array[i * size : (i + 1) * size] for n, array in enumerate(inputs)}
            request.start_async(feed, share_inputs=True)
        for request in requests:
            request.wait()
        output = np.concatenate([request.get_output_tensor(0).data for request in requests])
        return torch.from_numpy(output)

    def _compiled(self, size: int, parts: int) -> list[Any]:
        if size not in self._requests:
            graph = self.graph.clone()
            graph.reshape({port: ov.PartialShape([size, *list(port.partial_shape)[1:]]) for port in graph.inputs})
            settings = {
                "INFERENCE_PRECISION_HINT": INFERENCE_TYPES[self.precision],
                "INFERENCE_NUM_THREADS": cores(),
                "NUM_STREAMS": parts,
                # else inputs of products with weights in few bits are rounded too, unasked; AVX2 has no kernels of it
                "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
                "PERF_COUNT": self.counters,
            }
            compiled = core.compile_model(graph, "CPU", settings)
            self._requests[size] = [compiled.create_infer_request() for _ in range(parts)]
        return self._requests[size]


def profile(network: Network, x: torch.Tensor, labels: torch.Tensor | None) -> dict[str, tuple[int, float]]:
    """Calls and seconds by kind of operation of one evaluation of ``x``, on one stream, as the engine counts them."""
    counted = Network(lambda: network.graph, network.precision, streams=1, counters=True)
    time = torch.full((len(x),), 0.5)
    counted(x, time, labels)
    counted(x, time, labels)
    kinds: dict[str, tuple[int, float]] = {}
    for info in counted.request(len(x)).profiling_info:
        calls, seconds = kinds.get(info.node_type, (0, 0.0))
        if info.real_time.total_seconds() > 0:
            kinds[info.node_type] = (calls + 1, seconds + info.real_time.total_seconds())
    return kinds
