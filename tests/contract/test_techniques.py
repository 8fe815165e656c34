"""What every technique must keep: its TOML round trip, refusals in sentences, and the effects that it declares."""

from __future__ import annotations

import dataclasses
import itertools
import math
import shutil
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file

from hasten import artifact, verification
from hasten.diffusion import schedule
from hasten.errors import BadInput, HastenError
from hasten.model import source as sources
from hasten.model.source import Source
from hasten.model.target import TORCH_PROPERTIES, Facts, Target, TorchNetwork
from hasten.model.workload import draw
from hasten.technique import plan as plans
from hasten.technique.compile import Compile
from hasten.technique.contract import Effects, Fidelity, Prepared, Stage, Technique
from hasten.technique.int8_linear import Int8Linear
from hasten.technique.layout import Layout
from hasten.technique.plan import TECHNIQUES, Plan
from hasten.technique.precision import Precision
from hasten.technique.quantize import Quantize
from hasten.technique.runtime import Runtime
from hasten.technique.sampler import Sampler
from hasten.technique.swap import Swap
from hasten.technique.upsampling import Upsampling
from hasten.technique.weights import Weights

# What must be there before a technique can be: the plans that each is tried in.
PLANS = {
    "sampler": Plan((Sampler("dpmpp_2m", 10, "uniform"),)),
    "upsampling": Plan((Upsampling(),)),
    "layout": Plan((Layout(),)),
    "precision": Plan((Precision(),)),
    "int8_linear": Plan((Int8Linear("static", images=4),)),
    "compile": Plan((Compile(),)),
    "runtime": Plan((Runtime("float32", 1),)),
    "quantize": Plan((Runtime("float32", 1), Quantize(images=4))),
    "weights": Plan((Runtime("float32", 1), Weights(4, 8))),
}
NAMES = {*PLANS, "swap"}
PROBE = Sampler("ddim", 10, "uniform")


def plan_of(name: str, source: Source) -> Plan:
    """The plan that a technique is tried in."""
    return Plan((Swap(str(source.folder)),)) if name == "swap" else PLANS[name]


@pytest.fixture(scope="module")
def source(tiny_folder: Path) -> Source:
    return sources.load(tiny_folder)


@pytest.fixture(scope="module")
def shallow(shallow_folder: Path) -> Source:
    return sources.load(shallow_folder)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HASTEN_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def needs_other_machine(plan: Plan, facts: Facts) -> bool:
    """Whether this processor can't take the plan (bf16 on one without its kernels): a refusal is then right."""
    return "this CPU" in (plan.refusal(facts) or "")


@pytest.fixture
def name(request: pytest.FixtureRequest, source: Source) -> str:
    """The name of a technique, where this machine can take its plan."""
    plan = plan_of(request.param, source)
    if needs_other_machine(plan, source.build().facts):
        pytest.skip(f"{plan.refusal(source.build().facts)}")
    return str(request.param)


def sqnr_db(reference: torch.Tensor, other: torch.Tensor) -> float:
    noise = (reference - other).square().mean().item()
    return math.inf if noise == 0 else 10 * math.log10(reference.square().mean().item() / noise)


def test_every_technique_is_tried() -> None:
    assert {t.name for t in TECHNIQUES} == NAMES


@pytest.mark.parametrize("kind", TECHNIQUES, ids=lambda kind: kind.name)
def test_round_trip_of_every_choice(kind: type[Technique], source: Source) -> None:
    facts = source.build().facts
    choices = (Swap(str(source.folder)),) if kind is Swap else kind.choices(facts)
    assert choices
    for choice in choices:
        plan = Plan((choice,))
        assert plans.parse(plan.to_toml()) == plan
        assert choice.label
        assert choice.refuse(facts) is None or needs_other_machine(plan, facts)


@pytest.mark.parametrize("kind", TECHNIQUES, ids=lambda kind: kind.name)
def test_what_it_rests_on_fits_a_terminal(kind: type[Technique]) -> None:
    assert 0 < len(kind.rests_on()) <= 67
    assert "\n" not in kind.rests_on()


