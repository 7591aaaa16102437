"""misc/advcam.py against the recorded ascents of one image, in double precision."""

from collections import defaultdict
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pytest
import torch

from misc import advcam as module
from misc.advcam import AdvCAMSettings, Iteration, advcam, ascent_step
from misc.cams import merge_scales
from net.backbones import fold_norms
from net.resnet50_cam import CAM
from tests.conftest import close, recorded_names
from tests.references import normalize
from tests.weights import fill_by_recipe

RUNS = recorded_names("advcam_process.npz", "_config")


@pytest.fixture(scope="module")
def network(golden):
    model = CAM(20)
    with torch.no_grad():
        fill_by_recipe(model, int(golden("advcam_process.npz")["weight_seed"]))
    # Convolutions in double precision take half the time with the channels last.
    model = model.double().requires_grad_(False).to(memory_format=torch.channels_last)
    fold_norms(model)  # as the step does it
    return model


class Run(NamedTuple):
    """A run of the method on the recorded image."""

    sums: list[torch.Tensor]  # C x h x w for each scale
    ascents: dict[tuple[int, int], list[Iteration]]  # by scale (index) and class


@pytest.fixture(scope="module")
def run_of(golden, network):
    """Runs by name; each is made once, for it takes seconds."""
    data = golden("advcam_process.npz")
    pairs = pairs_of(data)

    @lru_cache
    def made(name: str) -> Run:
        ascents = defaultdict(list)

        def watched(scores, pair, index, *others):
            (scale,) = (i for i, of_scale in enumerate(pairs) if of_scale is pair)
            for state in exact(scores, pair, index, *others):
                ascents[scale, index].append(state)
                yield state

        exact, label = module.ascent, torch.from_numpy(np.asarray(data[f"{name}_label"])).double()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "ascent", watched)
            weights, settings = network.classifier.weight, settings_of(data, name)
            *_, sums = advcam(scores_of(network), weights, pairs, label, settings)
        return Run(sums, ascents)

    return made


def scores_of(model):
    return lambda pair: model.classifier(model.backbone(pair)[-1])


def settings_of(data, run) -> AdvCAMSettings:
    config = dict(zip(data["config_names"].tolist(), data[f"{run}_config"].tolist(), strict=True))
    return AdvCAMSettings(
        int(config["adv_iter"]), config["AD_coeff"], config["AD_stepsize"], config["score_th"]
    )


def pairs_of(data):
    pairs = []
    for i in range(len(AdvCAMSettings.scales)):
        if f"input_scale{i}" in data:
            pairs.append(torch.from_numpy(data[f"input_scale{i}"]).double())
        else:
            view = normalize(data[f"rescaled_scale{i}"]).transpose(2, 0, 1)
            pairs.append(torch.from_numpy(np.stack([view, view[:, :, ::-1]])).double())
    return pairs


@torch.no_grad()
def test_recorded_scores(golden, network):
    data = golden("advcam_process.npz")
    for i, pair in enumerate(pairs_of(data)):
        close(scores_of(network)(pair), data[f"default_scores_scale{i}"], 1e-6)


@pytest.mark.parametrize("run", RUNS)
def test_recorded_climbs(golden, network, run_of, run):
    data = golden("advcam_process.npz")
    settings, pairs = settings_of(data, run), pairs_of(data)
    classes = np.flatnonzero(data[f"{run}_label"]).tolist()
    assert settings.factor == int(data[f"{run}_factor"])
    counts = [settings.iterations_at(scale) for scale in settings.scales]
    assert counts == data[f"{run}_iterations"].tolist()
    for i, pair in enumerate(pairs):
        sample = data[f"sample_index_scale{i}"]
        for n, c in enumerate(classes):

            def recorded(name, i=i, n=n):
                return data[f"{run}_{name}_scale{i}"][n]

            states = run_of(run).ascents[i, c]
            assert len(states) == counts[i]
            bounds = (pair.min().item(), pair.max().item())
            for k, state in enumerate(states):
                close(state.map, recorded("map")[k], 2e-6)
                assert np.array_equal(state.mask, recorded("mask")[k].astype(bool))
                assert state.active.tolist() == recorded("active")[k].tolist()
                close(state.logits, recorded("logits")[k], 1e-6)
                for name, value in (
                    ("score_loss", state.score_loss), ("ad", state.difference),
                    ("objective", state.objective),
                    ("grad_absmax", state.gradient.abs().max()),
                    ("grad_norm", state.gradient.norm()),
                    ("change_norm", (state.pair - pair).norm()),
                ):  # fmt: skip
                    wanted = recorded(name)[k]
                    assert value.item() == pytest.approx(wanted, rel=1e-6, abs=1e-9), (name, k)
                np.testing.assert_allclose(bounds, recorded("bounds")[k], rtol=1e-6)
                bounds = (state.pair.min().item(), state.pair.max().item())
                close(state.gradient.flatten()[sample], recorded("grad_sample")[k], 2e-6)
                moved = state.pair.flatten()[sample]
                np.testing.assert_allclose(moved, recorded("image_sample")[k], atol=2e-6)


@pytest.mark.parametrize("run", RUNS)
def test_recorded_saved_maps(golden, run_of, run):
    data = golden("advcam_process.npz")
    keys, sums = torch.from_numpy(np.flatnonzero(data[f"{run}_label"])), run_of(run).sums
    for i, of_scale in enumerate(sums):
        close(of_scale[keys], data[f"{run}_sum_scale{i}"], 2e-6)
    cam, high_res = merge_scales(sums, data["image"].shape[:2], keys)
    assert keys.tolist() == data[f"{run}_save_keys"].tolist()
    np.testing.assert_allclose(cam, data[f"{run}_save_cam"], atol=2e-6)
    np.testing.assert_allclose(high_res, data[f"{run}_save_high_res"], atol=2e-6)


def test_recorded_steps(golden):
    data = golden("advcam_process.npz")
    pair = torch.from_numpy(data["climb_image"])
    for gradient, expected in zip(data["climb_grads"], data["climb_results"], strict=True):
        pair = ascent_step(pair, torch.from_numpy(gradient), float(data["climb_stepsize"]))
        np.testing.assert_allclose(pair, expected, atol=1e-6)
