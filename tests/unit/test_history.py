"""The history file (whole lines from many processes), and what is flagged: by simulation, both ways."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from hasten import history
from hasten.cli import cli
from hasten.errors import BadInput
from hasten.history import Entry, Figure, Side
from hasten.measure.doubt import reason
from hasten.measure.pair import Comparison, Observation
from hasten.measure.stats import Verdict, median_ratio, verdict
from hasten.report import history_text

SIDES = {"a": Side("emoji", "w1", "p0", ["DDIM"]), "b": Side("emoji", "w1", "p1", ["DPM", "int8"])}
ENV = {"cpu": "X", "cores": 2, "commit": "abcdef123456-dirty", "packages": {"torch": "2.13"}}


def speedup(ratio: float, width: float = 0.02) -> Figure:
    return Figure(ratio, ratio * (1 - width), ratio * (1 + width), 12, "x", paired=True)


def entry(ratio: float, day: int = 1, **other: object) -> Entry:
    made = Entry("compare", "emoji", f"2026-01-{day:02}T10:00:00+00:00", "abcdef1", "f1", ENV, SIDES, {}, {})
    return replace(made, **({"figures": {"speedup": speedup(ratio)}} | other))


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "state" / "history.jsonl"
    monkeypatch.setenv("HASTEN_HISTORY", str(path))
    return path


def test_what_is_recorded_is_read_again(file):
    figures = {"speedup": speedup(2.0), "peak_bytes_a": Figure(1e9, unit="bytes")}
    settings = {"images_per_case": 4, "data": None}
    assert history.record("compare", "emoji", figures, sides=SIDES, settings=settings, env=ENV) is None
    assert history.record("profile", "emoji", {}, sides={"a": SIDES["a"]}, env=ENV) is None
    entries, unreadable = history.read(file)
    assert unreadable == 0
    first = next(entry for entry in entries if entry.kind == "compare")
    assert (first.figures, first.sides, first.settings) == (figures, SIDES, settings)
    assert first.commit == "abcdef123456-dirty"
    assert len(first.fingerprint) == 12
    assert len(file.read_text().splitlines()) == 2


WRITE = """
import sys
from pathlib import Path
from hasten.history import append
for i in range(200):
    append(Path(sys.argv[1]), '{"who": "%s", "n": %d, "long": "%s"}' % (sys.argv[2], i, "x" * 3000 * (i % 3)))
