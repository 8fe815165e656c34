"""Where a network's time goes, by kind of module, and a sample's, by evaluation.

Hooks on the leaf modules, and on attention modules, cut an evaluation into stretches; each stretch is charged to the
innermost hooked module, so what an attention module does itself (scores, softmax, weighted sum) is the row "attention"
and its projections are Linear.  What no hooked module accounts for (additions, concatenations, upsampling, Python) is
the row "other (outside leaf modules)": the time of evaluations without hooks, less the other rows.

FLOPs (a multiplication and an addition are two) and bytes are counted at the level of aten operators in two more
evaluations, so they are exact for what PyTorch ran: FLOPs of matrix products, convolutions and attention, as
``torch.utils.flop_counter`` has them; bytes of each operator's inputs, weights and outputs, views being free.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from hasten.errors import HastenError
from hasten.measure.clock import Clock, settled
from hasten.measure.roofline import Peaks, bound_seconds

OTHER = "other (outside leaf modules)"


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


# PyTorch itself counts attention's FLOPs in CUDA's kernels only.
_ATTENTION_ON_CPU = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}


@dataclass(frozen=True)
class Row:
    """One kind of module: calls, exclusive seconds, FLOPs and bytes per network evaluation; ``share`` of all seconds.

    ``bound_seconds`` is the least that the machine's peaks allow, None when they weren't given.
    """

    name: str
    calls: float
    seconds: float
    share: float
    flops: float
    bytes: float
    bound_seconds: float | None


@dataclass(frozen=True)
class Steps:
    """One sample: ``seconds`` in all, of each network evaluation in turn, and outside of the network."""

    seconds: float
    network_seconds: tuple[float, ...]
    outside_seconds: float


class Steppable(Protocol):
    """A sampler that asks its ``network``, whatever engine that is (:class:`hasten.model.target.Target`)."""

    network: Any

    def sample(self, case: Any) -> torch.Tensor: ...


def profile(
    network_call: Callable[[], object],
    module: torch.nn.Module,
    repeats: int = 5,
    peaks: Peaks | None = None,
    clock: Clock | None = None,
) -> tuple[Row, ...]:
    """Rows by kind of module, the costliest first; their seconds add up to those of an evaluation without hooks.

    ``network_call()`` runs ``module`` eagerly, once or several times; seconds are medians over ``repeats`` calls, and
    one call before them warms up.  Raises HastenError when the call never reaches the module.
    """
    clock = clock or Clock(_device(module))
    network_call()
    wholes, taken = [], []
    with settled():
        for _ in range(repeats):
            wholes.append(clock.time(network_call)[0])
            spans = _Spans(module, _mark(clock))
            with spans.hooked():
                clock.time(network_call)
            taken.append(spans.total(_elapsed))
    if not spans.evaluations:
        raise HastenError("the call to profile never reached the module: is it compiled, or is it another one?")
    work = _work(network_call, module)
    seconds = {kind: float(np.median([one[kind] for one in taken])) for kind in spans.calls}
    whole = float(np.median(wholes))
    seconds[OTHER] = max(whole - sum(seconds.values()), 0.0)
    rows = []
    for kind, exclusive in seconds.items():
        flops, moved = (work[kind] / spans.evaluations).tolist()
        rows.append(
            Row(
                kind,
                spans.calls[kind] / spans.evaluations,
                exclusive / spans.evaluations,
                exclusive / whole,
                flops,
                moved,
                bound_seconds(flops, moved, peaks) if peaks else None,
            )
        )
    return tuple(sorted(rows, key=lambda row: -row.seconds))


def profile_steps(target: Steppable, case: Any, clock: Clock | None = None) -> Steps:
    """Seconds within the network, evaluation by evaluation, and outside it, while ``target`` makes one sample.

    One sample before warms up.  The target is left as it was.
    """
    clock = clock or Clock("cuda" if torch.cuda.is_available() else "cpu")
    mark, marks, network = _mark(clock), [], target.network

    def marked(*inputs: Any) -> Any:
        start = mark()
        output = network(*inputs)
        marks.append((start, mark()))
        return output

    target.sample(case)
    target.network = marked
    try:
        with settled():
            seconds, _ = clock.time(lambda: target.sample(case))
    finally:
        target.network = network
    inside = tuple(_elapsed(start, end) for start, end in marks)
    return Steps(seconds, inside, seconds - sum(inside))


class _Spans:
    """Cuts a call into stretches between marks, each charged to the innermost hooked module's kind.

    What the hooks themselves cost lies between two marks of one hook, and is charged to nobody.
    """

    def __init__(self, module: torch.nn.Module, mark: Callable[[], Any]) -> None:
        self.module, self.mark = module, mark
        self.calls: Counter[str] = Counter()
        self.evaluations = 0
        self._open = [OTHER]
        self._spans: list[tuple[str, Any, Any]] = []

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Hooks on while the block runs."""
        handles = [self.module.register_forward_pre_hook(self._evaluated)]
        for part in self.module.modules():
            if _is_attention(part) or not any(True for _ in part.children()):
                handles += [
                    part.register_forward_pre_hook(self._enter(_kind(part))),
                    part.register_forward_hook(self._leave),
                ]
        try:
            self._last = self.mark()
            yield
            self._spans.append((self._open[-1], self._last, self.mark()))
        finally:
            for handle in handles:
                handle.remove()

    def total(self, difference: Callable[[Any, Any], Any]) -> dict[str, Any]:
        """By kind, the sum of ``difference(start, end)`` over its stretches."""
        sums: dict[str, Any] = defaultdict(float)
        for kind, start, end in self._spans:
            sums[kind] = sums[kind] + difference(start, end)
        return sums

    def _evaluated(self, *_: Any) -> None:
        self.evaluations += 1

    def _enter(self, kind: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            self._spans.append((self._open[-1], self._last, self.mark()))
            self._open.append(kind)
            self.calls[kind] += 1
            self._last = self.mark()

        return hook

    def _leave(self, *_: Any) -> None:
        self._spans.append((self._open.pop(), self._last, self.mark()))
        self._last = self.mark()


class _Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of each operator's tensors, in and out; one that only makes a view moves none."""

    num_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        taken = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        known = {tensor.untyped_storage().data_ptr() for tensor in taken}
        if func._schema.is_mutable or any(tensor.untyped_storage().data_ptr() not in known for tensor in made):
            self.num_bytes += sum(tensor.numel() * tensor.element_size() for tensor in taken + made)
        return result


def _work(network_call: Callable[[], object], module: torch.nn.Module) -> dict[str, NDArray[np.float64]]:
    """FLOPs and bytes (2,) of one call, by kind: counted in a call each, as counting FLOPs splits operators up."""
    flops = FlopCounterMode(display=False, custom_mapping=_ATTENTION_ON_CPU)
    traffic = _Traffic()  # type: ignore[no-untyped-call]
    work: dict[str, NDArray[np.float64]] = defaultdict(lambda: np.zeros(2))
    for place, mode, amount in ((0, flops, flops.get_total_flops), (1, traffic, lambda: traffic.num_bytes)):
        spans = _Spans(module, amount)
        with mode, spans.hooked():
            network_call()
        for kind, total in spans.total(lambda start, end: end - start).items():
            work[kind][place] = total
    return work


def _mark(clock: Clock) -> Callable[[], Any]:
    """A moment: nanoseconds of the host, or a CUDA event, which costs the device no wait."""
    if clock.device.type != "cuda":
        return clock.read_ns

    def event() -> torch.cuda.Event:
        recorded = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        recorded.record()
        return recorded

    return event


def _elapsed(start: Any, end: Any) -> float:
    """Seconds between two marks whose work is done."""
    return (end - start) * 1e-9 if isinstance(start, int) else float(start.elapsed_time(end)) * 1e-3


def _is_attention(module: torch.nn.Module) -> bool:
    return type(module).__name__.endswith("Attention")


def _kind(module: torch.nn.Module) -> str:
    if _is_attention(module):
        return "attention"
    name = type(module).__name__
    kernel = getattr(module, "kernel_size", None)
    return f"{name} {'x'.join(map(str, kernel))}" if isinstance(kernel, tuple) else name


def _device(module: torch.nn.Module) -> torch.device:
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
