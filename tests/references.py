"""Reference implementations: the formulas written down, without regard to time and memory.

`tests/tools/benchmark.py` times the project against them. Shapes and units are those of the
functions in `misc` and `step` that do the same work.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pydensecrf.densecrf import DenseCRF2D
from pydensecrf.utils import unary_from_labels
from torch import Tensor

from misc.imutils import IMAGENET_MEAN, IMAGENET_STD
from misc.indexing import PathIndex, start_size
from misc.labels import read_label_png
from misc.rib import RIBSettings
from net import backbones, resnet50_irn
from net.resnet50_cam import CAM


def normalize(image: np.ndarray) -> np.ndarray:
    """H x W x 3 uint8 -> float32: (value / 255 - mean) / standard deviation of ImageNet."""
    return ((image / 255 - IMAGENET_MEAN) / IMAGENET_STD).astype(np.float32)


@contextmanager
def separate_normalisation() -> Iterator[None]:
    """In the block every convolution and its normalisation are computed one after the other."""
    together = backbones.normalized
    backbones.normalized = lambda conv, norm, features: norm(conv(features))
    try:
        yield
    finally:
        backbones.normalized = together


class PairIndices(NamedTuple):
    """The index arrays of a PathIndex as tensors: flat indices into a map of its default size."""

    groups: list[Tensor]  # n x length x starts for every path length
    starts: Tensor  # starts
    ends: Tensor  # pairs x starts
    offsets: Tensor  # 2 x pairs x 1, from start to end

    @classmethod
    def of(cls, index: PathIndex, device: torch.device) -> "PairIndices":
        """Makes the tensors on a device."""
        arrays = IndexArrays(index)
        groups = [torch.from_numpy(group).to(device) for group in arrays.path_indices]
        starts, ends = torch.from_numpy(arrays.src_indices), torch.from_numpy(arrays.dst_indices)
        offsets = torch.from_numpy(index.search_dst.T[:, :, None].copy())
        return cls(groups, *(tensor.to(device) for tensor in (starts, ends, offsets)))


class IndexArrays:
    """Flat pixel indices of all paths and pairs on a map of size (H, W), as IRN has them.

    path_indices: one n x length x starts array for every group of search_paths. src_indices:
    starts. dst_indices: pairs x starts.
    """

    def __init__(self, index: PathIndex, size: tuple[int, int] | None = None):
        height, width = size or index.default_size
        rows, columns = start_size(height, width, index.radius_floor)
        pixels = np.arange(height * width).reshape(height, width)
        starts = pixels[:rows, index.radius_floor : index.radius_floor + columns].reshape(-1)
        groups = index.search_paths
        paths = [(group @ np.array([width, 1]))[:, :, None] + starts for group in groups]
        self.path_indices, self.src_indices = paths, starts
        self.dst_indices = np.concatenate([group[:, 0] for group in paths])


def gathered_maximum(maps: Tensor, groups: Sequence[Tensor]) -> Tensor:
    """Largest value on the path of every pair by index tensors, B x H x W -> B x pairs x starts.

    groups: those of `PairIndices` for the maps' size.
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
    indices = PairIndices.of(index, edge.device)
    affinity = 1 - gathered_maximum(padded, indices.groups)[0]

    pixels = torch.arange(height * width, device=edge.device).view(height, width)
    number = F.pad(pixels, border, value=-1).flatten()
    end = number[indices.ends]
    start = number[indices.starts].expand_as(end)
    inside = end >= 0
    matrix = torch.eye(height * width, dtype=edge.dtype, device=edge.device)
    matrix[start[inside], end[inside]] = affinity[inside]
    matrix[end[inside], start[inside]] = affinity[inside]
    matrix = matrix**beta
    return matrix / matrix.sum(dim=0)


def pair_labels(label_maps: np.ndarray, index: PathIndex, num_labels: int) -> list[Tensor]:
    """Labels of all pairs, three B x pairs x starts 0/1 maps, made on the host (IRN, Sec. 4.2).

    In the order of `misc.indexing.AffinityLabels`. label_maps: B x H x W uint8.
    """
    batch, arrays = [], IndexArrays(index)
    for label_map in label_maps:
        pixels = label_map.reshape(-1)
        start, end = pixels[arrays.src_indices][None], pixels[arrays.dst_indices]
        valid = (start < num_labels) & (end < num_labels)
        same = (start == end) & valid
        labels = same & (start == 0), same & (start > 0), (start != end) & valid
        batch.append(np.stack(labels).astype(np.float32))
    return list(torch.from_numpy(np.stack(batch, axis=1)))


