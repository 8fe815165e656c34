"""Noise schedules from schedulers' configs; diffusers' schedulers are the oracle."""

import diffusers
import numpy as np
import pytest

from hasten.errors import BadInput
from hasten.model.inside import read_json
from hasten.model.noise import DISCRETE, EDM, FLOW, schedule_of

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # diffusers' own, with numpy 2
BETAS = [0.001, 0.01, 0.02, 0.5]
DISCRETE_CONFIGS = [
    {},
    {"beta_schedule": "linear", "beta_start": 0.001, "beta_end": 0.012, "num_train_timesteps": 100},
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 100},
    {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 100},
    {"trained_betas": BETAS, "num_train_timesteps": 4},
]


@pytest.mark.parametrize("name", DISCRETE)
@pytest.mark.parametrize("given", DISCRETE_CONFIGS)
def test_discrete_schedule_is_that_of_diffusers(name, given, tmp_path):
    theirs = getattr(diffusers, name)(**given)
    theirs.save_pretrained(tmp_path)  # as a folder has it, -Infinity included
    schedule, kind = schedule_of(read_json(tmp_path, "scheduler_config.json"))
    assert kind == "epsilon"
    count = len(theirs.alphas_cumprod)
    t = (np.arange(count) + 1) / count
    assert np.allclose(schedule.alpha(t) ** 2, theirs.alphas_cumprod.numpy(), rtol=2e-3, atol=1e-7)
    assert np.allclose(schedule.network_time(t), np.arange(count))
    short, _ = schedule_of({"_class_name": name, **given})
    assert short == schedule  # the defaults are diffusers' own


def test_prediction_types():
    for name in ("epsilon", "sample", "v_prediction"):
        assert schedule_of({"_class_name": "DDIMScheduler", "prediction_type": name})[1] == name


@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler", "EulerDiscreteScheduler"])
@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_zero_terminal_snr(name, beta_schedule):
    theirs = getattr(diffusers, name)(beta_schedule=beta_schedule, rescale_betas_zero_snr=True)
    schedule, _ = schedule_of({"_class_name": name, **theirs.config})
    t = (np.arange(1000) + 1) / 1000
    assert np.allclose(schedule.alpha(t[:-1]) ** 2, theirs.alphas_cumprod.numpy()[:-1], rtol=2e-3, atol=1e-6)
    assert schedule.knot_s[-1] == 2 * schedule.knot_s[-2]
    assert schedule.alpha(1.0) ** 2 < 1e-6
    assert theirs.alphas_cumprod[-1] < 1e-6


@pytest.mark.parametrize("name", EDM)
def test_edm(name):
    theirs = getattr(diffusers, name)(sigma_min=0.01, sigma_max=50.0)
    schedule, prediction = schedule_of({"_class_name": name, **theirs.config})
    assert prediction == "edm"
    theirs.set_timesteps(10)
    sigmas = theirs.sigmas.numpy()[:-1].astype(np.float64)
    t = schedule.t(sigmas)
    assert np.allclose(schedule.sigma(t), sigmas, rtol=1e-6)
    assert np.allclose(schedule.network_time(t), theirs.timesteps.numpy(), atol=1e-5)
    assert (schedule.knot_s[0], schedule.knot_s[-1]) == (0.01, 50.0)


@pytest.mark.parametrize("name", FLOW)
@pytest.mark.parametrize("shift", [1.0, 3.0, 9.0])
def test_flow(name, shift):
    theirs = getattr(diffusers, name)(shift=shift)
    schedule, prediction = schedule_of({"_class_name": name, **theirs.config})
    assert prediction == "flow"
    sigmas = theirs.sigmas.numpy().astype(np.float64)  # at t = 1000/1000, 999/1000, ..., 1/1000
    t = np.arange(1000, 0, -1) / 1000
    assert np.allclose(schedule.sigma(t)[1:], sigmas[1:], rtol=1e-5)
    assert np.allclose(schedule.network_time(t)[1:], theirs.timesteps.numpy()[1:], rtol=1e-5)
    assert np.allclose(schedule.alpha(t) + schedule.sigma(t), 1.0)


