"""Plain class activation maps of the classifier: the baseline of RIB's maps."""

from collections.abc import Iterator

from torch import Tensor, no_grad

from misc.cams import pair_map
from misc.rib import Maps
from step.maps import MapMethod


class MakeCAM(MapMethod):
    """CAMs of an image and its mirror image at all scales."""

    name, flag, version = "make_cam", "--plain_cam_out_dir", 3

    @no_grad()
    def maps(self, image_id: str, pairs: list[Tensor], label: Tensor) -> Iterator[Maps]:
        yield [pair_map(self.model(pair)) for pair in pairs]


LISTS, settings, writes, check, run = MakeCAM.as_step()
