"""Plain class activation maps of the classifier: the baseline of RIB's maps."""

import logging
from collections.abc import Iterator

import torch

from misc.cli.options import Options, chosen_steps
from misc.rib import Maps
from misc.runtime import distributed
from misc.runtime.image_task import run_over_images
from misc.torchutils import weights_in
from net.checkpoint import load_classifier
from net.engine import Engine
from step.refine import Refiner, step_of

log = logging.getLogger(__name__)


class MakeCAM(Refiner):
    """Maps of an image: those of all scales and mirror images, not refined at all."""

    name = "make_cam"
    version = 3
    flag = "--plain_cam_out_dir"

    def start(self, device: torch.device, image_ids: list[str]) -> None:
        self.device = device
        model = load_classifier(self.args.cam_weights_name, self.args.info.num_classes)
        model = model.to(device, weights_in(self.args.precision))
        self.engine = Engine(model, self.args.precision)

    def maps(self, image_id: str, pairs: list[torch.Tensor]) -> Iterator[Maps]:
        yield [self.engine.plain_map(pair) for pair in pairs]


_step = step_of(MakeCAM)
LISTS, settings, writes, check = _step.LISTS, _step.settings, _step.writes, _step.check


def come_from_rib(args: Options) -> bool:
    """Whether this run also makes RIB's maps, which after the first iteration are these."""
    both = {"make_cam", "make_recam_with_RIB"} <= set(chosen_steps(args))
    return both and not args.RIB_climbed


def run(args: Options) -> None:
    """Make and save the maps of every image of the inference list, or leave that to RIB.

    Where RIB follows it writes them too, but for images that it is through with.
    """
    task, ids = _step.begin(args), args.image_ids("infer")
    if come_from_rib(args):
        ids = distributed.on_first_rank(lambda: _through(args, ids))
        log.info("make_cam: RIB's first iteration gives the maps of the images that it has to do")
    run_over_images(task, ids, args.resources)


def _through(args: Options, image_ids: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(i for i in image_ids if (args.cam_out_dir / f"{i}.npy").exists())
