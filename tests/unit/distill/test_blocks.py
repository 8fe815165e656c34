"""Whole blocks: what can go, the damage by hand, the greedy order, and a folder that plain diffusers runs."""

import itertools
import json

import pytest
import torch
from click.testing import CliRunner
from diffusers import DDIMPipeline, UNet2DModel

from hasten.cli import cli
from hasten.data import digits
from hasten.distill import blocks, student
from hasten.errors import BadInput
from hasten.model import source as sources
from hasten.model.folder import unet

NAMES = ["down_blocks.1.attentions", "up_blocks.0.attentions", "mid_block.attentions", "mid_block"]
X = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))
T = torch.linspace(900.0, 10.0, 6)
LABELS = torch.arange(6)


@pytest.fixture
def network() -> UNet2DModel:
    torch.manual_seed(0)
    return unet((1, 8, 8), 10, [8, 16], 1, [1], 8, 8).eval()


def evaluate(network: UNet2DModel) -> torch.Tensor:
    return network(X, T, class_labels=LABELS).sample


def test_what_can_go_and_that_nothing_else_changes(network) -> None:
    assert [block.name for block in blocks.removable(network)] == NAMES
    for block in blocks.removable(network):
        made = blocks.without(network, block)
        before, after = network.state_dict(), made.state_dict()
        assert {name for name in before if name not in after} == {n for n in before if n.startswith(f"{block.name}.")}
        assert all(torch.equal(after[name], before[name]) for name in after)
        assert block.is_gone(made.config)
        assert not block.is_gone(network.config)
        with torch.no_grad():
            assert not torch.equal(evaluate(made), evaluate(network))


def test_an_attention_that_adds_nothing_does_no_damage_and_goes_first(network) -> None:
    with torch.no_grad():
        network.mid_block.attentions[0].to_out[0].weight.zero_()
        network.mid_block.attentions[0].to_out[0].bias.zero_()
    made, rows = blocks.drop(network, 1, evaluate)
    assert rows[0].block.name == "mid_block.attentions"
    assert rows[0].damages == (0.0, 0.0, 0.0)
    assert rows[0].parameters == network.num_parameters() - made.num_parameters() > 0
    with torch.no_grad():
        assert torch.equal(evaluate(made), evaluate(network))


def test_the_damage_by_hand_and_the_least_first(network) -> None:
    with torch.no_grad():
        rows = blocks.damaged(network, evaluate)
        whole = evaluate(network)
        for row in rows:
            off = evaluate(blocks.without(network, row.block)) - whole
            by_hand = [float(off[k : k + 2].square().sum() / whole[k : k + 2].square().sum()) for k in (0, 2, 4)]
            assert row.damages == pytest.approx(by_hand, rel=1e-4)
    sums = [sum(row.damages) for row in rows]
    assert all(a <= b for a, b in itertools.pairwise(sums))


def test_all_can_go_and_no_more(network) -> None:
    made, rows = blocks.drop(network, 3, evaluate)
    gone = [row.block.name for row in rows[:3]]
    left = {block.name for block in blocks.removable(made)}
    assert len(set(gone)) == 3
    assert left == {row.block.name for row in rows[3:]}
    assert set(NAMES) - set(gone) - left <= {"mid_block.attentions"}  # which goes with the middle block
    assert not any(name.startswith(f"{each}.") for each in gone for name in made.state_dict())
    with pytest.raises(BadInput, match=r"9 blocks: only \d can go \(attention, and the middle block\); lower it"):
        blocks.drop(network, 9, evaluate)


def test_a_configuration_without_blocks_is_pruned_to(tiny_folder, tmp_path) -> None:
    source = sources.load(tiny_folder)
    config = json.loads((source.folder / "unet" / "config.json").read_text())
    config |= {"mid_block_type": None, "block_out_channels": [max(8, c // 2) for c in config["block_out_channels"]]}
    config["time_embedding_dim"] = 4 * source.module().config["block_out_channels"][0]
    config["attention_head_dim"] = min(config["attention_head_dim"], *config["block_out_channels"])
    (tmp_path / "config.json").write_text(json.dumps(config))
    student.prune(source, tmp_path / "config.json", "magnitude", None, tmp_path / "out")
    made = UNet2DModel.from_pretrained(tmp_path / "out" / "unet")
    assert made.mid_block is None
    assert list(made.config["block_out_channels"]) == config["block_out_channels"]


def test_from_the_command_line(tiny_folder, tmp_path) -> None:
    arguments = ["prune", str(tiny_folder), "--blocks", "1"]
    out = tmp_path / "out"
    told = CliRunner().invoke(cli, [*arguments, "--data", "digits", "--out", str(out)], catch_exceptions=False)
    lines = told.output.splitlines()
    assert lines[0].split() == ["without", "weights", "early", "middle", "late"]
    gone = [line.split()[0] for line in lines if line.endswith("gone")]
    assert json.loads((out / "hasten.json").read_text())["pruned"]["blocks"] == gone
    assert all(len(line) <= 80 for line in lines if "written" not in line)
    DDIMPipeline.from_pretrained(out)
    source, before = sources.load(out), sources.load(tiny_folder)
    assert sum(p.numel() for p in source.module().parameters()) < sum(p.numel() for p in before.module().parameters())
    data = digits.load(8)
    with pytest.raises(BadInput, match="exists; choose another folder"):
        student.drop_blocks(before, 1, data, out)
    for wrong, words in ((["--channels", "0.5"], "give --channels, --blocks or --sparsity"), ([], "give --data")):
        refused = CliRunner().invoke(cli, [*arguments, *wrong, "--out", str(tmp_path / "other")])
        assert isinstance(refused.exception, BadInput)
        assert words in str(refused.exception)
