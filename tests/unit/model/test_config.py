"""Folders that are taken, folders that are refused and with which words."""

import inspect
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
from safetensors.torch import load_file

from hasten.errors import BadInput
from hasten.model.config import UNet2D, read_folder
from hasten.model.inside import read_json

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # diffusers' own, with numpy 2
WEIGHTS = "diffusion_pytorch_model.safetensors"
TINY = {
    "sample_size": 8,
    "in_channels": 3,
    "out_channels": 3,
    "layers_per_block": 1,
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
    "norm_num_groups": 4,
    "num_class_embeds": 4,
}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pristine")
    torch.manual_seed(0)
    DDIMPipeline(UNet2DModel(**TINY), DDIMScheduler()).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(pristine, tmp_path):
    """A pipeline folder as diffusers writes it."""
    return Path(shutil.copytree(pristine, tmp_path / "model"))


@pytest.fixture
def plain(folder):
    """The same model as a plain folder: config.json, weights, scheduler_config.json."""
    (folder / "scheduler" / "scheduler_config.json").rename(folder / "unet" / "scheduler_config.json")
    return folder / "unet"


def refusal(action, *arguments):
    """The one line that ``action`` is refused with."""
    with pytest.raises(BadInput) as caught:
        action(*arguments)
    message = str(caught.value)
    assert message.isprintable(), message  # so it is one line
    assert len(message) < 700
    return message


def edit(path, **changes):
    """Change keys of a JSON file; None removes one."""
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def test_pipeline_folder(folder):
    spec = read_folder(str(folder))
    assert spec.folder == folder
    assert spec.weight_files == (folder / "unet" / WEIGHTS,)
    assert spec.scheduler["_class_name"] == "DDIMScheduler"
    assert spec.extra == {}
    assert spec.network_config["num_class_embeds"] == 4
    given = UNet2DModel(**spec.network_config).config
    theirs = UNet2DModel.from_pretrained(folder / "unet").config
    assert {k: v for k, v in given.items() if k[0] != "_"} == {k: v for k, v in theirs.items() if k[0] != "_"}


def test_plain_folder(plain):
    spec = read_folder(plain)
    assert spec.weight_files == (plain / WEIGHTS,)
    assert spec.scheduler["_class_name"] == "DDIMScheduler"
    (plain / "scheduler").mkdir()
    (plain / "scheduler_config.json").rename(plain / "scheduler" / "scheduler_config.json")
    assert read_folder(plain).scheduler == spec.scheduler


def test_flat_pipeline_folder(folder):
    """As google/ddpm-*: model_index.json, config.json, weights and scheduler_config.json side by side."""
    expected = read_folder(folder)
    for entry in (f"unet/{WEIGHTS}", "unet/config.json", "scheduler/scheduler_config.json"):
        (folder / entry).rename(folder / Path(entry).name)
    for part in ("unet", "scheduler"):
        (folder / part).rmdir()
    spec = read_folder(folder)
    assert (spec.network_config, spec.scheduler) == (expected.network_config, expected.scheduler)
    assert spec.weight_files == (folder / WEIGHTS,)
    theirs = DDIMPipeline.from_pretrained(folder).unet.state_dict()  # diffusers takes it too
    assert all(torch.equal(theirs[name], value) for name, value in load_file(spec.weight_files[0]).items())


def test_any_single_safetensors_name_and_ema_keys(plain):
    """As training scripts leave them: unet_ema/ with keys of diffusers' EMAModel, and a name of one's own."""
    (plain / WEIGHTS).rename(plain / "model.safetensors")
    edit(plain / "config.json", decay=0.9999, optimization_step=5)
    spec = read_folder(plain)
    assert spec.weight_files == (plain / "model.safetensors",)
    assert "decay" not in spec.network_config


def test_defaults_are_those_of_diffusers():
    theirs = {name: p.default for name, p in inspect.signature(UNet2DModel).parameters.items()}
    ours = UNet2D(sample_size=8).model_dump()
    assert set(ours) == set(theirs)
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in theirs.items()}
    assert {**ours, "sample_size": None} == plain


