"""What distances are measured to: data, or, without any, samples that the model made itself."""

from __future__ import annotations

import torch

from hasten.data.array import Data
from hasten.measure import quality
from hasten.measure.copies import MOST_TRAINING
from hasten.measure.features import Features
from hasten.measure.quality import Reference
from hasten.model.target import Target
from hasten.seeds import Purpose
from hasten.story.stages import ways
from hasten.story.stages.run import UNTIMED_BATCH, Run
from hasten.story.stages.ways import CONVERGED, Way

IMAGES, FEWEST_IMAGES = 256, 64
END = 0.3  # the share of the time by whose end these are made


def of_data(network: Target, data: Data, features: Features | None) -> Reference:
    """The data's training part; the part that is held out tells how often real samples look like copies."""
    kept_apart = data.part(held_out=True, most=MOST_TRAINING)[0]
    train = data.part(held_out=False, most=MOST_TRAINING)[0]
    return quality.reference(network, train, origin=data.name, real=kept_apart, features=features)


def read(run: Run, target: Target, tried: list[Way]) -> Reference:
    """That of the run's data, or the model's own converged samples."""
    features = run.settings.features
    run.say("search", "reference features and the baseline's samples")
    if run.data is not None:
        return of_data(target, run.data, features)
    converged = ways.faithful(run, tried, CONVERGED)
    cost = ways.faithful_seconds(tried) * CONVERGED.steps
    images = max(run.images_that_fit(cost, 1, END, IMAGES), FEWEST_IMAGES)
    cases = run.workload(Purpose.REFERENCE, -(-images // UNTIMED_BATCH), UNTIMED_BATCH).cases
    run.warnings.append("no data was given: distances are to the model's own converged samples")
    made = torch.cat([converged.sample(case) for case in cases])
    return quality.reference(target, made, origin="the model's own converged samples", features=features)
