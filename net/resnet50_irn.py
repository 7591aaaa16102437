"""IRN: the inter-pixel relation network of boundaries and displacements (IRN, Sec. 4)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from misc.affinity_loss import Losses, PairLoss
from misc.cams import CAM_STRIDE
from misc.imutils import get_strided_size
from misc.indexing import AffinityLabels, PathIndex
from net.backbones import ResNet, folded_once


class MeanShift(nn.Module):
    """Subtracts the stored mean from a displacement field, except in training (IRN)."""

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(channels))

    def forward(self, displacement: Tensor) -> Tensor:
        """B x 2 x h x w -> B x 2 x h x w."""
        if self.training:
            return displacement
        return displacement - self.running_mean[:, None, None]


def _block(in_channels: int, out_channels: int, groups: int, scale: int = 1) -> nn.Sequential:
    """1x1 convolution, group normalisation, bilinear enlargement by `scale` and ReLU."""
    conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
    layers = [conv, nn.GroupNorm(groups, out_channels)]
    if scale > 1:
        layers.append(nn.Upsample(scale_factor=scale, mode="bilinear", align_corners=False))
    return nn.Sequential(*layers, nn.ReLU(inplace=True))


def _crop_like(features: Tensor, finer: Tensor) -> Tensor:
    """Enlarged features, cut at the right and below to the size of the finer map."""
    return features[..., : finer.shape[-2], : finer.shape[-1]]


def _of_all(convolution: nn.Conv2d, parts: Sequence[Tensor]) -> Tensor:
    """A 1x1 convolution, without bias, as of concatenated maps, which would take memory."""
    weights = convolution.weight.split([part.shape[1] for part in parts], dim=1)
    first, *others = (F.conv2d(part, w) for part, w in zip(parts, weights, strict=True))
    for other in others:
        first += other
    return first


class Net(nn.Module):
    """A frozen backbone with a boundary head (fc_edge*) and a displacement head (fc_dp*)."""

    def __init__(self, **arch):
        super().__init__()
        backbone = ResNet(**arch).requires_grad_(False)
        self.backbone = backbone.to(memory_format=torch.channels_last)
        c0, c1, c2, c3, c4 = self.backbone.out_channels

        self.fc_edge1 = _block(c0, 32, groups=4)
        self.fc_edge2 = _block(c1, 32, groups=4)
        self.fc_edge3 = _block(c2, 32, groups=4, scale=2)
        self.fc_edge4 = _block(c3, 32, groups=4, scale=4)
        self.fc_edge5 = _block(c4, 32, groups=4, scale=4)
        self.fc_edge6 = nn.Conv2d(5 * 32, 1, 1)

        self.fc_dp1 = _block(c0, 64, groups=8)
        self.fc_dp2 = _block(c1, 128, groups=16)
        self.fc_dp3 = _block(c2, 256, groups=16)
        self.fc_dp4 = _block(c3, 256, groups=16, scale=2)
        self.fc_dp5 = _block(c4, 256, groups=16, scale=2)
        self.fc_dp6 = _block(3 * 256, 256, groups=16, scale=2)
        self.fc_dp7 = _block(64 + 128 + 256, 256, groups=16)
        self.fc_dp7.append(nn.Conv2d(256, 2, 1, bias=False))
        self.mean_shift = MeanShift(2)

    @property
    def arch(self) -> dict:
        """Constructor values, as stored in a checkpoint."""
        return self.backbone.arch

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised RGB, B x 3 x H x W -> boundary logits and displacements at stride 4.

        Boundary logits: B x 1 x h x w. Displacements: B x 2 x h x w (rows, columns), in pixels of
        that map, towards the centroid of the instance.
        """
        features = self._features(images)
        return self._boundary(features).contiguous(), self._displacement(features).contiguous()

    @torch.no_grad()
    def _features(self, images: Tensor) -> list[Tensor]:
        """The backbone's five outputs, channels last; on a CPU of one image after the other."""
        images = images.contiguous(memory_format=torch.channels_last)
        parts = (images,) if images.is_cuda else images.split(1)
        with folded_once(self.backbone):
            outputs = [self.backbone(part) for part in parts]
        return [torch.cat(output) for output in zip(*outputs, strict=True)]

    def _boundary(self, features: list[Tensor]) -> Tensor:
        heads = (self.fc_edge1, self.fc_edge2, self.fc_edge3, self.fc_edge4, self.fc_edge5)
        pairs = zip(heads, features, strict=True)
        edges = [_crop_like(head(output), features[0]) for head, output in pairs]
        return _of_all(self.fc_edge6, edges) + self.fc_edge6.bias

    def _displacement(self, features: list[Tensor]) -> Tensor:
        stem, layer1, layer2, layer3, layer4 = features
        coarse = [
            self.fc_dp3(layer2),
            _crop_like(self.fc_dp4(layer3), layer2),
            _crop_like(self.fc_dp5(layer4), layer2),
        ]
        coarse = self.fc_dp6[1:](_of_all(self.fc_dp6[0], coarse))
        fine = [self.fc_dp1(stem), self.fc_dp2(layer1), _crop_like(coarse, layer1)]
        return self.mean_shift(self.fc_dp7[1:](_of_all(self.fc_dp7[0], fine)))

    def trainable_parameters(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Parameters of the boundary head and of the displacement head."""
        named = list(self.named_parameters())
        edge, dp = ([p for n, p in named if n.startswith(h)] for h in ("fc_edge", "fc_dp"))
        return edge, dp


class AffinityDisplacementLoss(Net):
    """The network with its training loss on pixel pairs; arch: as in `net.backbones.ResNet`."""

    def __init__(self, path_index: PathIndex, **arch):
        super().__init__(**arch)
        self.loss = PairLoss(path_index)

    def forward(self, images: Tensor, labels: AffinityLabels) -> Losses:
        """Normalised RGB, B x 3 x H x W, and labels of `affinity_labels` -> the loss terms."""
        return self.loss(*super().forward(images), labels)


class EdgeDisplacement(Net):
    """The network for inference on one image and its mirror image.

    crop_size: images are padded with zeros (the mean colour) at the right and below to this size,
    and larger ones are cut, as in the original implementation; None leaves them as they are.
    """

    def __init__(self, crop_size: int | None = 512, **arch):
        super().__init__(**arch)
        self.crop_size = crop_size

    def forward(self, pair: Tensor) -> tuple[Tensor, Tensor]:
        """An image and its mirror image, 2 x 3 x H x W -> boundary map and displacement field.

        Boundary map: 1 x h x w, probabilities 0..1, from the mean logits of the two images.
        Displacement: 2 x h x w, of the image. h = (H-1) // 4 + 1, w likewise, or less where
        crop_size has cut the image.
        """
        height, width = get_strided_size(pair.shape[-2:], CAM_STRIDE)
        if self.crop_size is not None:
            below, right = (self.crop_size - n for n in pair.shape[-2:])
            pair = F.pad(pair, (0, right, 0, below))
        logits, displacement = super().forward(pair)
        image, mirrored = logits[..., :height, :width]
        return torch.sigmoid((image + mirrored.flip(-1)) / 2), displacement[0, :, :height, :width]
