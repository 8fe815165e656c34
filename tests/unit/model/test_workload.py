"""Cases: the same noise for every candidate, wherever it computes."""

import torch

from hasten.model.workload import draw


def test_a_case_moves_whole_and_its_noise_stays_the_same() -> None:
    case = draw((2, 4, 4), 1, 3, seed=7, labels=range(5)).cases[0]
    there = case.to("meta")
    assert there.noise.device.type == there.labels.device.type == "meta"
    assert there.seed == case.seed
    again = draw((2, 4, 4), 1, 3, seed=7, labels=range(5)).cases[0].to("cpu")
    assert torch.equal(again.noise, case.noise)
    assert torch.equal(again.fresh(2), there.fresh(2))
    assert draw((2, 4, 4), 1, 3, seed=7).cases[0].to("meta").labels is None
