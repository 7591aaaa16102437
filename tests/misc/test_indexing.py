"""Pixel pairs, paths, pair labels and the random walk, against golden outputs and dense loops."""

import numpy as np
import pytest
import torch

from misc.errors import UserError
from misc.indexing import PathIndex, affinity_labels, path_maximum, propagate_to_edge
from tests.references import IndexArrays, dense_transition_matrix


def random_map(*shape, seed=0, dtype=torch.float64):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_recorded_paths_and_indices(golden):
    data = golden("path_index.npz")
    index = PathIndex(int(data["r5_radius"]), tuple(data["r5_size"].tolist()))
    assert index.radius_floor == data["r5_radius_floor"]
    np.testing.assert_array_equal(index.search_dst, data["r5_search_dst"])
    assert len(index.search_paths) == len(data["r5_path_shapes"])
    arrays = IndexArrays(index)
    for i, (path, indices) in enumerate(zip(index.search_paths, arrays.path_indices, strict=True)):
        np.testing.assert_array_equal(path, data[f"r5_search_path_{i}"])
        np.testing.assert_array_equal(indices, data[f"r5_path_indices_{i}"])
    np.testing.assert_array_equal(arrays.src_indices, data["r5_src_indices"])
    np.testing.assert_array_equal(arrays.dst_indices, data["r5_dst_indices"])


def test_recorded_paths_of_the_training_radius(golden):
    data = golden("path_index.npz")
    index = PathIndex(int(data["big_radius"]), tuple(data["big_size"].tolist()))
    assert index.radius_floor == data["big_radius_floor"]
    np.testing.assert_array_equal(index.search_dst, data["big_search_dst"])
    arrays = IndexArrays(index)
    assert [p.shape for p in arrays.path_indices] == [tuple(s) for s in data["big_path_shapes"]]
    assert arrays.dst_indices.shape == tuple(data["big_dst_shape"])
    for i, path in enumerate(index.search_paths):
        np.testing.assert_array_equal(path, data[f"big_search_path_{i}"])


@pytest.mark.parametrize("size", [(4, 20), (20, 8)])
def test_maps_without_a_start_pixel_are_a_clear_error(size):
    with pytest.raises(UserError, match="at least 36"):
        path_maximum(torch.zeros(1, *size), PathIndex(5, size))


@pytest.mark.parametrize("name, num_labels", [("voc", 21), ("coco", 81)])
def test_recorded_pair_labels(golden, name, num_labels):
    data = golden("affinity_loss.npz")
    index = PathIndex(5, (16, 16))
    labels = affinity_labels(torch.from_numpy(data["label_maps"]), index, num_labels)
    for kind, label in labels._asdict().items():
        np.testing.assert_array_equal(label.numpy(), data[f"{name}_{kind}_label"])


def dense_walk(scores, edge, radius, beta, exp_times):
    """The propagation with a dense transition matrix that is squared."""
    matrix = dense_transition_matrix(edge, radius, beta)
    for _ in range(exp_times):
        matrix = matrix @ matrix
    return ((scores * (1 - edge)).flatten(1) @ matrix).view(len(scores), 1, *edge.shape[-2:])


@pytest.mark.parametrize("size", [(9, 13), (13, 9), (3, 20), (2, 3), (1, 1)])
def test_walk_equals_dense_matrix(size):
    scores, edge = random_map(3, *size), random_map(1, *size, seed=1) ** 3
    for radius, beta, exp_times in [(5, 10, 8), (4, 3, 4), (2, 1, 0)]:
        walked = propagate_to_edge(scores, edge, radius, beta, exp_times)
        expected = dense_walk(scores, edge, radius, beta, exp_times)
        torch.testing.assert_close(walked, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scores, result, options", [
    ("x0", "out0", {}), ("x1", "out1", {}), ("x2", "out2", {}), ("x1", "out1_double", {}),
    ("x0", "out0_beta8_times4", {"beta": 8, "exp_times": 4}),
    ("x1", "out1_radius4", {"radius": 4}),
    ("seg_cam", "seg_walk", {}),
])  # fmt: skip
def test_recorded_walks(golden, scores, result, options, device):
    data = golden("random_walk.npz")
    edge_name = "seg_edge" if scores == "seg_cam" else scores.replace("x", "edge")
    power = float(data["seg_power"]) if scores == "seg_cam" else 1.0
    seed, edge = (torch.from_numpy(data[name]).to(device) for name in (scores, edge_name))
    walked = propagate_to_edge(seed**power, edge, **options).cpu().numpy()
    recorded = data[result]
    assert walked.shape == recorded.shape
    assert np.abs(walked - recorded).max() < 1e-4 * np.abs(recorded).max()
