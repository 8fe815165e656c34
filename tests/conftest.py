"""Fixtures that several tests share: tiny real models, made with plain diffusers code."""

from __future__ import annotations

import atexit
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
# Kernels that inductor kept from a run as another processor end this one in a segmentation fault.
os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp(prefix="hasten-inductor-")

from hasten.environment import quiet

quiet()
atexit.register(shutil.rmtree, os.environ["TORCHINDUCTOR_CACHE_DIR"], ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def history_apart(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test, nor a process that it starts, writes to a person's own history."""
    os.environ["HASTEN_HISTORY"] = str(tmp_path_factory.mktemp("history") / "history.jsonl")


@pytest.fixture(scope="session", autouse=True)
def processor() -> Iterator[None]:
    """torchao asks the processor itself for VNNI; it has none where ATEN_CPU_CAPABILITY plays one without."""
    with pytest.MonkeyPatch.context() as patch:
        if os.environ.get("ATEN_CPU_CAPABILITY") == "avx2" and importlib.util.find_spec("torchao"):
            patch.setattr("torchao.utils.should_reduce_range", lambda device: device.type == "cpu")
        yield


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labelled UNet2DModel for digits (1, 8, 8): cosine schedule, v-prediction, random weights by seed."""
    return make_folder(tmp_path_factory.mktemp("tiny") / "model", 1, "squaredcos_cap_v2", "v_prediction", 10)


@pytest.fixture(scope="session")
def other_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another kind of model: three channels, no labels, linear schedule, epsilon prediction, other widths."""
    return make_folder(tmp_path_factory.mktemp("other") / "model", 3, "linear", "epsilon", None, (16, 24))


@pytest.fixture(scope="session")
def shallow_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first one with half the layers and no attention, for a compiler, which takes its time for each."""
    folder = tmp_path_factory.mktemp("shallow") / "model"
    return make_folder(folder, 1, "squaredcos_cap_v2", "v_prediction", 10, shallow=True)


def make_folder(
    folder: Path,
    channels: int,
    schedule: str,
    prediction: str,
    labels: int | None,
    widths: tuple[int, ...] = (16, 32),
    shallow: bool = False,
) -> Path:
    """A DDIM pipeline folder written by diffusers itself."""
    import torch
    from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel

    torch.manual_seed(0)
    network = UNet2DModel(
        sample_size=8,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=widths,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D" if shallow else "AttnDownBlock2D"),
        mid_block_type=None if shallow else "UNetMidBlock2D",
        up_block_types=("UpBlock2D" if shallow else "AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        attention_head_dim=8,
        num_class_embeds=labels,
    )
    scheduler = DDIMScheduler(beta_schedule=schedule, prediction_type=prediction, clip_sample=False)
    DDIMPipeline(network, scheduler).save_pretrained(folder, safe_serialization=True)
    return folder
