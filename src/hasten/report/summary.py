"""The run in words: what came out, how fast, how good, how small."""

from __future__ import annotations

from hasten.report import words
from hasten.report.result import Quality, Ratio, Result, Speedup, Variant


def headline(result: Result) -> str:
    """One line: what came out."""
    name = words.cut(result.source.name, 60)
    if result.candidate is None:
        return f"{name}: nothing was confirmed to be faster"
    if not result.passed:
        return f"{name}: no plan held the budget"
    ratio = result.speedup.ratio if result.speedup else None
    if not result.speedup or not ratio or result.speedup.verdict not in ("FASTER", "SLOWER"):
        return f"{name}: no verdict on its speed"
    faster = result.speedup.verdict == "FASTER"
    text = f"{name}: {words.times(ratio if faster else 1 / ratio)} {'faster' if faster else 'slower'}"
    return f"{text}, {result.quality.verdict}" if result.quality and result.quality.verdict else text


def speed(speedup: Speedup | None) -> dict[str, str]:
    """The verdict on speed: ``figure``, ``word``, ``tone`` and ``interval``."""
    if speedup is None or not speedup.ratio:
        return {"figure": "\u2013", "word": "not measured", "tone": "", "interval": ""}
    if speedup.verdict == "SLOWER":
        turned = Ratio(ratio=1 / speedup.ratio, low=_turned(speedup.high), high=_turned(speedup.low))
        return _speed(turned, speedup, "slower", "bad")
    if speedup.verdict == "FASTER":
        return _speed(speedup, speedup, "faster", "good")
    return _speed(speedup, speedup, "undecided", "fair")


def _turned(value: float | None) -> float | None:
    return 1 / value if value else None


def _speed(shown: Ratio, speedup: Speedup, word: str, tone: str) -> dict[str, str]:
    interval = f"95{words.NBSP}% interval {words.number(shown.low)} to {words.number(shown.high)}"
    if speedup.rounds is not None:
        interval += f", {words.whole(speedup.rounds)} rounds"
    return {"figure": words.times(shown.ratio), "word": word, "tone": tone, "interval": interval}


TONES = {
    "no measurable loss": "good",
    "within budget": "good",
    "measurable loss": "bad",
    "too few samples to tell": "fair",
}


def quality(found: Quality | None, judged: bool) -> dict[str, str]:
    """The verdict on quality in words: ``word``, ``tone`` and what could have been seen; ``judged`` with data."""
    if found is None or not found.verdict:
        detail = "It was not measured." if judged else "There was no reference data to judge by."
        return {"word": "Not judged", "tone": "fair", "detail": detail}
    lines = []
    if found.loss is not None:
        lines.append(f"Loss {_interval(found.loss, found.loss_low, found.loss_high)}.")
    if found.detectable is not None:
        lines.append(f"A loss of {words.share(found.detectable)} or more would have been seen.")
    word = found.verdict[:1].upper() + found.verdict[1:]
    return {"word": word, "tone": TONES.get(found.verdict, "fair"), "detail": " ".join(lines)}


def quality_rows(found: Quality | None) -> list[tuple[str, str]]:
    """Everything measured about quality, as name and value."""
    if found is None:
        return []
    rows = [
        ("distance of the baseline to the reference", words.number(found.baseline_distance)),
        ("distance of the candidate to the reference", words.number(found.candidate_distance)),
        ("noise floor: the baseline's own spread from seed to seed", words.number(found.noise_floor)),
        ("loss, with its 95 % interval", _interval(found.loss, found.loss_low, found.loss_high)),
        ("smallest loss that this run would have seen", words.share(found.detectable)),
        ("budget", words.share(found.budget) if found.budget is not None else "none"),
        ("drift from the baseline's samples (more is closer)", words.decibel(found.drift_db)),
    ]
    for plan, value in (found.drift_db_converged or {}).items():
        rows.append((f"drift of the {plan} from the model's converged samples", words.decibel(value)))
    if found.second_opinion is not None:
        other = found.second_opinion
        distances = f"{words.number(other.baseline)} to {words.number(other.candidate)}"
        rows.append((f"second opinion, {other.name}: distances", distances))
        rows.append((f"second opinion, {other.name}: loss", _interval(other.loss, other.low, other.high)))
    if found.copies is not None:
        shares = f"{words.share(found.copies.baseline)} to {words.share(found.copies.candidate)}"
        real = (
            f" (of real samples kept apart {words.share(found.copies.real)})" if found.copies.real is not None else ""
        )
        rows.append(("samples that copy a training sample", shares + real))
    rows.append(("pairs from the same noise", words.whole(found.pairs)))
    rows.append(("reference samples", words.whole(found.reference)))
    rows.append(("features", found.features or words.MISSING))
    return rows


def _interval(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return words.MISSING
    return f"{words.change(value)} ({words.change(low)} to {words.change(high)})"


def memory(baseline: Variant, candidate: Variant | None) -> dict[str, str]:
    """Peak memory: ``figure``, ``word`` and ``detail``."""
    before, after = baseline.peak_bytes, candidate.peak_bytes if candidate else None
    if not before or not after:
        return _unknown(f"The baseline's peak is {words.size(before)}." if before else "")
    detail = f"Peak {words.size(before)} before, {words.size(after)} after, each in a process of its own."
    return _less(before, after, detail)


def disk(baseline: Variant, candidate: Variant | None) -> dict[str, str]:
    """The network's bytes on disk: ``figure``, ``word`` and ``detail``."""
    before, after = baseline.weight_bytes, candidate.weight_bytes if candidate else None
    if not before or not after:
        return _unknown(f"The baseline's network takes {words.size(before)}." if before else "")
    return _less(before, after, f"The network takes {words.size(before)} before, {words.size(after)} after.")


def _unknown(detail: str) -> dict[str, str]:
    return {"figure": "\u2013", "word": "not measured", "detail": detail}


def _less(before: float, after: float, detail: str) -> dict[str, str]:
    change = after / before - 1
    word = "less" if change < 0 else "more" if change > 0 else "change"
    return {"figure": words.share(abs(change)), "word": word, "detail": detail}
