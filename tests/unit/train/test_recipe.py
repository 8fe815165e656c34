"""Recipes: what is read, and what a wrong one is told."""

from pathlib import Path

import pytest

from hasten.errors import BadInput
from hasten.train import recipe

EMOJI32 = Path(__file__).parents[3] / "recipes" / "emoji32.toml"
GOOD = """\
[data]
name = "digits"
size = 8

[model]
block_out_channels = [16, 32]
attention_levels = [1]
attention_head_dim = 16

[train]
steps = 6
batch_size = 16
warmup_steps = 2
"""


JSON = (
    '{"data":{"name":"digits","size":8,"path":null},'
    '"model":{"block_out_channels":[16,32],"layers_per_block":1,"attention_levels":[1],"attention_head_dim":16,'
    '"norm_num_groups":8,"schedule":"squaredcos_cap_v2","timesteps":1000,"prediction":"v_prediction"},'
    '"train":{"steps":6,"batch_size":16,"learning_rate":0.0001,"warmup_steps":2,"weight_decay":0.0,"beta2":0.99,'
    '"clip_norm":1.0,"ema_decay":0.999,"label_dropout":0.1,"weighting":"none","min_snr_gamma":5.0,'
    '"precision":"float32","device":"cpu","seed":0,"checkpoint_every":500,"sample_every":500}}'
)


@pytest.fixture
def said(tmp_path):
    """What a recipe is told, without the path in front; the replacements are made in a good one."""

    def said(*replacements: tuple[str, str]) -> str:
        text = GOOD
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "r.toml"
        path.write_text(text)
        with pytest.raises(BadInput) as caught:
            recipe.read(path)
        assert "\n" not in str(caught.value)
        assert caught.value.exit_code == 2
        return str(caught.value).removeprefix(f"{path}, ").removeprefix(f"{path}: ")

    return said


def test_a_good_one(tmp_path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(GOOD)
    read = recipe.read(path)
    assert (read.data.name, read.model.block_out_channels, read.train.steps) == ("digits", [16, 32], 6)
    assert read.train.learning_rate == 1e-4


def test_the_json_that_checkpoints_are_known_by_never_changes(tmp_path) -> None:
    (tmp_path / "r.toml").write_text(GOOD)
    assert recipe.read(tmp_path / "r.toml").model_dump_json() == JSON


def test_the_bundled_model_s_recipe_is_good() -> None:
    assert recipe.read(EMOJI32).data.name == "emoji"


def test_only_a_set_skip_bad_is_in_it(tmp_path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(GOOD.replace('"digits"', '"folder"\npath = "x"\nskip_bad = true'))
    assert recipe.read(path).model_dump()["data"] == {"name": "folder", "size": 8, "path": "x", "skip_bad": True}


def test_unknown_keys(said) -> None:
    assert said(("steps = 6", "steps = 6\nlearnig_rate = 1e-3")) == (
        "line 12: train.learnig_rate is not known; did you mean 'learning_rate'?"
    )
    assert said(("[train]", "[trian]")) == "line 10: trian is not known; did you mean 'train'?"
    assert said(("size = 8", "size = 8\nzzz = 1")) == (
        "line 4: data.zzz is not known; known: name, size, path, skip_bad"
    )


def test_missing_keys(said) -> None:
    assert said(("steps = 6\n", "")) == "train.steps is missing; add it"
    assert said(("[train]\nsteps = 6\nbatch_size = 16\nwarmup_steps = 2\n", "")) == "train is missing; add it"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("steps = 6", "steps = -5", "line 11: train.steps = -5: input should be greater than or equal to 1; "),
        ("batch_size = 16", "batch_size = 0", "line 12: train.batch_size = 0: input should be greater than or equal"),
        ("warmup_steps = 2", "learning_rate = nan", "line 13: train.learning_rate = nan: input should be a finite"),
        ("warmup_steps = 2", "learning_rate = 2", "line 13: train.learning_rate = 2: input should be less than or "),
        ("steps = 6", 'steps = "6"', "line 11: train.steps = '6': input should be a valid integer"),
        ("steps = 6", "steps = 6.0", "line 11: train.steps = 6.0: input should be a valid integer"),
        ("steps = 6", "steps = true", "line 11: train.steps = True: input should be a valid integer"),
        ("[16, 32]", "[16, -32]", "line 6: model.block_out_channels.1 = -32: input should be greater than or"),
        ("[16, 32]", "[]", "line 6: model.block_out_channels = []: list should have at least 1 item"),
        ('"digits"', '"digit"', "line 2: data.name = 'digit': input should be 'emoji', 'digits' or 'folder'"),
    ],
)
def test_wrong_values(said, old: str, new: str, expected: str) -> None:
    assert said((old, new)).startswith(expected)


def test_the_allowed_range_is_named(said) -> None:
    assert said(("warmup_steps = 2", "learning_rate = nan")).endswith("; allowed: > 0, <= 1")
    assert said(("size = 8", "size = 4000")).endswith("; allowed: >= 8, <= 1024")
    assert said(("warmup_steps = 2", "clip_norm = -1.0")).endswith("; allowed: > 0")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("size = 8", "size = 9", "line 3: data.size = 9 can't be halved 1 times (2 levels); use 8 or 10"),
        ("[16, 32]", "[16, 36]", "line 6: model.block_out_channels has 36, no multiple of norm_num_groups = 8"),
        ("head_dim = 16", "head_dim = 24", "line 8: model.attention_head_dim = 24 does not divide the 32 channels of "),
        ("levels = [1]", "levels = [2]", "line 7: model.attention_levels has 2; the levels are 0 to 1"),
        ("levels = [1]", "levels = [-1]", "line 7: model.attention_levels has -1; the levels are 0 to 1"),
        ("warmup_steps = 2", "warmup_steps = 6", "line 13: train.warmup_steps = 6 must be less than train.steps = 6"),
        ("size = 8", 'size = 8\npath = "x"', "line 4: data.path is only for data.name = 'folder', not for 'digits'"),
        ('"digits"', '"folder"', "data.path is missing, though data.name is 'folder'; add it"),
    ],
)
def test_what_does_not_go_together(said, old: str, new: str, expected: str) -> None:
    assert said((old, new)).startswith(expected)


def test_what_passes_the_check_can_be_built_and_what_does_not_can_t() -> None:
    """The check against the network itself, on its three rules."""
    from hasten.model.folder import unet

    assert unet((1, 8, 8), 11, [16, 32], 1, [1], 16, 8)
    with pytest.raises(ValueError, match="divisible by num_groups"):
        unet((1, 8, 8), 11, [16, 36], 1, [], 12, 8)


def test_a_table_that_is_none(said) -> None:
    assert said(('[data]\nname = "digits"\nsize = 8\n', "data = 3\n")) == "line 1: data must be a table; write [data]"


def test_what_is_no_toml(tmp_path) -> None:
    path = tmp_path / "r.toml"
    for content, why in [
        (b"steps = = 3", "is not TOML.*line 1"),
        (b"\xff\xfe", "is not TOML"),
        (b"a = " + b"[" * 5000, "is not TOML"),
    ]:
        path.write_bytes(content)
        with pytest.raises(BadInput, match=why):
            recipe.read(path)
    with pytest.raises(BadInput, match=r"No such file.*pass a TOML file"):
        recipe.read(tmp_path / "none.toml")
    with pytest.raises(BadInput, match="directory"):
        recipe.read(tmp_path)


def test_reading_one_imports_no_torch() -> None:
    import subprocess
    import sys

    code = f"import sys; from hasten.train import recipe; recipe.read({str(EMOJI32)!r}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
