"""A figure of RIB on photographs: image, CAM, RIB after some iterations, pseudo mask.

    python -m Demo.try_rib PHOTO ... --classifier FILE --others DIR --out FIGURE.png [--irn FILE]

PHOTO may be CLASS=PHOTO, with the name of a class of VOC or COCO, or its number from 0; otherwise
the classes are those that the classifier finds. DIR has other photographs, from which RIB draws
its batches.
"""

if __name__ == "__main__":
    from misc.runtime.programs import begin

    begin()

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from coco14.dataset import CLASS_NAMES as COCO_CLASSES
from misc.data.datasets import read_image
from misc.errors import UserError
from misc.imutils import pil_rescale
from misc.rib import RIBSettings
from misc.runtime.programs import said_plainly
from misc.storage.outputs import require_own
from net.checkpoint import load_boundary_net, load_classifier, read_checkpoint
from net.inference import class_probabilities, merged, plain_maps, pseudo_mask, rib_iterations
from net.resnet50_cam import CAM
from net.resnet50_irn import EdgeDisplacement
from step.visualize import Panel, coloured, grid, map_panel, reduced, save_figure
from voc12.dataset import CLASS_NAMES as VOC_CLASSES

SHOWN = (3, 6, 10)  # iterations


def parse(argv: list[str] | None) -> argparse.Namespace:
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m Demo.try_rib", None, __doc__, formatter_class=as_written
    )
    add = parser.add_argument
    add("photos", nargs="+", metavar="[CLASS=]PHOTO")
    add("--classifier", type=Path, required=True, help="as train_cam writes it")
    add("--others", type=Path, required=True, help="folder of other photographs")
    add("--out", type=Path, required=True, help="PNG to write")
    add("--irn", type=Path, help="IRN, as train_irn writes it: adds the pseudo mask")
    add("--long", type=int, default=384, help="longer side of the photographs (default: 384)")
    add("--batch_size", type=int, default=12, help="other crops of an iteration (default: 12)")
    add("--crop_size", type=int, default=256, help="their size (default: 256)")
    add("--learning_rate", type=float, nargs="+", default=[RIBSettings.learning_rate],
        metavar="X", help="a row for each (default: the paper's, 8e-6)")  # fmt: skip
    add("--threshold", type=float, default=0.25, help="of the contours (default: 0.25)")
    return parser.parse_args(argv)


def class_names(number: int) -> tuple[str, ...]:
    """Names of the classes of a classifier of so many."""
    known = {len(names): names for names in (VOC_CLASSES, COCO_CLASSES)}
    return known.get(number) or tuple(str(c) for c in range(number))


def label_of(network: CAM, image: np.ndarray, name: str | None) -> np.ndarray:
    """Multi-hot label (C,): the class that is given, otherwise those that are found."""
    probabilities = class_probabilities(network, image)
    names = class_names(len(probabilities))
    if name is None:
        found = probabilities > min(0.5, probabilities.max() - 1e-6)
        return found.float().numpy()
    if name not in names:
        raise UserError(f"{name}: no class of the classifier, which has {', '.join(names)}")
    return np.eye(len(names), dtype=np.float32)[names.index(name)]


def row_of(
    args: argparse.Namespace, network: CAM, irn: EdgeDisplacement | None, photo: str, rate: float
) -> list[Panel]:
    """Panels of a photograph: itself, its CAM, RIB after some iterations, its pseudo mask."""
    name, _, path = photo.rpartition("=")
    image = read_image(Path(path))
    image = pil_rescale(image, min(1.0, args.long / max(image.shape[:2])), 3)
    label = label_of(network, image, name or None)
    first, keys = int(label.argmax()), torch.from_numpy(np.flatnonzero(label))
    settings = replace(RIBSettings(), learning_rate=rate)
    sizes = (args.batch_size, args.crop_size)
    sums = list(rib_iterations(network, image, label, args.others, settings, *sizes))
    cams = {"CAM": plain_maps(network, image)["high_res"][first]}
    for k in SHOWN:  # an early stop keeps the last maps
        maps = merged(sums[min(k, len(sums)) - 1], image, keys[:1])
        cams[f"RIB, {k} iterations"] = maps["high_res"][0]
    shown = reduced(image)
    title = f"{class_names(len(label))[first]}, learning rate {rate:g}"
    panels = [map_panel(name, shown, cam, args.threshold) for name, cam in cams.items()]
    if irn is not None:
        mask = pseudo_mask(irn, image, merged(sums[-1], image, keys))
        panels.append(Panel("pseudo mask", coloured(shown, reduced(mask))))
    return [Panel(title, shown), *panels]


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)

    def work() -> None:
        require_own(args.out)
        if not args.others.is_dir():
            raise UserError(f"--others {args.others}: is no folder; give one of photographs")
        number = read_checkpoint(args.classifier)["arch"].get("num_classes", 0)
        network = load_classifier(args.classifier, number)
        irn = load_boundary_net(args.irn) if args.irn else None
        pairs = [(photo, rate) for photo in args.photos for rate in args.learning_rate]
        save_figure(grid([row_of(args, network, irn, *pair) for pair in pairs]), args.out)

    return said_plainly(work)


if __name__ == "__main__":
    sys.exit(main())
