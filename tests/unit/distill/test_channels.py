"""Pruned networks: the whole is the same, halves are what was computed with zeros, plain diffusers loads them."""

import pytest
import torch
from diffusers import UNet2DModel

from hasten.distill.channels import Streams, Taylor, magnitude, pruned, smaller
from hasten.errors import BadInput
from hasten.model import bundled
from hasten.model import source as sources

TIMES = torch.linspace(0.0, 999.0, 500)


def network(**changes) -> UNet2DModel:
    torch.manual_seed(0)
    config = {
        "sample_size": 16, "in_channels": 3, "out_channels": 3, "layers_per_block": 2,
        "block_out_channels": (16, 32, 32),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        "norm_num_groups": 4, "attention_head_dim": 8, "num_class_embeds": 5,
    }  # fmt: skip
    made = UNet2DModel(**{**config, **changes})
    with torch.no_grad():
        for value in made.parameters():
            value.copy_(torch.randn(value.shape) * 0.1 + (value == 1.0) * 1.0)
    return made.eval()


def ask(module: UNet2DModel) -> torch.Tensor:
    rng = torch.Generator().manual_seed(1)
    x, times, labels = torch.randn(2, 3, 16, 16, generator=rng), torch.tensor([30.0, 700.0]), torch.tensor([1, 4])
    with torch.no_grad():
        return module(x, times, labels if module.config["num_class_embeds"] else None).sample


VARIANTS = [
    {},
    {"layers_per_block": 1, "num_class_embeds": None},
    {"add_attention": False},
    {"attention_head_dim": None},
    {"mid_block_type": None},
    {"block_out_channels": (16, 16, 16), "norm_num_groups": 8},
    {"downsample_type": "resnet"},
    {"upsample_type": "resnet"},
]


@pytest.mark.parametrize("changes", VARIANTS)
def test_every_tensor_is_in_its_streams_and_the_whole_is_the_same(changes: dict) -> None:
    teacher = network(**changes)
    same = pruned(teacher, smaller(dict(teacher.config), 1.0), magnitude(teacher), TIMES)
    assert torch.equal(ask(same), ask(teacher))
    free = {name for name, _ in teacher.named_parameters()} - {use.name for use in Streams(teacher).uses}
    assert all(name.startswith(("time_embedding", "class_embedding", "conv_out.bias")) for name in free)


def wider(student: UNet2DModel) -> UNet2DModel:
    """A network that answers as ``student`` with every channel and head twice, the second of which nothing reads."""
    config = {key: value for key, value in student.config.items() if not key.startswith("_")}
    widths = [2 * width for width in config["block_out_channels"]]
    time = student.time_embedding.linear_1.out_features
    made = UNet2DModel(**{**config, "block_out_channels": widths, "time_embedding_dim": time})
    streams = Streams(student)
    tensors = {name: value.detach().clone() for name, value in student.named_parameters()}
    for use in streams.uses:
        offset, index, second = 0, [], []
        for each in use.streams:
            own = torch.arange(streams.widths[each])
            heads = own.reshape(streams.heads[each] or len(own), -1)
            index.append(heads.repeat_interleave(2, dim=0).flatten() + offset)
            second.append((torch.arange(2 * len(heads)) % 2).repeat_interleave(heads.shape[1]))
            offset += streams.widths[each]
        tensors[use.name] = tensors[use.name].index_select(use.dim, torch.cat(index))
        if use.dim == 1:
            tensors[use.name][:, torch.cat(second) == 1] = 0.0
    tensors["time_embedding.linear_1.weight"] = torch.zeros(time, widths[0])  # other sinusoids: see below
    made.load_state_dict(tensors)
    return made.eval()


@pytest.mark.parametrize("changes", [each for each in VARIANTS if "attention_head_dim" not in each])
def test_what_nothing_reads_goes_and_the_answers_stay(changes: dict) -> None:
    student = network(**changes)
    with torch.no_grad():
        student.time_embedding.linear_1.weight.zero_()
    teacher = wider(student)
    assert torch.allclose(ask(teacher), ask(student), rtol=1e-3, atol=1e-4)

    def is_read(name: str, dim: int) -> torch.Tensor:
        value = teacher.get_parameter(name).detach()
        return value.transpose(0, 1).flatten(1).norm(dim=1).sign() if dim == 1 else torch.zeros(len(value))

    back = pruned(teacher, dict(student.config), is_read, TIMES)
    assert torch.allclose(ask(back), ask(student), rtol=1e-3, atol=1e-4)
    ours, theirs = dict(back.named_parameters()), dict(student.named_parameters())
    differing = {name for name in ours if not torch.equal(ours[name], theirs[name])}
    assert differing <= {"time_embedding.linear_1.weight"}


