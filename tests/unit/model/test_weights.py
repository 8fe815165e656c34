"""Safetensors files that are whole, broken in every known way, and broken at random; diffusers is the oracle."""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from diffusers import DDPMScheduler, UNet2DModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hasten.errors import BadInput
from hasten.model import header, weights
from hasten.model.config import read_folder
from hasten.model.header import TensorInfo, check_header, match
from hasten.model.weights import build_network, load_weights, weight_hash

NAME = "diffusion_pytorch_model.safetensors"
WIDE = {"block_out_channels": (32, 32)}  # some of diffusers' blocks have 32 groups whatever the config says
TINY = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "layers_per_block": 1,
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 4,
    "attention_head_dim": 8,
}


def make(folder, dtype=torch.float32, variant=None, shard="10GB", **changes):
    """A plain model folder by plain diffusers code, epsilon prediction on a linear schedule."""
    torch.manual_seed(0)
    network = UNet2DModel(**{**TINY, **changes}).to(dtype)
    network.save_pretrained(folder, variant=variant, max_shard_size=shard)
    DDPMScheduler().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return make(tmp_path_factory.mktemp("pristine"))


@pytest.fixture
def folder(pristine, tmp_path):
    return Path(shutil.copytree(pristine, tmp_path / "model"))


def line(action, *arguments):
    """The one line that ``action`` is refused with."""
    with pytest.raises(BadInput) as caught:
        action(*arguments)
    message = str(caught.value)
    assert message.isprintable(), message  # so it is one line
    assert len(message) < 600
    return message