@pytest.mark.parametrize("name", sorted(NAMES), indirect=True)
def test_fidelity_is_as_declared(name: str, source: Source) -> None:
    """Samples agree to what its answers must agree to."""
    plan = plan_of(name, source)
    technique = plan.find(name)
    assert technique is not None
    case = draw(source.shape, 1, 4, seed=3, labels=source.labels).cases[0]
    base = plans.build(source, Plan((PROBE,))).sample(case)
    changed = plans.build(source, plan if name == "sampler" else plan.plus(PROBE), batch=4).sample(case)
    assert changed.shape == base.shape
    assert sqnr_db(base, changed) >= technique.effects.fidelity.floor_db


@pytest.mark.parametrize("name", sorted(NAMES), indirect=True)
def test_properties_are_true_afterwards(name: str, source: Source) -> None:
    """What a technique breaks is gone, what it doesn't is there, as far as a target can show it."""
    plan = plan_of(name, source)
    target = plans.build(source, plan, batch=0)  # whose answers other tests ask for
    holds = set(TORCH_PROPERTIES)
    for technique in plan.techniques:
        holds = (holds - technique.effects.breaks) | technique.effects.gives
    if name != "compile":  # a compiled module is a torch module that other techniques must not touch
        assert ("torch_module" in holds) == isinstance(target.network, TorchNetwork)
    if target.module is not None and "float32" in holds:
        assert {p.dtype for p in target.module.parameters()} == {torch.float32}
    if target.module is not None and "exportable" in holds:
        from hasten.runtime import openvino

        openvino.convert(target.module, source.call, source.shape, source.num_labels is not None)


