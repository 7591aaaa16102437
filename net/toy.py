"""The network of the paper's toy experiment (Sec. 3, Figure 1), its gradient maps and their HGR."""

import copy
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NUM_LAYERS = 6  # five convolutions and a fully connected layer
WEIGHT_DECAY = 1e-4  # of the fine-tuning, as in RIB


class ToyNet(nn.Module):
    """Five 3x3 convolutions without biases, ReLU after each, and a fully connected layer.

    Padding is circular, so that the border of the canvas is like every other place of it.

    side: height and width of the images. channels: of each convolution. strides: of the five.
    """

    def __init__(
        self,
        side: int,
        channels: int = 8,
        strides: tuple[int, ...] = (1,) * 5,
        num_classes: int = 2,
    ):
        super().__init__()
        inputs = (1, *[channels] * (len(strides) - 1))
        self.convs = nn.ModuleList(
            nn.Conv2d(
                inner, channels, 3, stride=stride, padding=1, padding_mode="circular", bias=False
            )
            for inner, stride in zip(inputs, strides, strict=True)
        )
        for stride in strides:
            side = (side - 1) // stride + 1
        self.fc = nn.Linear(channels * side * side, num_classes, bias=False)

    def layers(self, images: Tensor) -> list[Tensor]:
        """N x 1 x H x W -> what each convolution gives, before its ReLU, and the logits N x C."""
        outputs, features = [], images
        for conv in self.convs:
            outputs.append(conv(features))
            features = F.relu(outputs[-1])
        return [*outputs, self.fc(features.flatten(1))]

    def forward(self, images: Tensor) -> Tensor:
        """N x 1 x H x W -> logits, N x C."""
        return self.layers(images)[-1]


def gradient_maps(network: ToyNet, images: Tensor, labels: Tensor) -> Tensor:
    """The maps G1 .. G6 of images: how strongly each pixel acts on each layer (paper, Sec. 3).

    images: N x 1 x H x W. labels: N class indices. Returns N x 6 x H x W in 0..1: the absolute
    gradient of a layer's summed features, for the last one of the logit of the image's class, over
    its maximum.
    """
    images = images.detach().requires_grad_()
    *features, logits = network.layers(images)
    sums = [*(f.sum() for f in features), logits.gather(1, labels[:, None]).sum()]
    gradients = [torch.autograd.grad(s, images, retain_graph=True)[0].abs().sum(1) for s in sums]
    return normalized(torch.stack(gradients, dim=1))


def normalized(maps: Tensor) -> Tensor:
    """Maps ... x H x W over their maxima; maps of zeros stay so."""
    return maps / maps.amax((-2, -1), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)


def high_gradient_ratio(maps: Tensor, region: Tensor, threshold: float = 0.3) -> Tensor:
    """HGR: the share of a region's pixels whose map is above the threshold, mean over images.

    maps: N x L x H x W in 0..1. region: N x H x W bool, no image without a pixel. Returns L values.
    """
    high = ((maps > threshold) & region[:, None]).sum((-2, -1))
    return (high / region.sum((-2, -1))[:, None]).mean(0)


def fine_tuned_gradients(
    network: ToyNet,
    image: Tensor,
    label: int,
    others: list[tuple[Tensor, Tensor]],
    rate: float,
    stop: float = float("inf"),
) -> Iterator[Tensor]:
    """RIB on the toy network: a copy is fine-tuned on one image by its logits alone.

    image: 1 x H x W. others: of each iteration the images (B x 1 x H x W) and labels (B) that keep
    all logits from growing together, of other classes than `label`. rate: of learning. stop: as in
    RIB the map whose logit is above this margin is the last. Yields |gradient of the logit|
    (H x W) before each step, so first that of `network` itself, which stays as it is.
    """
    tuned = copy.deepcopy(network)
    optimizer = torch.optim.SGD(tuned.parameters(), rate, weight_decay=WEIGHT_DECAY)
    own = torch.tensor([label])
    for batch, labels in others:
        yield _logit_gradient(tuned, image, label)
        logits = tuned(torch.cat([image[None], batch]))
        if not logits[0, label].abs() <= stop:
            return
        loss = -logits.gather(1, torch.cat([own, labels])[:, None]).sum()  # no final activation
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _logit_gradient(network: ToyNet, image: Tensor, label: int) -> Tensor:
    image = image[None].detach().requires_grad_()
    (gradient,) = torch.autograd.grad(network(image)[0, label], image)
    return gradient[0].abs().sum(0)


def final_loss(logits: Tensor, labels: Tensor, activation: str) -> Tensor:
    """Loss of a training whose last layer meets this activation: "sigmoid", "softmax", "none".

    none: logits of the own class up, of others down, without an end.
    """
    if activation == "softmax":
        return F.cross_entropy(logits, labels)
    truth = F.one_hot(labels, logits.shape[1]).to(logits)
    if activation == "sigmoid":
        return F.multilabel_soft_margin_loss(logits, truth)
    return -(logits * (2 * truth - 1)).mean()
