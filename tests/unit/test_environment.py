"""Where a figure was measured; and that dependencies stay silent."""

import getpass
import json
import os
import subprocess
import sys

import pytest

from hasten import environment
from hasten.errors import BadInput
from hasten.files import size


@pytest.fixture(scope="module")
def here():
    return environment.environment()


def test_it_is_json_and_says_what_is_installed(here) -> None:
    import torch

    assert json.loads(json.dumps(here)) == here
    assert here["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert here["cores"] == len(os.sched_getaffinity(0))
    assert here["python"] == ".".join(map(str, sys.version_info[:3]))
    assert 2**28 < here["memory_bytes"] < 2**50
    assert (here["gpu"] is None) == (not torch.cuda.is_available())
    assert here["cpu"]


def test_flags_are_those_of_the_processor(here, tmp_path, monkeypatch) -> None:
    text = "processor : 0\nmodel name\t: A Processor\nflags\t\t: fpu avx2 avx512_vnni\nprocessor : 1\n"
    monkeypatch.setattr(environment.Path, "read_text", lambda *_args, **_options: text)
    assert environment._cpu() == ("A Processor", {"fpu", "avx2", "avx512_vnni"})


def test_a_machine_without_proc(monkeypatch) -> None:
    def missing(*_args, **_options):
        raise FileNotFoundError

    monkeypatch.setattr(environment.Path, "read_text", missing)
    model, flags = environment._cpu()
    assert model
    assert flags == set()


def changed(here, **changes):
    return {**here, **changes}


def test_the_fingerprint_follows_what_timings_depend_on(here) -> None:
    same = environment.fingerprint(here)
    assert len(same) == 12
    assert environment.fingerprint(json.loads(json.dumps(here))) == same
    assert environment.fingerprint(changed(here, commit="abc")) == same
    assert environment.fingerprint(changed(here, os="Linux 1.2.3")) == same
    for other in [
        changed(here, cpu="another"),
        changed(here, cpu_flags=[]),
        changed(here, cores=99),
        changed(here, threads="7"),
        changed(here, gpu={"name": "H100"}),
        changed(here, packages={**here["packages"], "openvino": "0"}),
    ]:
        assert environment.fingerprint(other) != same


def test_differences_are_words(here) -> None:
    assert environment.differences(here, json.loads(json.dumps(here))) == []
    there = changed(here, cores=4, memory_bytes=2**34, packages={**here["packages"], "torch": "2.11.0"})
    assert environment.differences(here, there) == [
        f"cores {here['cores']} here, 4 there",
        f"memory {size(here['memory_bytes'])} here, 17.2 GB there",
        f"torch {here['packages']['torch']} here, 2.11.0 there",
    ]
    assert environment.differences({"gpu": None}, {"gpu": {"name": "H100"}}) == ["gpu name none here, H100 there"]
    assert environment.differences({"cpu_flags": ["avx2"]}, {}) == ["cpu flags avx2 here, none there"]


def test_a_commit_only_in_a_checkout_of_one_s_own(tmp_path) -> None:
    assert environment._commit(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.example"]
    subprocess.run([*git, "init", "-q"], check=True)
    assert environment._commit(tmp_path) is None
    (tmp_path / "x").write_text("1")
    subprocess.run([*git, "add", "x"], check=True)
    subprocess.run([*git, "commit", "-qm", "first"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    assert environment._commit(tmp_path) == head[:12]
    (tmp_path / "x").write_text("2")
    assert environment._commit(tmp_path) == f"{head[:12]}-dirty"


def test_devices() -> None:
    assert environment.devices()[0] == "cpu"
    environment.check_device("cpu")
    for name in ["cuda:99", "gpu", "", "cpu:0"]:
        with pytest.raises(BadInput, match="on this machine; use cpu"):
            environment.check_device(name)


# what OpenVINO and NNCF do when they are used: an event on import, a session on quantize, threads that send
USE = """\
import sys
if sys.argv[1] == "quiet":
    from hasten.environment import quiet
    quiet()
sent = []
import urllib.request
urllib.request.urlopen = lambda *a, **k: sent.append(a)
import multiprocessing
class InPlace:
    def __init__(self, target, args): target(*args)
    def __getattr__(self, name): return lambda *a: False
multiprocessing.Process = InPlace
import openvino
from nncf.telemetry import telemetry
telemetry.start_session("nncf")
telemetry.end_session("nncf")
found = sys.modules.get("openvino_telemetry")
if found:
    found.Telemetry().force_shutdown(5)
print(len(sent))
"""


@pytest.mark.parametrize(("how", "silent"), [("quiet", True), ("as it comes", False)])
def test_nothing_is_sent_and_nothing_written_to_the_home_folder(tmp_path, how: str, silent: bool) -> None:
    """The second case shows that the first could fail; it sends into a list."""
    kept = {name: value for name, value in os.environ.items() if name not in {"CI", "TF_BUILD", "JENKINS_URL", *SILENT}}
    done = subprocess.run(
        [sys.executable, "-c", USE, how],
        capture_output=True,
        text=True,
        check=True,
        env={**kept, "HOME": str(tmp_path)},
    )
    assert (int(done.stdout.split()[-1]) == 0) == silent
    assert ([p.name for p in tmp_path.rglob("*")] == []) == silent


SILENT = set(environment.SILENT)


def test_quiet_is_heard_by_the_hub_and_by_children() -> None:
    code = (
        "from hasten.environment import quiet; quiet(); import subprocess, sys, huggingface_hub.constants as c;"
        "print(c.HF_HUB_DISABLE_TELEMETRY, c.HF_HUB_OFFLINE);"
        "subprocess.run([sys.executable, '-c', 'import os; print(os.environ[\"NNCF_CI\"])'])"
    )
    kept = {name: value for name, value in os.environ.items() if name not in SILENT}
    done = subprocess.run([sys.executable, "-uc", code], capture_output=True, text=True, check=True, env=kept)
    assert done.stdout.split() == ["True", "True", "1"]


def test_importing_it_imports_nothing_heavy() -> None:
    code = (
        "import sys, hasten.environment; print([m for m in ('torch', 'numpy', 'openvino', 'nncf') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_child_runs_no_code_of_the_current_folder(tmp_path) -> None:
    (tmp_path / "json.py").write_text("print('planted')")
    command = environment.python_child("-c", "import json; print(json.dumps([1]))")
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout == "[1]\n"


def test_a_user_whom_the_system_does_not_know_gets_a_name(monkeypatch) -> None:
    def unknown(_number):
        raise KeyError

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    environment.quiet()
    assert getpass.getuser() == f"uid{os.getuid()}"
    monkeypatch.delenv("LOGNAME")