@pytest.mark.parametrize("name", sorted(NAMES), indirect=True)
def test_deterministic_as_declared(name: str, source: Source) -> None:
    case = draw(source.shape, 1, 2, seed=4, labels=source.labels).cases[0]
    plan = plan_of(name, source)
    if name == "compile":
        pytest.skip("compiled once already: test_fidelity_is_as_declared")
    first, second = (plans.build(source, plan).sample(case) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", ["quantize", "runtime", "weights"])
def test_what_has_just_been_prepared_runs_as_what_was_kept(name: str, source: Source, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HASTEN_CACHE", str(tmp_path))
    case = draw(source.shape, 1, 2, seed=4, labels=source.labels).cases[0]
    fresh, kept = (plans.build(source, PLANS[name].plus(PROBE)).sample(case) for _ in range(2))
    assert torch.equal(fresh, kept)
    if name != "runtime":
        plain = plans.build(source, PLANS["runtime"].plus(PROBE)).sample(case)
        assert sqnr_db(plain, fresh) < Fidelity.NUMERIC.floor_db


PAIRS = list(itertools.combinations(sorted(NAMES), 2))


@pytest.mark.parametrize(("one", "other"), PAIRS, ids=["+".join(pair) for pair in PAIRS])
def test_every_legal_pair_makes_the_same_samples(one: str, other: str, source: Source, shallow: Source) -> None:
    """Both at once, each applied, and calibrated, in the presence of the one before it; the rest are refused."""
    if "compile" in (one, other):
        source = shallow
    plan = plan_of(one, source).plus(*plan_of(other, source).techniques)
    reason = plan.refusal(source.build().facts)
    if reason is not None:
        assert reason.split(":")[0] in NAMES
        return
    case = draw(source.shape, 1, 4, seed=3, labels=source.labels).cases[0]
    probe = plan.find("sampler") or PROBE
    base = plans.build(source, Plan((probe,))).sample(case)
    changed = plans.build(source, plan.plus(probe), batch=4).sample(case)
    assert sqnr_db(base, changed) >= Fidelity.LOSSY.floor_db


def test_the_network_is_never_shared(source: Source) -> None:
    """No technique may reach the next candidate: the baseline is bit-equal after all of them."""
    case = draw(source.shape, 1, 2, seed=5, labels=source.labels).cases[0]
    before = source.build().sample(case)
    for name in ("layout", "precision", "int8_linear", "quantize"):
        if needs_other_machine(PLANS[name], source.build().facts):
            continue
        plans.build(source, PLANS[name]).sample(case)
    assert torch.equal(before, source.build().sample(case))


@pytest.mark.parametrize(
    ("techniques", "words"),
    [
        ((Quantize(),), "nothing in the plan gives it"),
        ((Precision(), Runtime()), "bf16 took it away"),
        ((Runtime(), Compile()), "OpenVINO float32"),
        ((Sampler(), Sampler("ddim", 9)), "already takes the slot 'sampler'"),
    ],
)
def test_refusals_are_sentences(techniques: tuple[Technique, ...], words: str, source: Source) -> None:
    reason = Plan(techniques).refusal(source.build().facts)
    assert reason is not None
    assert words in reason
    assert "\n" not in reason
    with pytest.raises(BadInput, match=techniques[-1].name):
        plans.build(source, Plan(techniques))


def test_refusal_does_not_depend_on_the_order_given(source: Source) -> None:
    facts = source.build().facts
    assert Plan((Quantize(), Runtime())).refusal(facts) is None
    assert Plan((Quantize(), Runtime())) == Plan((Runtime(), Quantize()))


def test_without_takes_along_what_can_not_stand() -> None:
    plan = Plan((Runtime(), Quantize(), Sampler()))
    left, removed = plan.without("runtime")
    assert [t.name for t in left.techniques] == ["sampler"]
    assert removed == ["runtime", "quantize"]
    assert plan.without("sampler")[1] == ["sampler"]


def test_layout_needs_pictures() -> None:
    facts = Facts((4, 16), 10, 40, "cpu", None, None, (("Linear", 2),))
    assert "channels, height, width" in str(Layout().refuse(facts))
    assert "no convolution or linear" in str(Quantize().refuse(dataclasses.replace(facts, kinds=())))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[[techniques]]\ntechnique = "sampla"', "did you mean 'sampler'"),
        ('[[techniques]]\ntechnique = "sampler"\nstep = 3', "did you mean 'steps'"),
        ('[[techniques]]\ntechnique = "sampler"\nsteps = "3"', "must be of type int"),
        ('[[techniques]]\ntechnique = "sampler"\nsteps = -5', "1 to 1000"),
        ('[[techniques]]\ntechnique = "sampler"\nsolver = "unipcc"', "did you mean 'unipc'"),
        ("techniques = 3", "list of tables"),
        ("techniques = [", "not TOML"),
    ],
)
def test_bad_plans_are_one_line(text: str, words: str) -> None:
    with pytest.raises(BadInput) as caught:
        plans.parse(text, "plan.toml")
    assert words in str(caught.value)
    assert "plan.toml" in str(caught.value) or "sampler." in str(caught.value)
    assert "\n" not in str(caught.value)


def copied(source: Source, folder: Path, scale: float = 1.0) -> Path:
    """The same model, maybe with other weights, somewhere else."""
    shutil.copytree(source.folder, folder)
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({name: value * scale for name, value in load_file(path).items()}, path, metadata={"format": "pt"})
    return folder


def test_a_swapped_network_answers_and_its_artifact_carries_it(source: Source, tmp_path: Path) -> None:
    student = copied(source, tmp_path / "student", 0.9)
    case = draw(source.shape, 1, 2, seed=4, labels=source.labels).cases[0]
    plan = Plan((Swap(str(student)), Runtime(), PROBE))
    assert plan.label == ["DDIM 10 steps", "OpenVINO float32", "student " + "/".join(student.parts[-2:])]
    theirs = plans.build(sources.load(student), Plan((Runtime(), PROBE))).sample(case)
    assert sqnr_db(theirs, plans.build(source, plan).sample(case)) > 100.0
    folder = artifact.save(tmp_path / "artifact", source, plan)
    shutil.rmtree(student)
    assert verification.verify(folder).problems == ()
    assert sqnr_db(theirs, artifact.load(folder)[0].sample(case)) > 100.0


