"""misc/labels.py: label maps of 8 and 16 bits, the colours of PASCAL VOC, and PNG files."""

import numpy as np
import pytest
import torch
from PIL import Image

from misc import metrics
from misc.data.datasets import label_tensor
from misc.errors import UserError
from misc.labels import (
    classes_in,
    ignored_value,
    label_type,
    of_type,
    read_label_png,
    save_label_png,
    save_palette_png,
    voc_palette,
)
from misc.seg_loss import balanced_cross_entropy, cross_entropy

NUM_LABELS = 1001
LABELS = np.arange(256, dtype=np.uint8).reshape(8, 32)
WIDE = np.array([[0, 255, 256], [1000, 65_535, 7]], np.uint16)


def test_known_colours():
    palette = voc_palette()
    assert palette.shape == (256, 3) and palette.dtype == np.uint8
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 4: (0, 0, 128), 8: (64, 0, 0),
             15: (192, 128, 128), 20: (0, 64, 128), 255: (224, 224, 192)}  # fmt: skip
    assert {label: tuple(palette[label].tolist()) for label in known} == known
    assert len(np.unique(palette, axis=0)) == 256
    np.testing.assert_array_equal(voc_palette(81), palette[:81])


@pytest.mark.parametrize("save, mode", [(save_label_png, "L"), (save_palette_png, "P")])
def test_labels_come_back_in_their_colours(tmp_path, save, mode):
    path = tmp_path / "a.png"
    save(path, LABELS)
    read = read_label_png(path)
    np.testing.assert_array_equal(read, LABELS)
    assert read.dtype == np.uint8 and read.flags.writeable
    with Image.open(path) as image:
        assert image.format == "PNG" and image.mode == mode
        if mode == "P":
            shown = np.asarray(image.convert("RGB"))
            np.testing.assert_array_equal(shown, voc_palette()[LABELS])


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "1"])
def test_images_that_hold_no_labels_are_refused(tmp_path, mode):
    Image.new(mode, (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=f"a.png is an image of mode {mode}"):
        read_label_png(tmp_path / "a.png")


def test_missing_and_broken_files_are_refused(tmp_path):
    path = tmp_path / "a.png"
    with pytest.raises(UserError, match="a.png is missing"):
        read_label_png(path)
    noise = np.random.RandomState(0).randint(0, 256, (32, 32)).astype(np.uint8)
    save_palette_png(path, noise)
    whole = path.read_bytes()
    for broken in (b"", b"text", whole[:20], whole[: len(whole) // 2]):
        path.write_bytes(broken)
        with pytest.raises(UserError, match="a.png cannot be read"):
            read_label_png(path)


def test_the_type_is_the_smallest_that_holds_all_classes_and_the_ignored_value():
    assert label_type(255) is np.uint8 and label_type(256) is np.uint16
    narrow = np.array([[0, 254, 255]], np.uint8)
    assert of_type(narrow, 255) is narrow and ignored_value(narrow) == 255
    wide = of_type(narrow, 256)
    assert wide.dtype == np.uint16 and wide.tolist() == [[0, 254, 65_535]]
    assert of_type(wide, 256) is wide and classes_in(wide) == [254]
    assert classes_in(WIDE) == [7, 255, 256, 1000]


def test_wide_label_maps_are_written_and_read(tmp_path):
    save_label_png(tmp_path / "a.png", WIDE)
    read = read_label_png(tmp_path / "a.png")
    assert read.dtype == np.uint16 and np.array_equal(read, WIDE)
    save_palette_png(tmp_path / "b.png", WIDE)
    shown = np.asarray(Image.open(tmp_path / "b.png"))
    assert shown[0, 1].tolist() == voc_palette()[255].tolist() and shown[1, 1].tolist() == [255] * 3
    assert shown[0, 2].tolist() == [0, 0, 0]  # 256, by its last 8 bits


def test_scores_are_those_of_the_same_labels_in_8_bits():
    rng = np.random.default_rng(0)
    cams, keys = rng.random((3, 9, 11), dtype=np.float32), np.array([1, 4, 5])
    truth = rng.choice([0, 2, 5, 6, 255], (9, 11)).astype(np.uint8)
    narrow = metrics.ThresholdScores([0.2, 0.7], 8)
    narrow.add(cams, keys, truth)
    wide, byte = (metrics.ThresholdScores([0.2, 0.7], 300) for _ in range(2))
    wide.add(cams, keys, of_type(truth, 300))
    byte.add(cams, keys, truth)  # a file of 8 bits in a set of many classes
    assert np.array_equal(narrow.confusions, wide.confusions[:, :8, :8])
    assert np.array_equal(wide.confusions, byte.confusions)
    with pytest.raises(UserError, match=r"label 6 in the ground truth is not in 0..5"):
        metrics.ThresholdScores([0.2], 6).add(cams[:1], keys[:1], of_type(truth, 300))
    with pytest.raises(UserError, match="scores of 60000 labels take 26 GiB"):
        metrics.require_few_labels(60_000)
    confusion = metrics.confusion_matrix(WIDE, np.where(WIDE == 65_535, 3, WIDE), NUM_LABELS)
    assert confusion.sum() == 5 and metrics.mean_iou(confusion) == 1
    assert metrics.pseudo_mask_confusion(np.zeros_like(WIDE), WIDE, NUM_LABELS)[0, 0] == 2


def test_networks_are_trained_on_wide_labels():
    labels = label_tensor(WIDE)[None]
    assert labels.dtype == torch.int32 and labels.max() == 65_535
    logits = torch.zeros(1, NUM_LABELS, 2, 3, requires_grad=True)
    for loss in (cross_entropy, balanced_cross_entropy):
        value = loss(logits, labels)
        assert value.item() == pytest.approx(np.log(NUM_LABELS))
        (gradient,) = torch.autograd.grad(value, logits)
        assert gradient[0, :, 1, 1].abs().max() == 0  # the ignored pixel