def pack(header, data=b"", length=None):
    """The bytes of a safetensors file with this header, a dict or raw text."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def f32(begin, end, *shape):
    return {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}


def ask(network, **labels):
    torch.manual_seed(1)
    config = network.config
    size = config.sample_size
    with torch.no_grad():
        return network(torch.randn(2, config.in_channels, size, size), torch.tensor([3.0, 700.0]), **labels).sample


def same_as_diffusers(folder, variant=None, **labels):
    """Our network's answer, once it is known to equal that of diffusers' own loader in every bit."""
    ours = build_network(read_folder(folder))
    theirs = UNet2DModel.from_pretrained(folder, variant=variant, torch_dtype=torch.float32).eval()
    assert not ours.training
    assert all(value.dtype == torch.float32 and value.device.type == "cpu" for value in ours.state_dict().values())
    answer = ask(ours, **labels)
    assert torch.equal(answer, ask(theirs, **labels))
    assert answer.abs().max() > 0
    return answer


def test_header_agrees_with_safetensors(pristine):
    found = check_header(pristine / NAME)
    with safe_open(pristine / NAME, "pt") as file:
        assert set(found) == set(file.keys())
        for name in found:
            part = file.get_slice(name)
            assert found[name].shape == tuple(part.get_shape())
            assert found[name].dtype == part.get_dtype()


PAIR = {"a": f32(0, 8, 2), "b": f32(8, 16, 2)}
BROKEN = {
    "empty": (b"", ["truncated", "8 bytes expected", "0 found"]),
    "seven bytes": (b"1234567", ["truncated", "8 bytes expected", "7 found"]),
    "header over the file": (pack(PAIR, bytes(16), length=500), ["header claims 500 bytes", "the file has 147"]),
    "header huge": (pack(PAIR, bytes(16), length=1 << 62), [f"claims {1 << 62} bytes"]),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", ["git-lfs pointer", "git lfs pull"]),
    "not JSON": (pack(b"{'a': 1}"), ["not JSON"]),
    "not UTF-8": (pack(b'{"\xff": 1}'), ["not JSON", "0xff"]),
    "not an object": (pack(b"[1, 2]"), ["a JSON list, not an object"]),
    "deep": (pack(b"[" * 100_000), ["nested too deeply"]),
    "NaN": (pack(b'{"a": NaN}'), ["tensor 'a' needs dtype", "has nan"]),
    "metadata": (pack({"__metadata__": {"format": 1}}), ["__metadata__"]),
    "twice": (pack(b'{"a": 1, "a": 2}'), ["'a' is there twice"]),
    "entry": (pack({"a": 5}), ["tensor 'a' needs dtype, shape and data_offsets"]),
    "dtype": (pack({"a": {**f32(0, 8, 2), "dtype": "F33"}}, bytes(8)), ["'a'", "unknown dtype 'F33'"]),
    "dtype list": (pack({"a": {**f32(0, 8, 2), "dtype": []}}, bytes(8)), ["'a'", "unknown dtype []"]),
    "shape": (pack({"a": f32(0, 8, -2)}, bytes(8)), ["'a'", "shape [-2]"]),
    "shape bool": (pack({"a": f32(0, 4, True)}, bytes(4)), ["'a'", "shape [True]"]),
    "shape long": (pack({"a": f32(0, 4, *[1] * 17)}, bytes(4)), ["'a'", "no list of sizes"]),
    "size": (pack({"a": f32(0, 8, 3)}, bytes(8)), ["'a'", "12 bytes expected", "8 found"]),
    "size huge": (pack({"a": f32(0, 8, *[1 << 60] * 16)}, bytes(8)), ["'a'", "bytes expected", "8 found"]),
    "offsets": (pack({"a": f32(8, 0, 2)}, bytes(8)), ["'a'", "[8, 0]"]),
    "one offset": (pack({"a": {**f32(0, 8, 2), "data_offsets": [0]}}, bytes(8)), ["'a'", "[0]"]),
    "out of range": (pack({"a": f32(800, 808, 2)}, bytes(8)), ["'a' is out of range: [800, 808] of 8 bytes"]),
    "overlap": (pack({**PAIR, "b": f32(4, 12, 2)}, bytes(16)), ["'b' overlaps 'a'", "begins at byte 4, not 8"]),
    "gap": (pack({**PAIR, "b": f32(12, 20, 2)}, bytes(20)), ["'b' leaves a gap after 'a'", "begins at 12, not 8"]),
    "gap first": (pack({"a": f32(4, 12, 2)}, bytes(12)), ["'a' leaves a gap after the header"]),
    "truncated": (pack(PAIR, bytes(13)), ["truncated in tensor 'b'", "16 bytes of data expected, 13 found"]),
    "absurd": (pack({"a": f32(0, 4 << 60, 1 << 60)}, bytes(8)), ["truncated in tensor 'a'", "8 found"]),
    "trailing": (pack(PAIR, bytes(20)), ["4 trailing bytes after 'b'", "16 bytes of data expected, 20 found"]),
    "name of many lines": (pack({"a\n\x1b[31m" * 99: f32(0, 8, 3)}, bytes(8)), [r"'a\n\x1b[31m"]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_file_is_refused_before_torch_allocates(case, folder, monkeypatch):
    content, words = BROKEN[case]
    spec = read_folder(folder)
    (folder / NAME).write_bytes(content)

    def allocated(*_, **__):
        raise AssertionError("allocated before the header was checked")

    monkeypatch.setattr(safetensors.torch, "load_file", allocated)
    monkeypatch.setattr(UNet2DModel, "__init__", allocated)
    for kind in ("empty", "zeros", "tensor", "frombuffer"):
        monkeypatch.setattr(torch, kind, allocated)
    for action, argument in ((check_header, folder / NAME), (read_folder, folder), (build_network, spec)):
        message = line(action, argument)
        assert str(folder / NAME) in message
        for word in words:
            assert word in message


def test_header_over_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(header, "HEADER_LIMIT", 50)
    (tmp_path / NAME).write_bytes(pack(PAIR, bytes(16)))
    assert "the header claims 123 bytes, at most 50 are allowed" in line(check_header, tmp_path / NAME)


def test_missing_file_and_folder_as_file(tmp_path):
    assert "is missing" in line(check_header, tmp_path / NAME)
    assert "is missing" in line(check_header, tmp_path)


@pytest.mark.parametrize("seed", range(10))
def test_random_damage_is_refused_or_loads(seed, folder):
    """20 damaged files a seed: a byte changed in the header or anywhere, or the end cut off; only BadInput may come."""
    spec = read_folder(folder)
    shapes = {name: info.shape for name, info in check_header(folder / NAME).items()}
    pristine = (folder / NAME).read_bytes()
    header = 8 + int.from_bytes(pristine[:8], "little")
    draw = random.Random(seed)
    refusals = []
    for index in range(20):
        content = bytearray(pristine)
        if index % 4 == 0:
            del content[draw.randrange(len(content)) :]
        else:
            content[draw.randrange(header if index % 2 else len(content))] ^= draw.randrange(1, 256)
        (folder / NAME).write_bytes(content)
        try:
            match(shapes, load_weights(spec))
        except BadInput as error:
            refusals.append(str(error))
    assert 0 < len(refusals) < 20
    assert all(message.isprintable() for message in refusals)


@pytest.mark.parametrize(("value", "count"), [(float("nan"), 1), (float("inf"), 3), (float("-inf"), 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_nan_and_inf_are_counted(value, count, dtype, folder):
    state = {name: tensor.to(dtype) for name, tensor in load_file(folder / NAME).items()}
    state["conv_in.weight"].view(-1)[:count] = value
    state["conv_in.bias"][:] = torch.finfo(dtype).max  # the largest finite number is not Inf
    save_file(state, folder / NAME)
    message = line(build_network, read_folder(folder))
    assert f"tensor 'conv_in.weight' holds {count} NaN or Inf" in message
    assert "in all" not in message
    state["conv_out.weight"].view(-1)[0] = value
    save_file(state, folder / NAME)
    assert "2 tensors hold such values in all" in line(load_weights, read_folder(folder))


def test_nan_across_chunks(folder, monkeypatch):
    monkeypatch.setattr(weights, "CHUNK_BYTES", 64)
    state = load_file(folder / NAME)
    state["conv_in.weight"].view(-1)[::16] = float("nan")
    save_file(state, folder / NAME)
    assert "holds 5 NaN or Inf" in line(load_weights, read_folder(folder))


def test_dtypes_that_are_no_weights(folder):
    state = load_file(folder / NAME)
    state["conv_in.bias"] = state["conv_in.bias"].to(torch.int64)
    save_file(state, folder / NAME)
    assert "tensor 'conv_in.bias' is I64; weights must be F32, F16, BF16" in line(read_folder, folder)


SHAPES = {
    "conv_in.weight": (8, 3, 3, 3),
    "conv_out.weight": (3, 8, 3, 3),
    "class_embedding.weight": (10, 32),
    "mid.weight": (8,),
}


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("conv_in.weight", (8, 4, 3, 3), "conv_in.weight has 4 input channels, the config says 3 (in_channels)"),
        ("conv_in.weight", (9, 3, 3, 3), "conv_in.weight has 9 output channels, the config says 8 (block_out"),
        ("conv_in.weight", (8, 3, 5, 5), "'conv_in.weight' has the shape (8, 3, 5, 5), the config needs (8, 3, 3, 3)"),
        ("conv_in.weight", (8, 3), "tensor 'conv_in.weight' has the shape (8, 3), the config needs (8, 3, 3, 3)"),
        ("conv_out.weight", (6, 8, 3, 3), "conv_out.weight has 6 output channels, the config says 3 (out_channels)"),
        ("class_embedding.weight", (11, 32), "class_embedding.weight has 11 classes, the config says 10 (num_class"),
        ("mid.weight", (9,), "tensor 'mid.weight' has the shape (9,), the config needs (8,)"),
    ],
)  # fmt: skip
def test_shapes_that_differ(name, shape, words):
    held = {key: TensorInfo("F32", value, 0, 0) for key, value in SHAPES.items()}
    match(SHAPES, held)
    message = line(match, SHAPES, {**held, name: TensorInfo("F32", shape, 0, 0)})
    assert words in message
    assert "in all" not in message


def test_missing_and_unexpected_keys():
    held = {key: torch.empty(value) for key, value in SHAPES.items()}
    needed = {**{f"n{i}": (1,) for i in range(7)}, **SHAPES}
    assert "7 missing keys ('n0', 'n1', 'n2', 'n3', 'n4', ...);" in line(match, needed, held)
    assert "1 unexpected key ('mid.weight');" in line(match, {k: v for k, v in SHAPES.items() if k[0] == "c"}, held)
    both = line(match, {**needed, "o": (1,)}, {**held, "n0": torch.empty(1), "x": torch.empty(1)})
    assert "7 missing keys ('n1'" in both
    assert "1 unexpected key ('x')" in both


def change_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"block_out_channels": [8, 65536], "norm_num_groups": 1}, "has the shape"),
        ({"layers_per_block": 32}, "missing keys ("),
        ({"num_class_embeds": 10_000_000}, "1 missing key ('class_embedding.weight')"),
        ({"attention_head_dim": 7}, "has the shape (16, 16), the config needs (14, 16)"),
        ({"attention_head_dim": 64}, "the config"),
        ({"time_embedding_dim": 65536}, "time_embedding.linear_1.weight"),
        ({"down_block_types": ["DownBlock2D", "AttnSkipDownBlock2D"]}, "(num_channels (16) must be divisible"),
    ],
)
def test_config_that_disagrees_allocates_nothing(changes, words, folder, monkeypatch):
    change_config(folder, **changes)
    monkeypatch.setattr(weights, "_load", lambda _: pytest.fail("weights were loaded before the shapes were compared"))
    message = line(build_network, read_folder(folder))
    assert words in message
    assert str(folder) in message


def test_same_as_diffusers_and_no_random_numbers(folder):
    before = torch.get_rng_state()
    build_network(read_folder(folder))
    assert torch.equal(before, torch.get_rng_state())
    same_as_diffusers(folder)


def test_weights_outlive_their_file(folder):
    spec = read_folder(folder)
    expected = ask(build_network(spec))
    network = build_network(spec)
    size = (folder / NAME).stat().st_size
    with (folder / NAME).open("r+b") as file:
        file.write(bytes(size))
    assert torch.equal(ask(network), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_upcast(dtype, tmp_path):
    same_as_diffusers(make(tmp_path, dtype))


def test_variant(tmp_path):
    make(tmp_path, torch.float16, variant="fp16")
    assert [file.name for file in read_folder(tmp_path).weight_files] == [NAME.replace(".safe", ".fp16.safe")]
    same_as_diffusers(tmp_path, variant="fp16")


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards(variant, tmp_path, pristine):
    make(tmp_path, variant=variant, shard="20KB")
    assert len(read_folder(tmp_path).weight_files) > 2
    assert torch.equal(same_as_diffusers(tmp_path, variant=variant), same_as_diffusers(pristine))


def test_tensor_in_two_shards(tmp_path):
    make(tmp_path, shard="20KB")
    first, second = read_folder(tmp_path).weight_files[:2]
    twice = next(iter(load_file(first).items()))
    save_file({**load_file(second), twice[0]: twice[1]}, second)
    assert f"tensor {twice[0]!r} is there twice" in line(read_folder, tmp_path)


def test_class_conditional(tmp_path):
    make(tmp_path, num_class_embeds=5, in_channels=3, out_channels=3)
    same_as_diffusers(tmp_path, class_labels=torch.tensor([0, 4]))


@pytest.mark.parametrize(
    ("down", "up", "more"),
    [
        ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D", {"resnet_time_scale_shift": "scale_shift"}),
        ("SkipDownBlock2D", "SkipUpBlock2D", {"in_channels": 3, "out_channels": 3}),
        ("AttnSkipDownBlock2D", "AttnSkipUpBlock2D", {"in_channels": 3, "out_channels": 3, **WIDE}),
        ("AttnDownBlock2D", "AttnUpBlock2D", {"downsample_type": "resnet", "upsample_type": "resnet"}),
        ("DownBlock2D", "UpBlock2D", {"mid_block_type": None, "downsample_padding": 0, "act_fn": "gelu"}),
    ],
)
def test_every_block_type(down, up, more, tmp_path):
    make(tmp_path, down_block_types=(down, down), up_block_types=(up, up), **more)
    same_as_diffusers(tmp_path)


def test_old_attention_names(folder):
    """As in google/ddpm-*; diffusers renames them when it loads."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = load_file(folder / NAME)
    for new, name in old.items():
        state = {key.replace(f".{new}.", f".{name}."): value for key, value in state.items()}
    expected = same_as_diffusers(folder)
    save_file(state, folder / NAME)
    assert "mid_block.attentions.0.query.weight" in check_header(folder / NAME)
    assert torch.equal(same_as_diffusers(folder), expected)


