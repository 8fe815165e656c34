"""The teacher's part of the loss by hand, what does not go together, and that a resumed run has the same maps."""

import copy

import pytest
import torch
from safetensors.torch import load_file

from hasten.data import loader
from hasten.diffusion import schedule
from hasten.errors import BadInput
from hasten.model import source as sources
from hasten.train import inputs, loop, network, recipe, training
from hasten.train.losses.objective import Objective
from hasten.train.losses.teacher import Teacher


class Small(torch.nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = torch.nn.Conv2d(1, width, 3, padding=1), torch.nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x: torch.Tensor, _time: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh(self.first(x)))


def source(width: int, seed: int, **changes) -> sources.Source:
    torch.manual_seed(seed)
    options = {"schedule": schedule.cosine(), "prediction": "v_prediction", "shape": (1, 8, 8), **changes}
    return sources.load(Small(width), **options)


def part(student: sources.Source):
    rng = torch.Generator().manual_seed(0)
    return Objective(student.schedule, student.prediction).draw(torch.randn(6, 1, 8, 8, generator=rng), None, rng)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_share_of_the_teacher(share: float) -> None:
    student, theirs = source(4, 0), source(8, 1)
    network, teacher_module, examples = student.module(), theirs.module(), part(student)
    output = network(examples.x, examples.time)
    errors = examples.errors(output)
    found = Teacher(theirs, student, network, share).errors(examples, output, errors)
    other = (output - teacher_module(examples.x, examples.time)).square().mean(dim=(1, 2, 3))
    assert torch.allclose(found, (1 - share) * errors + share * other, rtol=1e-5)


def test_features_of_one_width_by_hand_and_of_two_through_a_map() -> None:
    student, examples = source(4, 0), None
    for width in (4, 8):
        theirs, network = source(width, 1), student.module()
        examples = part(student)
        taught = Teacher(theirs, student, network, 0.0, 2.0, ["first"])
        output = network(examples.x, examples.time)
        errors = examples.errors(output)
        extra = taught.errors(examples, output, errors) - errors
        ours, wanted = network.first(examples.x), theirs.module().first(examples.x)
        if width == 8:
            assert [tuple(p.shape) for p in taught.parameters()] == [(8, 4)]
            ours = torch.einsum("nchw,dc->ndhw", ours, next(taught.parameters()))
        else:
            assert not list(taught.parameters())
        by_hand = 2.0 * (ours - wanted).square().mean(dim=(1, 2, 3)) / wanted.square().mean()
        assert torch.allclose(extra, by_hand, rtol=1e-4, atol=1e-6)
        extra.mean().backward()
        assert network.first.weight.grad is not None
        assert all(parameter.grad is not None for parameter in taught.parameters())


def test_a_teacher_that_is_its_own_student_adds_nothing() -> None:
    student = source(4, 0)
    network, examples = student.module(), part(student)
    taught = Teacher(student, student, network, 1.0, 1.0, ["first"])
    output = network(examples.x, examples.time)
    assert taught.errors(examples, output, examples.errors(output)).abs().max() == 0.0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schedule": schedule.linear()}, "its schedule is another; use a teacher with the same"),
        ({"prediction": "epsilon"}, "its prediction is 'epsilon', the student's 'v_prediction'"),
        ({"shape": (1, 16, 16)}, r"its shape is \(1, 16, 16\), the student's \(1, 8, 8\)"),
    ],
)
def test_a_teacher_that_answers_otherwise(changes: dict, words: str) -> None:
    student = source(4, 0)
    with pytest.raises(BadInput, match=words):
        Teacher(source(8, 1, **changes), student, student.module(), 0.5)


def test_a_feature_that_is_not_there() -> None:
    student = source(4, 0)
    with pytest.raises(BadInput, match=r"teacher.features: the student has no module 'frist'; did you mean 'first'"):
        Teacher(source(8, 1), student, student.module(), 0.5, 1.0, ["frist"])


def taught_recipe(tiny_folder):
    values = {
        "data": {"name": "digits", "size": 8},
        "model": {"block_out_channels": [8, 16], "attention_levels": [1], "attention_head_dim": 8},
        "teacher": {"folder": str(tiny_folder), "share": 0.5, "feature_weight": 0.1, "features": ["mid_block"]},
        "train": {"steps": 6, "batch_size": 8, "warmup_steps": 1, "checkpoint_every": 3, "sample_every": 100},
    }
    return recipe.check(values, "", "test")


