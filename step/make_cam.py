"""Plain class activation maps of the classifier: the baseline of RIB's maps."""

from collections.abc import Iterator

import torch

from misc.rib import Maps
from misc.torchutils import weights_in
from net.checkpoint import load_classifier
from net.engine import Engine
from step.refine import Refiner, step_of


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
LISTS, settings, writes, check, run = (
    _step.LISTS, _step.settings, _step.writes, _step.check, _step.run,
)  # fmt: skip
