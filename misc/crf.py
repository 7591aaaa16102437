"""The fully connected CRF: of label maps (IRN, Sec. 4.2) and of probabilities (DeepLab-v2)."""

from dataclasses import dataclass

import numpy as np

from misc.errors import UserError
from misc.labels import label_type


@dataclass(frozen=True)
class CRFSettings:
    """Numbers of a dense CRF on probabilities; the values are DeepLab-v2's."""

    iterations: int = 10
    gaussian_sxy: float = 1  # pixels
    gaussian_weight: float = 3
    bilateral_sxy: float = 67  # pixels
    bilateral_srgb: float = 3  # colour values
    bilateral_weight: float = 4
    clip: float = 1e-5  # lowest probability


_IRN = CRFSettings(gaussian_sxy=3, bilateral_sxy=50, bilateral_srgb=5, bilateral_weight=10)


def _pairwise_crf(image: np.ndarray, labels: int, s: CRFSettings):
    """A CRF of the library with its pairwise terms; UserError where it is not installed."""
    try:
        from pydensecrf.densecrf import DenseCRF2D
    except ImportError as error:
        raise UserError(
            "the dense CRF needs pydensecrf: pip install pydensecrf2 (it is compiled on "
            "installation: apt-get install build-essential python3-dev first)"
        ) from error
    crf = DenseCRF2D(image.shape[1], image.shape[0], labels)
    crf.addPairwiseGaussian(sxy=s.gaussian_sxy, compat=s.gaussian_weight)
    rgb = np.require(image, requirements=["C", "W"])
    deviations = {"sxy": s.bilateral_sxy, "srgb": s.bilateral_srgb}
    crf.addPairwiseBilateral(**deviations, rgbim=rgb, compat=s.bilateral_weight)
    return crf


class _CRFMessages:
    """The pairwise terms of a fully connected CRF over the pixels of an image (IRN, Sec. 4.2).

    img: H x W x 3 uint8. channels: maps that are filtered together.
    """

    def __init__(self, img: np.ndarray, channels: int) -> None:
        from pydensecrf.eigen import matrixXf

        self._crf = _pairwise_crf(img, channels, _IRN)
        nothing = np.zeros((channels, img[..., 0].size), dtype=np.float32)
        self._crf.setUnaryEnergy(nothing)
        self._input, _, self._scratch = self._crf.startInference()
        self._output = matrixXf(nothing)  # matrices that the library makes do not show their size

    def of(self, maps: np.ndarray) -> np.ndarray:
        """Sums that the other pixels add to the score of a label, channels x HW float32."""
        np.asarray(self._input)[...] = maps
        # Without unary terms, what the library would normalise are the sums of the pairwise ones.
        self._crf.stepInference(self._input, self._output, self._scratch)
        return np.array(self._output, order="C")


def refine_label_maps(
    img: np.ndarray, label_maps: np.ndarray, n_labels: int, t: int = 10, gt_prob: float = 0.7
) -> np.ndarray:
    """Most probable labels after t mean-field iterations of a dense CRF, M x H x W.

    img: H x W x 3 uint8. label_maps: M x H x W integers in 0..n_labels-1, each map a problem of its
    own. A label is trusted with probability gt_prob; the other labels share the rest. Background is
    a label like any other.

    All maps are filtered in one go, and label 0 is not: probabilities add up to 1, so its messages
    follow from the others'. The library filters four channels in the time of one.
    """
    label_maps = np.asarray(label_maps)
    if n_labels == 1:  # nothing to decide, and the unary term would divide by zero
        return np.zeros(label_maps.shape, dtype=np.uint8)
    if label_maps.max() >= n_labels:
        raise ValueError(f"label {label_maps.max()}, but the CRF has {n_labels} labels")
    given = label_maps.reshape(len(label_maps), 1, -1) == np.arange(n_labels)[:, None]
    # From here on every score is that of a label minus that of label 0, M x n_labels-1 x HW.
    trust = np.float32(np.log(gt_prob / ((1 - gt_prob) / (n_labels - 1))))
    unary = trust * (given[:, 1:].astype(np.float32) - given[:, :1])
    pixels = unary.shape[-1]
    messages = _CRFMessages(img, channels=unary.size // pixels)
    of_all = messages.of(np.ones((unary.size // pixels, pixels), dtype=np.float32))[0]
    scores = unary
    for _ in range(t):
        received = messages.of(_probabilities(scores).reshape(-1, pixels)).reshape(unary.shape)
        from_label_0 = of_all - received.sum(axis=1, keepdims=True)
        scores = received
        scores += unary
        scores -= from_label_0
    best = scores.argmax(axis=1) + 1
    best[scores.max(axis=1) <= 0] = 0
    return best.astype(label_type(n_labels)).reshape(label_maps.shape)


def _probabilities(scores: np.ndarray) -> np.ndarray:
    """Softmax over axis 1 of [0, scores], without the first, M x n x HW."""
    highest = np.maximum(scores.max(axis=1, keepdims=True), 0)
    powers = np.exp(scores - highest)
    powers /= powers.sum(axis=1, keepdims=True) + np.exp(-highest)
    return powers


def crf_inference_label(
    img: np.ndarray, labels: np.ndarray, t: int = 10, n_labels: int = 21, gt_prob: float = 0.7
) -> np.ndarray:
    """Refine one label map, H x W, by the dense CRF of its image; see `refine_label_maps`."""
    return refine_label_maps(img, labels[None], n_labels, t, gt_prob)[0]


def dense_crf(
    image: np.ndarray, probabilities: np.ndarray, settings: CRFSettings | None = None
) -> np.ndarray:
    """Probabilities of labels, L x H x W float32, after mean-field iterations of a dense CRF.

    image: H x W x 3 uint8; the order of its channels changes the last bits alone.
    """
    s = settings or CRFSettings()
    energy = -np.log(np.clip(probabilities, s.clip, 1.0).astype(np.float32))
    crf = _pairwise_crf(image, len(energy), s)
    crf.setUnaryEnergy(np.ascontiguousarray(energy.reshape(len(energy), -1)))
    return np.array(crf.inference(s.iterations), np.float32).reshape(energy.shape)


def wrapped_image(image: np.ndarray, mean: tuple[float, float, float]) -> np.ndarray:
    """The image that deeplab-pytorch's evaluation hands to its CRF, H x W x 3 uint8: a quirk.

    The mean is subtracted, the rest is cut to whole numbers and taken modulo 256.
    """
    return np.trunc(image - np.asarray(mean)).astype(np.int64).astype(np.uint8)