"""


def test_processes_that_write_at_once_lose_and_mix_nothing(file):
    writers = [subprocess.Popen([sys.executable, "-c", WRITE, str(file), who]) for who in "abc"]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for who in "abc":
        assert [row["n"] for row in rows if row["who"] == who] == list(range(200))


def test_without_a_home_folder_nothing_is_recorded(monkeypatch):
    def unknown():
        raise RuntimeError("Could not determine home directory.")

    for name in ("HASTEN_HISTORY", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", unknown)
    assert history.record("compare", "emoji", {}, sides=SIDES, env=ENV) is None
    result = CliRunner().invoke(cli, ["history"])
    assert isinstance(result.exception, BadInput)
    assert "no home folder is known; name a history with --file" in str(result.exception)


def test_on_a_disk_without_locks_runs_are_recorded_all_the_same(file, monkeypatch):
    def fail(*_arguments):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", fail)
    assert history.record("compare", "emoji", {}, sides=SIDES, env=ENV) is None
    assert len(history.read(file)[0]) == 1


def test_a_line_torn_by_someone_else_stays_its_own_and_is_counted(file):
    file.parent.mkdir()
    torn = b'{"kind": "compare", "sub'
    file.write_bytes(torn)
    history.record("compare", "emoji", {"speedup": speedup(2.0)}, sides=SIDES, env=ENV)
    entries, unreadable = history.read(file)
    assert (len(entries), unreadable) == (1, 1)
    assert file.read_bytes().startswith(torn + b"\n")


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "null",
        "\x00\xff",
        '{"kind": "compare"}',
        json.dumps(asdict(entry(2.0)) | {"version": 99}),
        json.dumps(asdict(entry(2.0)) | {"unknown": 1}),
        json.dumps(asdict(entry(2.0)) | {"created": "yesterday"}),
        json.dumps(asdict(entry(float("nan")))),
        json.dumps(asdict(entry(2.0)) | {"figures": {"speedup": {"value": "2"}}}),
        json.dumps(asdict(entry(2.0)) | {"figures": {"speedup": 2.0}}),
        json.dumps(asdict(entry(2.0)) | {"sides": {"a": {"source": "x"}}}),
        json.dumps(asdict(entry(2.0)) | {"settings": None}),
        json.dumps(asdict(entry(2.0)) | {"sides": {"a": asdict(SIDES["a"]) | {"label": [1]}}}),
    ],
)
def test_what_is_no_run_is_left_out_and_counted(tmp_path, line):
    path = tmp_path / "history.jsonl"
    good = json.dumps(asdict(entry(2.0)))
    path.write_text(f"{good}\n{line}\n{good}\n")
    entries, unreadable = history.read(path)
    assert (len(entries), unreadable) == (2, 1)


def test_a_history_that_cannot_be_written_to_is_a_warning(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HASTEN_HISTORY", str(tmp_path / "file" / "history.jsonl"))
    said = history.record("compare", "emoji", {}, sides=SIDES, env=ENV)
    assert said is not None
    assert "can't be written to (File exists); set HASTEN_HISTORY to another file or to off" in said


def test_a_full_disk_leaves_no_half_line(file, monkeypatch):
    history.append(file, "{}")
    whole, write = file.read_bytes(), history.os.write
    monkeypatch.setattr(history.os, "write", lambda handle, content: write(handle, content[:3]))
    with pytest.raises(OSError, match="no room"):
        history.append(file, '{"more": 1}')
    assert file.read_bytes() == whole


@pytest.mark.parametrize("off", ["off", ""])
def test_it_can_be_turned_off(monkeypatch, off):
    monkeypatch.setenv("HASTEN_HISTORY", off)
    assert history.place() is None
    assert history.record("compare", "emoji", {}, sides=SIDES, env=ENV) is None


def test_its_place_is_that_of_state_not_of_caches(monkeypatch, tmp_path):
    monkeypatch.delenv("HASTEN_HISTORY")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert history.place() == tmp_path / "hasten" / "history.jsonl"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert history.place() == tmp_path / "home" / ".local" / "state" / "hasten" / "history.jsonl"


def test_only_runs_of_the_same_things_on_the_same_machine_are_one_series():
    other = {"a": SIDES["a"], "b": replace(SIDES["b"], plan_hash="p2")}
    relabelled = {"a": SIDES["a"], "b": replace(SIDES["b"], label=["another name"])}
    entries = [
        entry(1.0, 1),
        entry(2.0, 2, fingerprint="f2"),
        entry(3.0, 3, sides=other),
        entry(4.0, 4, settings={"images_per_case": 1}),
        entry(5.0, 5, kind="optimize"),
        entry(1.0, 6, subject="the same by another name", sides=relabelled),
    ]
    found = history.series(entries, "speedup")
    assert [[run.figure.value for run in one.runs] for one in found] == [[2.0], [3.0], [4.0], [5.0], [1.0, 1.0]]
    assert all(run.change == "" for one in found for run in one.runs)


def test_what_a_run_of_optimize_found_is_its_outcome_and_splits_no_series(file):
    """The winner moves from run to run; the model, what was asked for, and the machine make a series."""
    won = [{"a": SIDES["a"], "b": Side("emoji", "w1", f"p{n}", [f"DEIS {n} steps"])} for n in (7, 8, 7)]
    retrained = {"a": replace(SIDES["a"], weight_hash="w2"), "b": SIDES["b"]}
    asked = {"goal": "throughput", "budget": "quality=2%"}
    write(
        file,
        *(
            entry(ratio, day, kind="optimize", sides=sides, settings=asked)
            for day, (ratio, sides) in enumerate(zip((9.0, 9.1, 12.0), won, strict=True), 1)
        ),
        entry(1.0, 4, kind="optimize", sides=won[0], settings=asked | {"goal": "latency"}),
        entry(1.0, 5, kind="optimize", sides=retrained, settings=asked),
    )
    found = history.series(history.read(file)[0], "speedup")
    assert [[run.change for run in one.runs] for one in found] == [["", "", "up"], [""], [""]]
    lines = CliRunner().invoke(cli, ["history"]).output.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1:4] == ["A   DDIM", "B1  DEIS 7 steps", "B2  DEIS 8 steps"]
    assert [line[71:].split() for line in lines[5:8]] == [["B1"], ["B2"], ["up", "B1"]]
    assert "B  DPM, int8" in lines  # where all runs found one plan it needs no number


def test_a_change_is_apart_from_all_since_the_last_one():
    ratios = [2.0, 2.05, 1.97, 2.3, 2.28, 2.02, 2.01]
    assert history.changed([speedup(r) for r in ratios]) == ["", "", "", "up", "", "down", ""]
    assert history.changed([speedup(1.0), speedup(1.2, 0.25), speedup(1.5), speedup(1.3, 0.001)]) == [""] * 4


@pytest.mark.parametrize("other", [{"paired": False}, {"doubt": "noisy machine"}, {"low": None, "high": None}])
def test_what_carries_no_evidence_is_neither_flagged_nor_held_against_others(other):
    changed = replace(speedup(9.0), **other)
    assert history.changed([speedup(1.0), changed, speedup(1.0)]) == ["", "", ""]
    assert history.changed([changed, changed, replace(speedup(1.0), **other)]) == ["", "", ""]


def rounds(rng, ratio, n, noise, between=0.0):
    """A run's interval: n rounds with that noise a sample, and what runs differ by, in standard errors of a run."""
    deviation = noise * np.sqrt(2.0)
    shift = between * 1.25 * deviation / np.sqrt(n) * rng.standard_normal()
    found = median_ratio(np.ones(n), ratio * np.exp(shift + deviation * rng.standard_normal(n)))
    return Figure(found.ratio, found.low, found.high, n, "x", paired=True)


