"""A teacher: a frozen network whose answers, and whose features if asked for, the trained one learns too.

With share ``a`` of the teacher the error of a sample is ``(1 - a) |f - wanted|^2 + a |f - f_teacher|^2``, both mean
squares and weighted alike (Hinton et al. 2015, arXiv:1503.02531); features of the same modules of both networks add
``w |P h - h_teacher|^2 / |h_teacher|^2``, where ``P`` maps channels where their numbers differ and is learnt along
(Romero et al. 2015, arXiv:1412.6550; for U-Nets Kim et al. 2023, BK-SDM, arXiv:2305.15798, eq. 3 and 4).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch

from hasten.errors import BadInput, did_you_mean
from hasten.model.source import Source
from hasten.seeds import Purpose, seed_of
from hasten.train.losses.objective import Examples


class Teacher(torch.nn.Module):
    """What is learnt along (``parameters``) are the maps of the features; the teacher itself is kept out of that, and
    asked in ``context()``.

    Raises BadInput where the two networks are not asked and do not answer alike, and for features that they have not
    both.
    """

    def __init__(
        self,
        source: Source,
        student: Source,
        network: torch.nn.Module,
        share: float,
        feature_weight: float = 0.0,
        features: Sequence[str] = (),
        keep_answers: bool = False,
        context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        super().__init__()
        for what in ("shape", "schedule", "prediction", "sigma_data", "num_labels", "null_label"):
            ours, theirs = getattr(student, what), getattr(source, what)
            if ours != theirs:
                said = "is another" if what == "schedule" else f"is {theirs!r}, the student's {ours!r}"
                name = what.replace("_", " ")
                raise BadInput(f"teacher {source.name}: its {name} {said}; use a teacher with the same")
        self.share, self.feature_weight, self.call = share, feature_weight, source.call
        self.context = context
        self.answers: dict[int, torch.Tensor] | None = {} if keep_answers else None
        self.module: list[torch.nn.Module] = [source.module().to(student.device).eval().requires_grad_(False)]
        self.seen: dict[str, dict[str, torch.Tensor]] = {"student": {}, "teacher": {}}
        self.maps = torch.nn.ModuleDict()
        self.features = tuple(features) if feature_weight else ()
        for side, module in (("student", network), ("teacher", self.module[0])):
            parts = dict(module.named_modules())
            for name in self.features:
                if name not in parts:
                    raise BadInput(f"teacher.features: the {side} has no module {name!r}{did_you_mean(name, parts)}")
                parts[name].register_forward_hook(self._keep(side, name))
        if self.features:
            self._make_maps(student, network)

    def _keep(self, side: str, name: str) -> Any:
        def hook(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:
            self.seen[side][name] = output[0] if isinstance(output, tuple) else output

        return hook

    @torch.no_grad()
    def _make_maps(self, student: Source, network: torch.nn.Module) -> None:
        """One linear map a feature, by what both networks give for one sample."""
        x, time = torch.zeros((2, *student.shape), device=student.device), torch.full((2,), 0.5, device=student.device)
        labels = None if student.num_labels is None else torch.zeros(2, dtype=torch.int64, device=student.device)
        training = network.training
        student.call(network.eval(), x, time, labels)
        network.train(training)
        self.call(self.module[0], x, time, labels)
        for name in self.features:
            ours, theirs = (self.seen[side][name].shape for side in ("student", "teacher"))
            if ours[2:] != theirs[2:] or len(ours) < 2:
                raise BadInput(
                    f"teacher.features: {name} is {tuple(ours)} in the student, {tuple(theirs)} in the teacher; drop it"
                )
            if ours[1] != theirs[1]:
                made = torch.nn.Linear(ours[1], theirs[1], bias=False).to(student.device)
                rng = torch.Generator().manual_seed(seed_of(Purpose.TRIAL))
                made.weight.copy_(torch.randn(made.weight.shape, generator=rng) / ours[1] ** 0.5)
                self.maps[name.replace(".", "-")] = made

    def taught(self, examples: Examples, content: int, parts: int) -> Examples:
        """``examples`` with the answers to them, where those are kept: on the host in float16, by ``content``,
        computed in ``parts`` micro-batches when they are first asked for."""
        if self.answers is None:
            return examples
        if content not in self.answers:
            self.answers[content] = torch.cat([self._ask(part) for part in examples.parts(parts)]).half().cpu()
        return replace(examples, taught=self.answers[content].to(examples.x.device).float())

    @torch.no_grad()
    def _ask(self, part: Examples) -> torch.Tensor:
        with self.context():
            return self.call(self.module[0], part.x, part.time, part.labels).float()

    def errors(self, part: Examples, output: torch.Tensor, errors: torch.Tensor) -> torch.Tensor:
        """What to learn from (n,): the student's ``output`` (n, *shape) and its ``errors`` (n,), and the teacher's."""
        wanted = self._ask(part) if part.taught is None else part.taught
        error = (output.float() - wanted).square().flatten(1).mean(1) * part.weights
        total = (1.0 - self.share) * errors + self.share * error
        for name in self.features:
            ours, theirs = (self.seen[side].pop(name).float() for side in ("student", "teacher"))
            key = name.replace(".", "-")
            if key in self.maps:
                ours = self.maps[key](ours.movedim(1, -1)).movedim(-1, 1)
            off = (ours - theirs).square().flatten(1).mean(1) / theirs.square().mean().clamp_min(1e-12)
            total = total + self.feature_weight / len(self.features) * off
        return total
