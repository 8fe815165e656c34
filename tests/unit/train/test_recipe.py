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


IDENTITY = (
    '{"data":{"name":"digits","size":8},"model":{"block_out_channels":[16,32],"attention_levels":[1],'
    '"attention_head_dim":16},"train":{"steps":6,"batch_size":16,"warmup_steps":2}}'
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


def test_what_a_run_is_known_by_are_the_fields_that_were_set(tmp_path) -> None:
    """New fields leave older runs as they were; what no weight depends on may change on the way."""
    path = tmp_path / "r.toml"
    path.write_text(GOOD)
    assert recipe.read(path).identity == IDENTITY
    path.write_text(GOOD.replace("size = 8", "size = 8\nworkers = 2") + "log_every = 3\nlearning_rate = 1e-4\n")
    assert recipe.read(path).identity == IDENTITY


def test_the_bundled_model_s_recipe_is_good() -> None:
    assert recipe.read(EMOJI32).data.name == "emoji"


def test_a_memory_budget_in_bytes(tmp_path) -> None:
    path = tmp_path / "r.toml"
    for text, expected in {"1.5 GiB": 3 * 2**29, "200MB": 200_000_000, "64 KiB": 65536}.items():
        path.write_text(GOOD + f'memory = "{text}"\n')
        assert recipe.read(path).budget_bytes == expected
    path.write_text(GOOD)
    assert recipe.read(path).budget_bytes is None


def test_unknown_keys(said) -> None:
    assert said(("steps = 6", "steps = 6\nlearnig_rate = 1e-3")) == (
        "line 12: train.learnig_rate is not known; did you mean 'learning_rate'?"
    )
    assert said(("[train]", "[trian]")) == "line 10: trian is not known; did you mean 'train'?"
    assert said(("size = 8", "size = 8\nzzz = 1")) == (
        "line 4: data.zzz is not known; known: name, size, path, skip_bad, buckets, flip, shift, vae, workers"
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
    assert said(("warmup_steps = 2", "clip_norm = -1.0")).endswith("; allowed: >= 0")


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
        ("steps = 6", "steps = 6\naccumulate = 3", "line 12: train.accumulate = 3 does not divide train.batch_size = "),
        ("steps = 6", 'steps = 6\nmemory = "1 GiB"\ncheckpointing = "full"', "line 12: train.memory chooses what is "),
        ("steps = 6", "steps = 6\nclip_zscore = 2.5", "line 12: train.clip_zscore limits the norm itself; set train."),
        ("steps = 6", "steps = 6\nstep_in_backward = true", "line 12: train.step_in_backward uses gradients before "),
        (
            "steps = 6",
            'steps = 6\nclip_norm = 0\nprecision = "float16"\nstep_in_backward = true',
            "line 14: train.step_in_backward does not go with precision = 'float16'",
        ),
        (
            "steps = 6",
            'steps = 6\nclip_norm = 0\noptimizer = "muon"\nstep_in_backward = true',
            "line 14: train.step_in_backward takes one weight at a time",
        ),
        ("steps = 6", 'steps = 6\nlearning_rate_schedule = "plateau"', "line 12: train.learning_rate_schedule = 'pl"),
        ("steps = 6", 'steps = 6\noptimizer = "schedule_free"', "line 12: train.optimizer = 'schedule_free' needs "),
        ("size = 8", 'size = 8\nvae = "x"\nflip = true', "line 4: data.vae makes latents, which can't be flipped"),
        ("[model]", '[model]\nschedule = "flow"', "model.prediction = 'v_prediction' does not go with model.schedule "),
        ("size = 8", "size = 8\nbuckets = true", "line 4: data.buckets is only for data.name = 'folder'"),
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
        (b"\xff\xfe", "invalid start byte; pass a recipe.toml"),
        (b"a = 0x" + b"f" * 9000, "a is not known"),
        (b"[train]\nsteps = 1\n[data]\nname = 'digits'\nsize = 0x" + b"f" * 9000, "is not TOML"),
        (b"a = 1\n" * 9000, "over 16384 bytes"),
        (b"a = " + b"[" * 5000, "is not TOML"),
    ]:
        path.write_bytes(content)
        with pytest.raises(BadInput, match=why):
            recipe.read(path)
    with pytest.raises(BadInput, match=r"No such file.*pass a recipe.toml"):
        recipe.read(tmp_path / "none.toml")
    with pytest.raises(BadInput, match="is a folder"):
        recipe.read(tmp_path)


def test_reading_one_imports_no_torch() -> None:
    import subprocess
    import sys

    code = f"import sys; from hasten.train import recipe; recipe.read({str(EMOJI32)!r}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
