"""IRN's loss on pixel pairs: boundaries from affinities, displacements (IRN, Sec. 4.3 to 4.5)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from misc.indexing import AffinityLabels, PathIndex, pair_ends, path_ranks, ranked_pixels, shifted
from misc.runtime.distributed import summed

EPSILON = 1e-5  # keeps logarithms and quotients finite
_BATCH = 16  # offsets, whose maps a CPU keeps in its cache


class Losses(NamedTuple):
    """Scalar terms of IRN's loss: means over the labelled pixel pairs of a batch."""

    bg_pos: Tensor  # affinity of pairs within the background
    fg_pos: Tensor  # affinity of pairs within a class
    pos: Tensor  # mean of the two
    neg: Tensor  # affinity of pairs of different classes
    dp_fg: Tensor  # displacement of pairs within a class
    dp_bg: Tensor  # displacement of pairs within the background
    total: Tensor  # is minimised


def _counts_by_pixel(ranks: Tensor, labels: AffinityLabels, path_index: PathIndex) -> Tensor:
    """Pairs of each label on whose path a pixel has the largest value, 3 x B x HW.

    ranks: B x H x W of `ranked_pixels`, whose order the pixels of the result have. Labels are in
    the order of AffinityLabels.
    """
    batch, pixels = len(ranks), ranks[0].numel()
    kinds = len(labels) + 1  # 0: no label
    counts = torch.zeros(batch * pixels * kinds, dtype=torch.int32, device=ranks.device)
    one = torch.ones((), dtype=counts.dtype, device=ranks.device)
    first_of_image = torch.arange(batch, device=ranks.device)[:, None, None] * (pixels * kinds)
    kind_of = sum(label.byte() * kind for kind, label in enumerate(labels, start=1))
    kinds_of = kind_of.split([len(group) for group in path_index.search_paths], dim=1)
    for largest, kind in zip(path_ranks(ranks, path_index), kinds_of, strict=True):
        index = largest.long().mul_(kinds).add_(first_of_image).add_(kind).flatten()
        counts.scatter_add_(0, index, one.expand_as(index))
    return counts.view(batch, pixels, kinds).movedim(2, 0)[1:]


def _displacement_signs(
    displacement: Tensor, labels: AffinityLabels, path_index: PathIndex
) -> tuple[Tensor, Tensor]:
    """Signs with which the displacements enter the L1 errors of the labelled pairs.

    An error |d(src) - d(dst) - o|, where o is the offset for pairs of a class and 0 for those of
    the background, is s (d(src) - d(dst) - o) with its sign s = -1, 0 or 1.
    displacement: B x 2 x H x W. Returns the sums of the signs at every displacement, for bg_pos and
    fg_pos, 2 x B x 2 x H x W, and the sum of all s o, a scalar.
    """
    floor = path_index.radius_floor
    start = shifted(displacement, (0, 0), floor).unsqueeze(2)
    signs = displacement.new_zeros(2, *displacement.shape)
    at_start = shifted(signs, (0, 0), floor)
    labelled = torch.stack((labels.bg_pos, labels.fg_pos)).unflatten(-1, start.shape[-2:])
    offsets = torch.from_numpy(path_index.search_dst).to(displacement)
    sums_over_fg = torch.zeros_like(offsets)
    for first in range(0, len(offsets), _BATCH):
        pairs = slice(first, first + _BATCH)
        change = start - pair_ends(displacement, path_index, pairs)
        both = torch.stack((change, change - offsets[pairs].T[:, :, None, None])).sign_()
        both.mul_(labelled[:, :, None, pairs])
        at_start += both.sum(dim=3)
        for end, sign in zip(path_index.search_dst[pairs].tolist(), both.unbind(3), strict=True):
            shifted(signs, end, floor).sub_(sign)
        sums_over_fg[pairs] = both[1].sum(dim=(0, 3, 4)).T
    return signs, (sums_over_fg * offsets).sum()


def _mean(total: Tensor, number: Tensor) -> Tensor:
    """A sum over labelled pairs as their mean, 0 where there is none."""
    return total / (number + EPSILON)


class PairLoss(nn.Module):
    """The loss of boundary logits and displacements, given the labels of pixel pairs."""

    def __init__(self, path_index: PathIndex):
        super().__init__()
        self.path_index = path_index

    def forward(self, edge_logits: Tensor, displacement: Tensor, labels: AffinityLabels) -> Losses:
        """All loss terms of a batch.

        edge_logits: B x 1 x H x W. displacement: B x 2 x H x W. labels: B x pairs x starts.

        The maps of all pairs, which take hundreds of megabytes, are never made: a pair's affinity
        is that of one pixel, so it is enough to count pairs by pixel, and its displacement error is
        linear but for a sign. Counts and signs are constants for the gradient. Of several ranks
        each gives its part: the pairs of all are counted, and the parts add up to the mean.
        """
        edge, ranks = ranked_pixels(torch.sigmoid(edge_logits).squeeze(1))
        with torch.no_grad():
            counts = _counts_by_pixel(ranks, labels, self.path_index)
            signs, shift = _displacement_signs(displacement, labels, self.path_index)
        bg_number, fg_number, neg_number = summed(counts.sum(dim=(1, 2)))
        affinity = 1 - edge
        attract = -torch.log(affinity + EPSILON)
        bg_pos = _mean((counts[0] * attract).sum(), bg_number)
        fg_pos = _mean((counts[1] * attract).sum(), fg_number)
        pos = (bg_pos + fg_pos) / 2
        neg = _mean((counts[2] * -torch.log(1 + EPSILON - affinity)).sum(), neg_number)

        # In double precision, since large displacements cancel.
        bg_error, fg_error = (signs * displacement.double()).sum(dim=(1, 2, 3, 4))
        dp_fg = _mean((fg_error - shift).float(), 2 * fg_number)
        dp_bg = _mean(bg_error.float(), 2 * bg_number)
        total = (pos + neg) / 2 + (dp_fg + dp_bg) / 2
        return Losses(bg_pos, fg_pos, pos, neg, dp_fg, dp_bg, total)
