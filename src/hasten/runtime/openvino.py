"""OpenVINO as an engine: convert a torch module once, run it at static shapes, quantise its graph with NNCF.

A batch may be split over streams: each part runs on its own cores, which on few cores beats one part on all of them.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hasten.environment import quiet
from hasten.errors import MissingExtra
from hasten.model.target import Call

quiet()

try:
    import openvino as ov
except ImportError as error:  # pragma: no cover - a core dependency
    raise MissingExtra("openvino", "openvino") from error

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
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        graph = ov.convert_model(_Wrapped(module, call).eval(), example_input=tuple(example), input=shapes)
    for port, name in zip(graph.inputs, ("x", "time", "labels"), strict=False):
        port.get_tensor().set_names({name})
    return graph


def save(graph: Any, path: Path) -> None:
    """Write ``path`` (.xml) and its weights beside it (.bin), uncompressed."""
    ov.save_model(graph, path, compress_to_fp16=False)


def read(path: Path) -> Any:
    """The graph in ``path`` (.xml)."""
    return core.read_model(path)


def quantize(
    graph: Any, states: Sequence[tuple[torch.Tensor, ...]], keep_float: Iterable[str], bias_correction: bool
) -> Any:
    """``graph`` in INT8 by NNCF's mixed preset, ranges from ``states``; ops of the types ``keep_float`` stay float."""
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters

    nncf.set_log_level("ERROR")
    names = ("x", "time", "labels")

    def as_inputs(state: tuple[torch.Tensor, ...]) -> dict[str, Any]:
        return {name: part.numpy() for name, part in zip(names, state, strict=False)}

    return nncf.quantize(
        graph.clone(),
        nncf.Dataset(list(states), as_inputs),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(states),
        ignored_scope=nncf.IgnoredScope(types=list(keep_float), validate=False),
        advanced_parameters=AdvancedQuantizationParameters(disable_bias_correction=not bias_correction),
    )


class Network:
    """A graph as a :class:`hasten.model.target.Network`; compiled at the first call of each batch size."""

    def __init__(self, graph: Any, precision: str, streams: int, counters: bool = False) -> None:
        self.graph, self.precision, self.streams, self.counters = graph, precision, streams, counters
        self._requests: dict[int, list[Any]] = {}

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
                "PERF_COUNT": self.counters,
            }
            compiled = core.compile_model(graph, "CPU", settings)
            self._requests[size] = [compiled.create_infer_request() for _ in range(parts)]
        return self._requests[size]


def profile(network: Network, x: torch.Tensor, labels: torch.Tensor | None) -> dict[str, tuple[int, float]]:
    """Calls and seconds by kind of operation of one evaluation of ``x``, on one stream, as the engine counts them."""
    counted = Network(network.graph, network.precision, streams=1, counters=True)
    time = torch.full((len(x),), 0.5)
    counted(x, time, labels)
    counted(x, time, labels)
    kinds: dict[str, tuple[int, float]] = {}
    for info in counted.request(len(x)).profiling_info:
        calls, seconds = kinds.get(info.node_type, (0, 0.0))
        if info.real_time.total_seconds() > 0:
            kinds[info.node_type] = (calls + 1, seconds + info.real_time.total_seconds())
    return kinds