def test_flow_sigmas_of_a_multistep_solver():
    theirs = diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    schedule, prediction = schedule_of({"_class_name": "UniPCMultistepScheduler", **theirs.config})
    assert prediction == "flow"
    theirs.set_timesteps(20)
    sigmas = theirs.sigmas.numpy()[1:-1].astype(np.float64)
    assert np.allclose(schedule.network_time(schedule.t(sigmas / (1 - sigmas))), 1000 * sigmas, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"_class_name": "DDIMSchedular"}, "'DDIMSchedular' is not supported yet; did you mean 'DDIMScheduler'?"),
        ({"_class_name": "VQDiffusionScheduler"}, "'VQDiffusionScheduler' is not supported yet; "),
        ({"_class_name": "ScoreSdeVpScheduler"}, "'ScoreSdeVpScheduler' is not supported yet; known: DDIMParallel"),
        ({"_class_name": "ScoreSdeVeScheduler"}, "follows the norm of what the network answers, which no sampler"),
        ({"_class_name": "IPNDMScheduler"}, "'IPNDMScheduler' is not supported yet; known: DDIMParallel"),
        ({"_class_name": ["a", "b"]}, "['a', 'b'] is not supported yet; known: DDIMParallel"),
        ({"_class_name": None}, "None is not supported yet; known: DDIMParallel"),
        ({"beta_schedule": "sigmoid"}, "beta_schedule = 'sigmoid': input should be 'linear', 'scaled_linear' or"),
        ({"prediction_type": "score"}, "prediction_type = 'score': input should be 'epsilon', 'sample'"),
        ({"prediction_type": "flow_prediction"}, "use_flow_sigmas: true and prediction_type: flow_prediction belong"),
        ({"use_flow_sigmas": True}, "use_flow_sigmas: true and prediction_type: flow_prediction belong"),
        ({"num_train_timesteps": 0}, "num_train_timesteps = 0: input should be greater than or equal to 2"),
        ({"num_train_timesteps": 10**9}, "num_train_timesteps = 1000000000: input should be less than or equal"),
        ({"num_train_timesteps": 10.5}, "num_train_timesteps = 10.5: input should be a valid integer"),
        ({"beta_start": 0}, "beta_start = 0: input should be greater than 0"),
        ({"beta_end": float("nan")}, "beta_end = nan: input should be"),
        ({"beta_end": "0.02"}, "beta_end = '0.02': input should be a valid number"),
        ({"beta_start": 0.5, "beta_end": 0.9}, "these betas make no noise schedule"),
        ({"trained_betas": [0.1]}, "trained_betas = [0.1]: list should have at least 2 items"),
        ({"trained_betas": [0.1, 2.0]}, "trained_betas = 2.0: input should be less than 1"),
        ({"trained_betas": [0.1, 0.2]}, "trained_betas has 2 entries, num_train_timesteps says 1000"),
        ({"timestep_type": "continuous"}, "timestep_type = 'continuous': input should be 'discrete'"),
        ({"_class_name": "EDMEulerScheduler", "sigma_min": 90}, "sigma_min 90 is not under sigma_max 80"),
        ({"_class_name": "EDMEulerScheduler", "sigma_data": "x"}, "sigma_data = 'x': input should be a valid number"),
        ({"_class_name": "EDMEulerScheduler", "prediction_type": "sample"}, "prediction_type = 'sample': input should"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 0}, "shift = 0: input should be greater than 0"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 9}, "num_train_timesteps = 9: "),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "invert_sigmas": True}, "invert_sigmas = True: input"),
    ],
)  # fmt: skip
def test_schedules_that_are_refused(changes, words):
    with pytest.raises(BadInput) as caught:
        schedule_of({"_class_name": "DDIMScheduler", **changes})
    message = str(caught.value)
    assert message.isprintable()  # so it is one line
    assert words in message
    assert "scheduler_config.json" in message