def test_a_slim_artifact_samples_without_the_models_weights(source: Source, tmp_path: Path) -> None:
    plan = Plan((Runtime(), Weights(8), PROBE))
    whole = artifact.save(tmp_path / "whole", source, plan)
    slim = artifact.save(tmp_path / "slim", source, plan, slim=True)
    assert verification.verify(slim).problems == ()
    case = draw(source.shape, 1, 2, seed=4, labels=source.labels).cases[0]
    assert torch.equal(artifact.load(slim)[0].sample(case), artifact.load(whole)[0].sample(case))
    kept = {path.name for path in slim.rglob("*.safetensors")}
    assert kept == {"reference.safetensors", "answers.safetensors"}  # outputs, and no weights
    # the float graph that it was made of is not there
    (graph,) = (path for path in (slim / "prepared").iterdir() if not path.name.startswith("answers"))
    assert sum(path.stat().st_size for path in graph.glob("*.bin")) < 0.3 * source.build().facts.weight_bytes
    with pytest.raises(BadInput, match="needs 'one_stream', and nothing in the plan gives it"):
        plans.build(source, Plan((Runtime(streams=2), Weights())))
    with pytest.raises(BadInput, match="this plan runs them"):
        artifact.save(tmp_path / "no", source, Plan((Layout(), PROBE)), slim=True)


def test_a_network_that_can_not_take_the_place(source: Source, other_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="has another schedule than the model; drop swap"):
        plans.build(source, Plan((Swap(str(other_folder)),)))
    student = copied(source, tmp_path / "student", 0.7)  # such weights were never prepared
    swap = Swap(str(student))
    shutil.rmtree(student)
    copied(source, student, 0.5)
    with pytest.raises(BadInput, match="has other weights than the plan names"):
        plans.build(source, Plan((swap,)))
    with pytest.raises(BadInput, match="does not exist"):
        Swap(str(tmp_path / "nowhere"))


@dataclasses.dataclass(frozen=True)
class Liar:
    """Says EXACT and is not: the contract test must reject it."""

    name: ClassVar[str] = "liar"
    effects: ClassVar[Effects] = Effects(Stage.PRECISION, Fidelity.EXACT, scope="all modules")
    label: str = "liar"

    @classmethod
    def rests_on(cls) -> str:
        return "nothing"

    def refuse(self, facts: Facts) -> str | None:
        return None

    @classmethod
    def choices(cls, facts: Facts) -> tuple[Liar, ...]:
        return (cls(),)

    def apply_(self, target: Target, prepared: Prepared) -> None:
        assert target.module is not None
        with torch.no_grad():
            next(target.module.parameters()).mul_(1.001)


def test_a_liar_is_found_out(source: Source) -> None:
    case = draw(source.shape, 1, 2, seed=5, labels=source.labels).cases[0]
    base = plans.build(source, Plan((PROBE,))).sample(case)
    changed = plans.build(source, Plan((Liar(), PROBE)), batch=0).sample(case)
    assert sqnr_db(base, changed) < Fidelity.EXACT.floor_db
    with pytest.raises(
        HastenError, match=r"liar: answers differ from the network's: \d+\.\d dB at t=.*at least 150 are"
    ):
        plans.build(source, Plan((Liar(), PROBE)))


def test_an_own_module_of_another_shape(tmp_path: Path) -> None:
    """A module that is no picture model: sampled, converted and quantised alike."""

    class Denoiser(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.Sequential(torch.nn.Linear(13, 64), torch.nn.SiLU(), torch.nn.Linear(64, 12))

        def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
            flat = torch.cat([x.flatten(1), time[:, None]], dim=1)
            return self.layers(flat).reshape(x.shape)

    torch.manual_seed(0)
    own = sources.load(Denoiser(), schedule=schedule.edm(), prediction="edm", shape=(4, 3))
    case = draw(own.shape, 1, 4, seed=1).cases[0]
    base = plans.build(own, Plan((PROBE,))).sample(case)
    fast = plans.build(own, Plan((Runtime("float32", 1), PROBE))).sample(case)
    assert base.shape == (4, 4, 3)
    assert sqnr_db(base, fast) > 80.0
    assert "channels last" in str(Plan((Layout(),)).refusal(own.build().facts))