def test_hasten_json(folder):
    extra = {"null_label": 3, "label_names": ["a", "b", "c"], "attribution": "x", "recipe": {"any": [1]}}
    (folder / "hasten.json").write_text(json.dumps(extra))
    assert read_folder(folder).extra == extra


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"null_label": 4}, "null_label 4 is none of the network's 4 labels"),
        ({"null_label": -1}, "null_label = -1: input should be greater than or equal to 0"),
        ({"label_names": "abc"}, "label_names = 'abc': input should be a valid list"),
        ({"attribution": 5}, "attribution = 5: input should be a valid string"),
    ],
)
def test_bad_hasten_json(changes, words, folder):
    (folder / "hasten.json").write_text(json.dumps(changes))
    message = refusal(read_folder, folder)
    assert words in message
    assert "hasten.json" in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vae": ["diffusers", "AutoencoderKL"]}, "vae: AutoencoderKL is not supported yet; known parts: unet"),
        ({"safety": 5}, "safety: '5' is not supported yet"),
        ({"unet": ["diffusers", "UNet2DConditionModel"]}, "unet: UNet2DConditionModel is not supported yet"),
        ({"unet": ["my_module", "UNet2DModel"]}, "unet: ['my_module', 'UNet2DModel'] names code"),
        ({"unet": "UNet2DModel"}, "unet: 'UNet2DModel' names code"),
        ({"scheduler": ["../scheduler", "DDIMScheduler"]}, "scheduler: ['../scheduler', 'DDIMScheduler'] names code"),
        ({"scheduler": ["diffusers", "os.Scheduler"]}, "scheduler: 'os.Scheduler' is no scheduler"),
        ({"scheduler": ["diffusers", "UNet2DModel"]}, "scheduler: UNet2DModel is no scheduler"),
        ({"_class_name": ["pipeline_mine", "Mine"]}, "_class_name ['pipeline_mine', 'Mine'] names code"),
        ({"auto_map": {"AutoModel": "mine.Mine"}}, "'auto_map' names code"),
        ({"_more": [{"auto_map": {"a": "b"}}]}, "'auto_map' names code"),
        ({"custom_pipeline": "mine"}, "'custom_pipeline' names code"),
        ({"scheduler": ["deprecated", "KarrasVeScheduler"]}, "KarrasVeScheduler is deprecated in diffusers"),
        ({"unet": True}, "unet: True names code"),
        ({"scheduler": [None, None]}, "the part scheduler is missing"),
        ({"unet": None}, "the part unet is missing"),
        ({"x\n\x1b": ["a", "b"]}, r"'x\n\x1b': b is not supported yet"),
    ],
)  # fmt: skip
def test_model_index_that_is_refused(changes, words, folder):
    edit(folder / "model_index.json", **changes)
    message = refusal(read_folder, folder)
    assert words in message
    assert str(folder / "model_index.json") in message


def test_absent_optional_part_is_ignored(folder):
    edit(folder / "model_index.json", feature_extractor=[None, None], requires_safety_checker=False)
    assert read_folder(folder).weight_files


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"in_channels": 4}, "conv_in.weight has 3 input channels, the config says 4 (in_channels)"),
        ({"out_channels": 6}, "conv_out.weight has 3 output channels, the config says 6 (out_channels)"),
        ({"num_class_embeds": 9}, "class_embedding.weight has 4 classes, the config says 9 (num_class_embeds)"),
        ({"block_out_channels": [16, 16]}, "conv_in.weight has 8 output channels, the config says 16"),
        ({"block_out_channels": [10**9, 16]}, "block_out_channels = 1000000000: input should be less than"),
        ({"block_out_channels": []}, "block_out_channels = []: list should have at least 1 item"),
        ({"block_out_channels": [8] * 13}, "list should have at most 12 items"),
        ({"block_out_channels": [8]}, "down_block_types has 2 entries, block_out_channels 1"),
        ({"block_out_channels": [8, 17]}, "block_out_channels 17 is no multiple of norm_num_groups 4"),
        ({"layers_per_block": 10**6}, "layers_per_block = 1000000: input should be less than or equal to 32"),
        ({"layers_per_block": True}, "layers_per_block = True: input should be a valid integer"),
        ({"layers_per_block": "2"}, "layers_per_block = '2': input should be a valid integer"),
        ({"norm_eps": float("nan")}, "norm_eps = nan: input should be a finite number"),
        ({"sample_size": 9}, "sample_size 9 is no multiple of 2, as 2 levels need"),
        ({"sample_size": [8, 9]}, "sample_size 9 is no multiple of 2"),
        ({"sample_size": None}, "sample_size is missing; add it"),
        ({"act_fn": "tanh"}, "act_fn = 'tanh': input should be 'silu', 'swish', 'mish', 'gelu' or 'relu'"),
        ({"down_block_types": ["DownBlock2D", "os.system"]}, "down_block_types = 'os.system': input should be 'Down"),
        ({"time_embedding_type": "learned"}, "time_embedding_type = 'learned': input should be 'positional' or"),
        ({"class_embed_type": "timestep"}, "class_embed_type = 'timestep': input should be None"),
        ({"layer_per_block": 2}, "'layer_per_block' is not known; did you mean 'layers_per_block'?"),
        ({"_class_name": "UNet3D"}, "'UNet3D' is not supported yet; known: UNet2DModel"),
        ({"auto_map": {"a": "b"}}, "'auto_map' names code"),
    ],
)  # fmt: skip
def test_network_config_that_is_refused(changes, words, folder):
    edit(folder / "unet" / "config.json", **changes)
    message = refusal(read_folder, folder)
    assert words in message
    assert str(folder / "unet" / "config.json") in message