@pytest.mark.parametrize("n", [9, 15])
@pytest.mark.parametrize("between", [0.0, 1.0])
def test_thirty_runs_without_a_change_show_one_in_at_most_5_of_100_histories(n, between):
    """Also when runs differ by as much again as the rounds within them let expect."""
    rng = np.random.default_rng([n, int(between)])
    flagged = sum(any(history.changed([rounds(rng, 1.0, n, 0.02, between) for _ in range(30)])) for _ in range(200))
    assert flagged <= (10 if between else 4)


@pytest.mark.parametrize(("n", "noise"), [(9, 0.01), (15, 0.02)])
def test_a_change_of_10_percent_is_found_at_once_in_95_of_100_histories(n, noise):
    rng = np.random.default_rng(n)
    found = 0
    for _ in range(200):
        figures = [rounds(rng, 1.0 if day < 15 else 1.1, n, noise) for day in range(30)]
        found += history.changed(figures)[15] == "up"
    assert found >= 190


def comparison(baseline: list[float], candidate: list[float]) -> Comparison:
    interval = median_ratio(baseline, candidate)
    why = reason(interval, {"baseline": baseline, "candidate": candidate}, len(baseline))
    rows = [
        Observation(plan, 0, i, s, 4)
        for plan, each in (("candidate 0", candidate), ("baseline", baseline))
        for i, s in enumerate(each)
    ]
    decision = Verdict.UNDECIDED if why else verdict(interval)
    return Comparison(interval, decision, why, tuple(rows), (), (), 0.0, 0.0, 0.0, 0.0)


def test_figures_of_a_pair():
    baseline = [4.0, 4.1, 3.9, 4.0, 4.2, 3.8, 4.0, 4.1, 3.9]
    found = history.of_pair(comparison(baseline, [s / 2 for s in baseline]), None, [2**20, None])
    assert found["speedup"] == Figure(
        pytest.approx(2.0), pytest.approx(2.0), pytest.approx(2.0), 9, "x", True, "FASTER"
    )
    a, b = found["seconds_per_image_a"], found["seconds_per_image_b"]
    assert (a.value, a.low, a.high, a.n, a.paired) == (
        pytest.approx(1.0),
        pytest.approx(0.975),
        pytest.approx(1.025),
        9,
        False,
    )
    assert b.value == pytest.approx(0.5)
    assert found["peak_bytes_a"] == Figure(2.0**20, unit="bytes")
    assert "peak_bytes_b" not in found