def test_heads_go_whole_and_logits_keep_their_scale() -> None:
    teacher = network(attention_head_dim=8)
    config = smaller(dict(teacher.config), 0.5)
    student = pruned(teacher, config, magnitude(teacher), TIMES)
    q, small = (each.down_blocks[1].attentions[0].to_q.weight for each in (teacher, student))
    assert (teacher.down_blocks[1].attentions[0].heads, student.down_blocks[1].attentions[0].heads) == (4, 2)
    assert small.shape == (16, 16)
    narrow = pruned(teacher, {**config, "attention_head_dim": 4}, magnitude(teacher), TIMES)
    assert narrow.down_blocks[1].attentions[0].heads == 4
    scale = narrow.down_blocks[1].attentions[0].scale / teacher.down_blocks[1].attentions[0].scale
    kept = narrow.down_blocks[1].attentions[0].to_q.weight.detach() * scale
    values = set(q.detach().flatten().tolist())
    assert all(min(abs(value - other) for other in values) < 1e-6 for value in kept.flatten().tolist()[:20])


def test_the_time_embedding_is_as_near_as_other_sinusoids_come() -> None:
    """No other weights of the first layer are much nearer to what it gave, however large they may be."""
    teacher = network(block_out_channels=(32, 32, 32))
    student = pruned(teacher, smaller(dict(teacher.config), 0.5), magnitude(teacher), TIMES)
    with torch.no_grad():
        before, after = (each.time_embedding.linear_1(each.time_proj(TIMES)) for each in (teacher, student))
        sinusoids = student.time_proj(TIMES)
    error = after - before
    along = torch.linalg.lstsq(sinusoids, error).solution
    assert error.norm() < 1.1 * (error - sinusoids @ along).norm()


def test_taylor_finds_the_channel_that_matters() -> None:
    """A linear layer whose output only reads one channel: the others have no effect on the loss."""
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 1, bias=False))
    with torch.no_grad():
        module[1].weight.copy_(torch.tensor([[0.0, 2.0, 0.0, 0.0]]))
    scores = Taylor(module)
    for seed in range(3):
        module.zero_grad()
        module(torch.randn(8, 3, generator=torch.Generator().manual_seed(seed))).square().mean().backward()
        scores.add_()
    assert scores("0.weight", 0).argmax() == 1
    assert (scores("0.weight", 0)[[0, 2, 3]] == 0).all()
    assert scores("1.weight", 1).argmax() == 1


def test_what_can_not_be_pruned_is_said() -> None:
    teacher = network()
    with pytest.raises(BadInput, match="layers_per_block is not the teacher's; only channels and heads can be pruned"):
        pruned(teacher, {**smaller(dict(teacher.config), 0.5), "layers_per_block": 1}, magnitude(teacher), TIMES)
    with pytest.raises(BadInput, match=r"the student is wider than the teacher \(20 channels against 16\)"):
        pruned(teacher, {**dict(teacher.config), "block_out_channels": [20, 32, 32]}, magnitude(teacher), TIMES)
    skip = network(down_block_types=("SkipDownBlock2D",) * 3, up_block_types=("SkipUpBlock2D",) * 3)
    with pytest.raises(BadInput, match=r"this network has SkipDownBlock2D, SkipUpBlock2D"):
        Streams(skip)


@pytest.mark.parametrize("share", [0.65, 0.5])
def test_the_fitted_time_embedding_stays_small(share: float) -> None:
    """Least squares on sinusoids that hardly differ once gave weights of 2.8 million, which float16 can't hold."""
    teacher = sources.load(bundled.folder()).module().float()
    made = pruned(teacher, smaller(dict(teacher.config), share), magnitude(teacher), TIMES)
    assert made.time_embedding.linear_1.weight.abs().max() < 1000 * teacher.time_embedding.linear_1.weight.abs().max()


def test_neighbours_that_would_become_alike_are_refused() -> None:
    teacher = network(norm_num_groups=16)
    with pytest.raises(BadInput, match="norm_num_groups = 16"):
        pruned(teacher, smaller(dict(teacher.config), 0.5), magnitude(teacher), TIMES)