def test_network_that_predicts_more_than_it_takes(tmp_path):
    UNet2DModel(**{**TINY, "out_channels": 4}).save_pretrained(tmp_path)
    DDIMScheduler().save_pretrained(tmp_path)
    assert "out_channels 4 is neither in_channels 3 nor, with a variance, twice" in refusal(read_folder, tmp_path)


def test_plain_folder_must_name_its_class_and_have_a_scheduler(plain):
    edit(plain / "config.json", _class_name=None)
    assert "None is not supported yet; known: UNet2DModel" in refusal(read_folder, plain)
    (plain / "scheduler_config.json").unlink()
    assert "lacks scheduler_config.json; put it beside config.json" in refusal(read_folder, plain)


@pytest.mark.parametrize("entry", ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"\xff\xfe{}", "is not JSON"),
        (b'{"a": 1, "a": 2}', "'a' is there twice"),
        (b'{"a": 1' + b"0" * 5000 + b"}", "is not JSON"),
        (b"[]", "is a JSON list, not an object"),
        (b"null", "is a JSON NoneType, not an object"),
        (b" " * (1 << 20) + b"{}", "is over 1048576 bytes"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"a":' * 40 + b"1" + b"}" * 40, "nested more than 16 levels deep"),
    ],
)
def test_broken_json(entry, content, words, folder):
    (folder / entry).write_bytes(content)
    message = refusal(read_folder, folder)
    assert words in message
    assert str(folder / entry) in message


@pytest.mark.parametrize("entry", ["unet/config.json", "scheduler/scheduler_config.json"])
def test_missing_file(entry, folder):
    (folder / entry).unlink()
    assert f"{folder / entry} is missing" in refusal(read_folder, folder)
    (folder / entry).mkdir()
    assert f"{folder / entry} is missing or no file" in refusal(read_folder, folder)


def test_a_pipe_is_not_waited_for(folder):
    (folder / "unet" / "config.json").unlink()
    os.mkfifo(folder / "unet" / "config.json")
    assert "is missing or no file" in refusal(read_folder, folder)


def test_paths_that_are_no_model_folder(folder, tmp_path):
    assert "does not exist; pass a diffusers model folder" in refusal(read_folder, tmp_path / "none")
    assert "is a file; pass the model's folder" in refusal(read_folder, folder / "model_index.json")
    assert "neither model_index.json nor config.json" in refusal(read_folder, tmp_path)
    assert "can't be opened" in refusal(read_folder, tmp_path / ("x" * 5000))


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".ckpt", ".pth", ".pkl", ".CKPT"])
def test_pickles_are_never_opened(suffix, folder, plain, tmp_path):
    pickle = plain / f"diffusion_pytorch_model{suffix}"
    (plain / WEIGHTS).rename(pickle)
    pickle.chmod(0)
    words = "may run code; convert it to safetensors"
    assert f"{pickle} {words}" in refusal(read_folder, plain)
    assert f"{pickle} {words}" in refusal(read_folder, pickle)
    (tmp_path / "only").mkdir()
    pickle.rename(tmp_path / "only" / pickle.name)
    assert f"{pickle.name} {words}" in refusal(read_folder, tmp_path / "only")
    assert "holds no weights; expected" in refusal(read_folder, plain)


def test_pickle_beside_safetensors_is_left_alone(plain):
    (plain / "diffusion_pytorch_model.bin").write_bytes(b"x")
    assert read_folder(plain).weight_files == (plain / WEIGHTS,)


def test_several_weights(plain):
    shutil.copy(plain / WEIGHTS, plain / "diffusion_pytorch_model.fp16.safetensors")
    assert read_folder(plain).weight_files == (plain / WEIGHTS,)
    (plain / WEIGHTS).rename(plain / "other.safetensors")
    message = refusal(read_folder, plain)
    assert "holds several weights ('diffusion_pytorch_model.fp16.safetensors', 'other.safetensors')" in message


def in_hub_cache(folder, root, blobs):
    """The model as Hugging Face's cache keeps it: files named by their hash, and a snapshot of links to them."""
    snapshot = root / "models--org--name" / "snapshots" / "0a1b"
    blobs.mkdir(parents=True)
    for number, file in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        shutil.copy(file, blobs / f"{number:040x}")
        link = snapshot / file.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blobs / f"{number:040x}", link.parent))
    return snapshot