def irn_outputs(model: resnet50_irn.Net, images: Tensor) -> tuple[Tensor, Tensor]:
    """`net.resnet50_irn.Net.forward` with the whole batch in every layer (IRN, Sec. 4.1)."""
    with torch.no_grad():
        features = model.backbone(images)
    stem, layer1, layer2, layer3, layer4 = features

    def joined(finer: Tensor, *maps: Tensor) -> Tensor:
        height, width = finer.shape[-2:]
        return torch.cat([each[..., :height, :width] for each in maps], dim=1)

    heads = (model.fc_edge1, model.fc_edge2, model.fc_edge3, model.fc_edge4, model.fc_edge5)
    edges = [head(output) for head, output in zip(heads, features, strict=True)]
    edge = model.fc_edge6(joined(stem, *edges))
    coarse = joined(layer2, model.fc_dp3(layer2), model.fc_dp4(layer3), model.fc_dp5(layer4))
    fine = joined(layer1, model.fc_dp1(stem), model.fc_dp2(layer1), model.fc_dp6(coarse))
    return edge, model.mean_shift(model.fc_dp7(fine))


def irn_losses(
    edge_logits: Tensor, displacement: Tensor, labels: Sequence[Tensor], indices: PairIndices
) -> list[Tensor]:
    """Loss terms in the order of `net.resnet50_irn.Losses`, from maps of all pairs."""
    bg, fg, neg = labels
    eps = 1e-5
    affinity = 1 - gathered_maximum(torch.sigmoid(edge_logits).squeeze(1), indices.groups)
    pos_loss, neg_loss = -torch.log(affinity + eps), -torch.log(1 + eps - affinity)
    l_bg = (bg * pos_loss).sum() / (bg.sum() + eps)
    l_fg = (fg * pos_loss).sum() / (fg.sum() + eps)
    l_neg = (neg * neg_loss).sum() / (neg.sum() + eps)
    flat = displacement.flatten(2)
    ends = flat.index_select(2, indices.ends.flatten()).view(*flat.shape[:2], *indices.ends.shape)
    pair = flat.index_select(2, indices.starts).unsqueeze(2) - ends
    l_dpfg = (fg * (pair - indices.offsets).abs().sum(dim=1)).sum() / (2 * fg.sum() + eps)
    l_dpbg = (bg * pair.abs().sum(dim=1)).sum() / (2 * bg.sum() + eps)
    l_pos = (l_bg + l_fg) / 2
    total = (l_pos + l_neg) / 2 + (l_dpfg + l_dpbg) / 2
    return [l_bg, l_fg, l_pos, l_neg, l_dpfg, l_dpbg, total]


def confusions_by_threshold(
    cam_files: Sequence[Path],
    mask_files: Sequence[Path],
    thresholds: Sequence[float],
    num_labels: int,
) -> np.ndarray:
    """Confusion matrix of every threshold, T x L x L: each reads all files again."""
    confusions = np.zeros((len(thresholds), num_labels, num_labels), dtype=np.int64)
    for confusion, threshold in zip(confusions, thresholds, strict=True):
        for cam_file, mask_file in zip(cam_files, mask_files, strict=True):
            content = np.load(cam_file, allow_pickle=True).item()
            mask = read_label_png(mask_file)
            prediction = argmax_labels(content["high_res"], content["keys"], threshold)
            valid = mask < num_labels
            pairs = num_labels * mask[valid].astype(int) + prediction[valid]
            counts = np.bincount(pairs, minlength=num_labels**2)
            confusion += counts.reshape(num_labels, num_labels)
    return confusions


def argmax_labels(cams: np.ndarray, keys: np.ndarray, threshold: float) -> np.ndarray:
    """Labels from the argmax over [threshold, maps], K x H x W -> H x W; 0 is background."""
    scores = np.pad(cams, ((1, 0), (0, 0), (0, 0)), constant_values=threshold)
    return np.pad(keys + 1, (1, 0))[scores.argmax(axis=0)]


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
            with torch.no_grad():
                frozen = model.backbone.frozen_features(pair)
            raw_maps.append(model.maps(frozen))
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
    """The maps T x h x w, each relative to its peak, cover most of the image."""
    covered = torch.zeros(maps.shape[1:], dtype=torch.bool, device=maps.device)
    for class_map in maps:
        covered |= class_map / (class_map.max() + 1e-5) > settings.explode_th
    return covered.float().mean() > settings.explode_ratio