def test_weight_hash_follows_names_and_content_not_place(folder, tmp_path):
    other = Path(shutil.copytree(folder, tmp_path / "elsewhere"))
    files = [folder / NAME, folder / "config.json"]
    digest = weight_hash(files)
    assert len(digest) == 64
    assert weight_hash([other / "config.json", other / NAME]) == digest
    assert weight_hash(files[:1]) != digest
    (other / "config.json").rename(other / "b.json")
    assert weight_hash([other / NAME, other / "b.json"]) != digest
    with (folder / NAME).open("ab") as file:
        file.write(b"x")
    assert weight_hash(files) != digest
    assert "can't be read" in line(weight_hash, [folder / "none"])


def test_bad_files_are_answered_without_torch(folder):
    """Broken headers, wrong channels and NaN need neither torch nor diffusers."""
    program = (
        "import sys\n"
        "from hasten.errors import BadInput\n"
        "from hasten.model.config import read_folder\n"
        "from hasten.model.weights import build_network\n"
        "try: build_network(read_folder(sys.argv[1]))\n"
        "except BadInput as error: print(error)\n"
        "print(*{'torch', 'diffusers'} & set(sys.modules))\n"
    )
    state = load_file(folder / NAME)
    state["conv_in.bias"][0] = float("nan")
    cases = {"truncated": (folder / NAME).read_bytes()[:-1], "1 NaN or Inf": safetensors.torch.save(state)}
    for words, content in cases.items():
        (folder / NAME).write_bytes(content)
        done = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True)
        message, loaded = done.stdout.splitlines()
        assert words in message
        assert loaded == ""
