"""Plain forms of the method: the formulas written down, without regard to time and memory.

They are what `tests/benchmark.py` compares the project with. Shapes and units are those of the
functions in `misc` and `step` that do the same work.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from pydensecrf.densecrf import DenseCRF2D
from pydensecrf.utils import unary_from_labels
from torch import Tensor

from misc.indexing import PathIndex
from misc.palette import read_label_png
from misc.rib import RIBSettings
from net.resnet50_cam import CAM

# --- random walk and affinity ---------------------------------------------------------------------


def gathered_maximum(maps: Tensor, groups: Sequence[Tensor]) -> Tensor:
    """Largest value on the path of every pair by index tensors, B x H x W -> B x pairs x starts.

    groups: `PathIndex.get_path_indices` for the maps' size, n x length x starts for every length.
    """
    flat = maps.flatten(1)
    maxima = []
    for group in groups:
        on_path = flat.index_select(1, group.flatten()).view(len(maps), *group.shape)
        maxima.append(on_path.max(dim=2).values)
    return torch.cat(maxima, dim=1)


def dense_transition_matrix(edge: Tensor, radius: int, beta: float) -> Tensor:
    """Transition matrix of all pairs of pixels, 1 x H x W boundary -> HW x HW (IRN, Sec. 5.2).

    The affinities of pairs within the radius are gathered from a map with a border of boundaries,
    then put into the matrix without the border, in both directions.
    """
    height, width = edge.shape[-2:]
    floor = PathIndex(radius, (height, width)).radius_floor
    border = (floor, floor, 0, floor)
    padded = F.pad(edge, border, value=1.0)
    index = PathIndex(radius, tuple(padded.shape[-2:]))
    groups = [torch.from_numpy(group) for group in index.path_indices]
    affinity = 1 - gathered_maximum(padded, groups)[0]

    number = F.pad(torch.arange(height * width).view(height, width), border, value=-1).flatten()
    end = number[torch.from_numpy(index.dst_indices)]
    start = number[torch.from_numpy(index.src_indices)].expand_as(end)
    inside = end >= 0
    matrix = torch.eye(height * width, dtype=edge.dtype)
    matrix[start[inside], end[inside]] = affinity[inside]
    matrix[end[inside], start[inside]] = affinity[inside]
    matrix = matrix**beta
    return matrix / matrix.sum(dim=0)


def dense_walk(
    x: Tensor, edge: Tensor, radius: int = 5, beta: float = 10, exp_times: int = 8
) -> Tensor:
    """`misc.indexing.propagate_to_edge` with the whole matrix, squared exp_times times."""
    matrix = dense_transition_matrix(edge, radius, beta)
    for _ in range(exp_times):
        matrix = matrix @ matrix
    return ((x * (1 - edge)).flatten(1) @ matrix).view(len(x), 1, *edge.shape[-2:])


# --- scores ---------------------------------------------------------------------------------------


def confusions_by_threshold(
    cam_files: Sequence[Path],
    truth_files: Sequence[Path],
    thresholds: Sequence[float],
    num_labels: int,
) -> np.ndarray:
    """Confusion matrix of every threshold, T x L x L: each reads all files again."""
    confusions = np.zeros((len(thresholds), num_labels, num_labels), dtype=np.int64)
    for confusion, threshold in zip(confusions, thresholds, strict=True):
        for cam_file, truth_file in zip(cam_files, truth_files, strict=True):
            content = np.load(cam_file, allow_pickle=True).item()
            truth = read_label_png(truth_file)
            prediction = argmax_labels(content["high_res"], content["keys"], threshold)
            valid = truth < num_labels
            pairs = num_labels * truth[valid].astype(int) + prediction[valid]
            counts = np.bincount(pairs, minlength=num_labels**2)
            confusion += counts.reshape(num_labels, num_labels)
    return confusions


def argmax_labels(cams: np.ndarray, keys: np.ndarray, threshold: float) -> np.ndarray:
    """Labels from the argmax over [threshold, maps], K x H x W -> H x W; 0 is background."""
    scores = np.pad(cams, ((1, 0), (0, 0), (0, 0)), constant_values=threshold)
    return np.pad(keys + 1, (1, 0))[scores.argmax(axis=0)]


# --- labels of the boundary network ---------------------------------------------------------------


def crf_labels(image: np.ndarray, labels: np.ndarray, num_labels: int) -> np.ndarray:
    """Labels (H x W) refined by a dense CRF that is built for this call (IRN, Sec. 4)."""
    height, width = image.shape[:2]
    crf = DenseCRF2D(width, height, num_labels)
    crf.setUnaryEnergy(unary_from_labels(labels, num_labels, gt_prob=0.7, zero_unsure=False))
    crf.addPairwiseGaussian(sxy=3, compat=3)
    crf.addPairwiseBilateral(sxy=50, srgb=5, rgbim=np.ascontiguousarray(image), compat=10)
    return np.argmax(crf.inference(10), axis=0).reshape(height, width)


def confident_labels(
    image: np.ndarray, cams: np.ndarray, keys: np.ndarray, fg_th: float, bg_th: float
) -> np.ndarray:
    """`step.cam_to_ir_label.confident_labels` with one CRF for each of the two label maps."""
    local = np.arange(len(keys))
    foreground = crf_labels(image, argmax_labels(cams, local, fg_th), len(keys) + 1)
    background = crf_labels(image, argmax_labels(cams, local, bg_th), len(keys) + 1)
    labels = np.pad(keys + 1, (1, 0))[foreground]
    labels[foreground == 0] = 255
    labels[(foreground + background) == 0] = 0
    return labels.astype(np.uint8)


# --- RIB ------------------------------------------------------------------------------------------


def looped_pooling(x: Tensor, present: Tensor, tau: float) -> Tensor:
    """`misc.torchutils.gndp2d` map by map, B x C x H x W and B x C -> B x C (RIB, Sec. 3.2)."""
    images, classes = x.shape[:2]
    logits = []
    for b in range(images):
        for c in range(classes):
            class_map = x[b, c]
            if present[b, c]:
                kept = (class_map / class_map.max() < tau).detach()
                class_map = class_map * kept
            logits.append(class_map.mean())
    return torch.stack(logits).view(images, classes)


def rib_map_sums(
    model: CAM,
    settings: RIBSettings,
    pairs: Sequence[Tensor],
    label: Tensor,
    batches: Iterator[tuple[Tensor, Tensor]],
) -> list[Tensor]:
    """Summed maps, C x h x w for each scale, of the iterations on one image (RIB, Algorithm 1).

    Every iteration runs the whole network on all scales, records the gradient of all of them (the
    loss is without 0.5) and takes a single step back from the loss. Trains the model in place.
    """
    backbone, classifier = model.trainable_parameters()
    lr, decay = settings.learning_rate, settings.weight_decay
    groups = [{"params": backbone, "lr": lr}, {"params": classifier, "lr": 10 * lr}]
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=decay, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: (1 - step / settings.iterations) ** 0.9
    )
    sums = [0] * len(pairs)
    for k in range(settings.iterations):
        raw_maps = []
        for i, pair in enumerate(pairs):
            raw_maps.append(model(pair))
            image, mirrored = raw_maps[i].detach().clamp(min=0)
            current = image + mirrored.flip(-1)
            sums[i] = sums[i] + current
            if i == 0 and k > 0 and _exploded(current[label > 0], settings):
                return sums
        images, labels = next(batches)
        in_loss = [raw for raw, s in zip(raw_maps, settings.scales, strict=True) if s >= 1]
        target_labels = label.expand(2, -1)
        target = sum(
            (looped_pooling(raw, target_labels, settings.tau) * label).sum() for raw in in_loss
        )
        others = (looped_pooling(model(images), labels, settings.tau) * labels).sum()
        optimizer.zero_grad()
        (-target - others).backward()
        optimizer.step()
        schedule.step()
        if abs(target) > settings.margin:
            break
    return sums


def _exploded(maps: Tensor, settings: RIBSettings) -> bool:
    """Whether the maps T x h x w, each relative to its peak, cover most of the image."""
    covered = torch.zeros(maps.shape[1:], dtype=torch.bool)
    for class_map in maps:
        covered |= class_map / (class_map.max() + 1e-5) > settings.explode_th
    return covered.float().mean() > settings.explode_ratio