def test_a_doubted_speed_is_recorded_as_such_and_an_interval_around_1_is_no_doubt():
    steady = [1.0, 1.01, 0.99, 1.0, 1.02, 0.98, 1.0, 1.01, 0.99]
    few = history.of_pair(comparison(steady[:5], steady[:5]), None, [None, None])["speedup"]
    assert few.doubt.startswith("too few rounds: 5")
    same = history.of_pair(comparison(steady, steady[::-1]), None, [None, None])["speedup"]
    assert (same.verdict, same.doubt) == ("UNDECIDED", "")


def write(path: Path, *entries: Entry) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(asdict(one)) + "\n" for one in entries))


def test_the_command_shows_each_machine_apart_and_flags_what_changed(file):
    absolute = {
        "speedup": speedup(2.0),
        "seconds_per_image_a": Figure(0.1, 0.09, 0.11, 12, "s"),
        "peak_bytes_a": Figure(6.274e9, unit="bytes"),
    }
    doubted = {"speedup": replace(speedup(9.0), doubt="noisy machine: baseline varied by 40 % over rounds")}
    write(
        file,
        *(entry(2.0 if day < 4 else 2.5, day) for day in range(1, 6)),
        entry(9.0, 6, figures=doubted),
        *(entry(1.0, day, fingerprint="f2", machine={"cpu": "Y", "cores": None}, figures=absolute) for day in (7, 8)),
    )
    done = CliRunner().invoke(cli, ["history"])
    assert done.exit_code == 0
    lines = done.output.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == "speedup of emoji (compare)"
    assert lines[2] == "B  DPM, int8"
    assert [line[71:].strip() for line in lines[4:10]] == ["", "", "", "up", "", "?"]
    assert "on X, 2 cores, fingerprint f1" in lines
    assert "on Y, fingerprint f2" in lines
    assert "Runs of different machines" in done.output
    assert "noisy machine: baseline varied by 40 %" in done.output

    shown = json.loads(CliRunner().invoke(cli, ["history", "--json", "--last", "2"]).output)
    assert [[run["change"] for run in one["runs"]] for one in shown["series"]] == [["", ""], ["", ""]]
    seconds = CliRunner().invoke(cli, ["history", "--figure", "seconds_per_image_a"]).output
    assert "0.1s" in seconds
    assert " 6.27 GB " in CliRunner().invoke(cli, ["history", "--figure", "peak_bytes_a"]).output
    assert "not measured in pairs" in " ".join(seconds.split())


def test_bars_show_the_interval_between_the_least_and_the_greatest_end(file):
    runs = [history.Reading("2026-01-01T10:00:00", "abcdef1-dirty", speedup(r), "") for r in (1.0, 2.0)]
    one = history.Series("compare", "emoji", "f1", ENV, SIDES, {}, "speedup", runs)
    first, second = history_text.table([one], 20, 0).split("\n\n")[0].splitlines()[-2:]
    assert first == "2026-01-01 10:00 abcdef1*        1x     0.98 to 1.02 o|"
    assert second == "2026-01-01 10:00 abcdef1*        2x     1.96 to 2.04                 o|"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--figure", "speedupp"], "error: figure 'speedupp': no run has it; did you mean 'speedup'?"),
        (["--kind", "bench"], "error: kind 'bench' is not in the history; known: compare"),
        (["--subject", "emojis"], "error: subject 'emojis' is not in the history; did you mean 'emoji'?"),
        (["--file", "nowhere.jsonl"], "error: history nowhere.jsonl: No such file or directory; run something first"),
    ],
)
def test_bad_input_is_one_line(file, arguments, message, monkeypatch, tmp_path, capsys):
    from hasten.cli import main

    monkeypatch.chdir(tmp_path)
    write(file, entry(2.0))
    with pytest.raises(SystemExit) as stop:
        main(["history", *arguments])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith(message)


def test_a_history_that_is_off_says_so(monkeypatch, capsys):
    monkeypatch.setenv("HASTEN_HISTORY", "off")
    result = CliRunner().invoke(cli, ["history"])
    assert isinstance(result.exception, BadInput)
    assert "HASTEN_HISTORY is off" in str(result.exception)