def test_a_snapshot_in_hugging_face_s_cache(folder, tmp_path):
    snapshot = in_hub_cache(folder, tmp_path / "hub", tmp_path / "hub" / "models--org--name" / "blobs")
    assert read_folder(snapshot).network_config == read_folder(folder).network_config
    assert read_folder(snapshot).weight_files == (snapshot / "unet" / WEIGHTS,)


def test_a_snapshot_of_links_to_another_repository(folder, tmp_path):
    snapshot = in_hub_cache(folder, tmp_path / "hub", tmp_path / "hub" / "models--org--other" / "blobs")
    assert "leads out of the folder" in refusal(read_folder, snapshot)


@pytest.mark.parametrize("entry", ["model_index.json", "unet/config.json", f"unet/{WEIGHTS}", "unet", "hasten.json"])
def test_links_out_of_the_folder(entry, folder, tmp_path):
    (folder / "hasten.json").write_text("{}")
    (folder / entry).rename(tmp_path / "outside")
    (folder / entry).symlink_to(tmp_path / "outside")
    message = refusal(read_folder, folder)
    assert "leads out of the folder" in message
    assert Path(entry).name in message


def test_links_within_the_folder_and_to_it(folder, tmp_path):
    (folder / "unet" / WEIGHTS).rename(folder / "w.safetensors")
    (folder / "unet" / WEIGHTS).symlink_to("../w.safetensors")
    (tmp_path / "link").symlink_to(folder)
    assert read_folder(tmp_path / "link").weight_files == (tmp_path / "link" / "unet" / WEIGHTS,)


def test_dangling_and_circular_links(folder):
    (folder / "unet" / WEIGHTS).unlink()
    (folder / "unet" / WEIGHTS).symlink_to("none.safetensors")
    assert "is missing" in refusal(read_folder, folder)
    (folder / "unet" / WEIGHTS).unlink()
    (folder / "unet" / WEIGHTS).symlink_to(WEIGHTS)
    assert WEIGHTS in refusal(read_folder, folder)


@pytest.fixture
def index(plain):
    """Turn the single file into one shard with an index; returns a function that changes the index's weight_map."""
    (plain / WEIGHTS).rename(plain / "a.safetensors")
    names = list(load_file(plain / "a.safetensors"))

    def write(**changes):
        weight_map = {**dict.fromkeys(names, "a.safetensors"), **changes}
        (plain / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        return plain

    return write


def test_index(index):
    folder = index()
    assert read_folder(folder).weight_files == (folder / "a.safetensors",)


@pytest.mark.parametrize(
    "entry",
    ["../a.safetensors", "/a.safetensors", "b/../../a.safetensors", "..\\a.safetensors", "C:\\a.safetensors",
     "C:a.safetensors", "\\\\host\\a.safetensors", "a\n.safetensors", "a\x00.safetensors", ""],
)  # fmt: skip
def test_index_entry_that_leads_out(entry, index):
    folder = index(**{"conv_in.bias": entry})
    message = refusal(read_folder, folder)
    assert f"the entry {entry!r} leads out of the folder" in message
    assert "index.json" in message


def test_index_entries_that_do_not_fit(index, tmp_path):
    assert "'w.bin' is no safetensors file and may run code" in refusal(read_folder, index(x="w.bin"))
    assert "b.safetensors is missing" in refusal(read_folder, index(x="b.safetensors"))
    assert "tensor 'x' should be in 'a.safetensors' and is not" in refusal(read_folder, index(x="a.safetensors"))
    assert "weight_map must name a file for each tensor" in refusal(read_folder, index(x=5))
    folder = index(x="far.safetensors")
    (tmp_path / "far").write_bytes(b"")
    (folder / "far.safetensors").symlink_to(tmp_path / "far")
    assert "far.safetensors' leads out of the folder" in refusal(read_folder, folder)
    (folder / f"{WEIGHTS}.index.json").write_text("{}")
    assert "weight_map must name a file for each tensor" in refusal(read_folder, folder)


def test_bad_folder_is_answered_without_torch(folder):
    program = (
        "import sys\nfrom hasten.errors import BadInput\nfrom hasten.model.config import read_folder\n"
        "from hasten.model.noise import schedule_of\n"
        "try: schedule_of(read_folder(sys.argv[1]).scheduler)\nexcept BadInput as error: print(error)\n"
        "print(*{'torch', 'diffusers'} & set(sys.modules))\n"
    )
    edit(folder / "unet" / "config.json", in_channels=4)
    done = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True)
    message, loaded = done.stdout.splitlines()
    assert "conv_in.weight has 3 input channels, the config says 4" in message
    assert loaded == ""


def test_read_json_caps_what_it_reads(tmp_path):
    (tmp_path / "a.json").write_text('{"a": -Infinity}')  # as diffusers writes lambda_min_clipped
    assert read_json(tmp_path, "a.json") == {"a": float("-inf")}