@pytest.mark.parametrize("changes", [{}, {"features": [], "feature_weight": 0.0, "cached": 2}])
def test_a_run_with_a_teacher_resumes_to_the_bit(tiny_folder, tmp_path, changes) -> None:
    """The teacher's labels must be the data's: digits know ten and no null label, so that a fresh student can't have
    it; a student that is the teacher's copy can."""
    values = taught_recipe(tiny_folder).model_dump(exclude_defaults=True)
    values["model"] = {"folder": str(tiny_folder)}
    values["teacher"] |= changes
    read = recipe.check(values, "", "test")
    loop.train(read, tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "checkpoint-0000003.safetensors").write_bytes(
        (tmp_path / "a" / "checkpoint-0000003.safetensors").read_bytes()
    )
    loop.train(read, tmp_path / "b", resume=True)
    ours, theirs = (load_file(tmp_path / run / "checkpoint-0000006.safetensors") for run in "ab")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_kept_answers_are_the_teachers_own_and_asked_for_once(tiny_folder, monkeypatch) -> None:
    values = taught_recipe(tiny_folder).model_dump(exclude_defaults=True)
    values["model"] = {"folder": str(tiny_folder)}
    values["train"] |= {"accumulate": 2}
    values["teacher"] = {"folder": str(tiny_folder)}
    fresh, kept = (
        prepared(recipe.check({**values, "teacher": {**values["teacher"], **more}}, "", "test"))
        for more in ({}, {"cached": 2})
    )
    (plain, once), (run, again) = fresh, kept
    assert [again.batch(number).content for number in range(5)] == [0, 1, 0, 1, 0]
    assert torch.equal(again.batch(2).samples, again.batch(0).samples)
    assert not torch.equal(once.batch(2).samples, once.batch(0).samples)
    asked = []
    monkeypatch.setattr(run.teacher, "call", lambda *given, call=run.teacher.call: asked.append(1) or call(*given))
    found = [run.examples(again.batch(number)) for number in (1, 3, 1)]
    assert len(asked) == 2  # micro-batches of one batch
    assert torch.equal(found[0].x, found[1].x)
    for ours, theirs in zip(found[1].parts(2), plain.examples(once.batch(1)).parts(2), strict=True):
        assert theirs.taught is None
        assert torch.allclose(run.losses(ours)[0], plain.losses(theirs)[0], rtol=1e-3)
    assert len(asked) == 2


def test_answers_that_have_no_room(tiny_folder, monkeypatch) -> None:
    values = taught_recipe(tiny_folder).model_dump(exclude_defaults=True)
    values["model"], values["train"]["steps"] = {"folder": str(tiny_folder)}, 100
    values["teacher"] = {"folder": str(tiny_folder), "cached": 64}
    monkeypatch.setattr(training.recompute, "available_bytes", lambda _device: 2**15)
    with pytest.raises(BadInput, match=r"teacher.cached = 64 keeps .+ of answers and .+ are free; lower it"):
        prepared(recipe.check(values, "", "test"))


def prepared(read: recipe.Recipe) -> tuple[training.Training, loader.Loader]:
    data, _ = inputs.dataset(read)
    return training.prepare(read, data, None, network.source_of(read, data), {}), inputs.loader(read, data)


@pytest.mark.parametrize(
    ("teacher", "train", "words"),
    [
        ({"features": []}, {}, "teacher.features and teacher.feature_weight belong together"),
        ({}, {"weighting": "learned"}, "train.weighting = 'learned' follows the data's errors alone"),
        ({"cached": 5}, {}, "teacher.cached keeps answers alone; drop it, or teacher.features"),
        ({}, {"compile": True}, "train.compile loses the features"),
        ({"share": 2.0}, {}, "teacher.share = 2.0: .*allowed: >= 0, <= 1"),
        ({"sahre": 1.0}, {}, "teacher.sahre is not known; did you mean 'share'"),
    ],
)
def test_what_does_not_go_with_a_teacher(tiny_folder, teacher: dict, train: dict, words: str) -> None:
    values = copy.deepcopy(taught_recipe(tiny_folder).model_dump(exclude_defaults=True))
    values["teacher"] |= teacher
    values["train"] |= train
    with pytest.raises(BadInput, match=words):
        recipe.check(values, "", "test")
