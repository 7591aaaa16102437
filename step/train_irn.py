"""Train the inter-pixel relation network: boundaries and displacements (IRN, Sec. 4)."""

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from misc.affinity_loss import PairLoss
from misc.cams import CAM_STRIDE
from misc.cli.check import Preflight
from misc.cli.options import Options
from misc.data.dataset_info import keys_in
from misc.data.datasets import AffinityDataset, TopLeftDataset, normalized
from misc.indexing import PathIndex, affinity_labels
from misc.runtime import distributed
from misc.runtime.devices import read_ahead_workers
from misc.runtime.processes import set_up_reader
from misc.runtime.programs import progress
from net.backbones import fold_norms
from net.checkpoint import on_backbone
from net.resnet50_irn import Net
from step.base import TrainStep


class TrainIRN(TrainStep):
    """The two heads of IRN, on the labels of cam_to_ir_label."""

    name, network, flag, version = "train_irn", "irn", "--irn_weights_name", 3
    lists, reads = ("train", "infer"), ("imagenet weights", "IR labels")
    options = ("dataset", "irn_crop_size", "irn_batch_size", "irn_num_epoches",
               "irn_learning_rate", "irn_weight_decay", "irn_radius", "seed")  # fmt: skip

    def __init__(self, args: Options, device: torch.device):
        super().__init__(args, device)
        side = args.irn_crop_size // CAM_STRIDE  # of boundary map and displacement field
        self.paths = PathIndex(args.irn_radius, (side, side))
        self.pair_loss = PairLoss(self.paths)
        self.model = on_backbone(Net, args.imagenet_weights).to(device)
        fold_norms(self.model.backbone)  # which is frozen
        crops = args.ir_label_out_dir, args.irn_crop_size, args.seed
        self.dataset = AffinityDataset(args.info, self.ids(args), *crops)

    @classmethod
    def keys(cls, args: Options) -> dict[str, str]:
        read = tuple(dict.fromkeys((*cls.ids(args), *args.image_ids("infer"))))
        return keys_in(args, args.ir_label_out_dir, ".png", read)

    @classmethod
    def check(cls, args: Options, preflight: Preflight) -> None:
        super().check(args, preflight)
        preflight.images(args.image_ids("infer"))

    def losses(self, network: nn.Module, images: Tensor, labels: Tensor, part: float) -> dict:
        pairs = affinity_labels(labels, self.paths, self.args.info.num_labels)
        return self.pair_loss(*network(normalized(images, self.device)), pairs)._asdict()

    @torch.no_grad()
    def finish(self) -> None:
        """Store the mean displacement over the inference set, which inference subtracts.

        Every image counts; the original implementation drops the last incomplete batch.
        """
        args, model, ids = self.args, self.model.eval(), self.args.image_ids("infer")
        loader = DataLoader(
            TopLeftDataset(args.info, distributed.part(ids), args.irn_crop_size),
            args.irn_batch_size, num_workers=read_ahead_workers(args.resources),
            worker_init_fn=set_up_reader, pin_memory=self.device.type == "cuda",
        )  # fmt: skip
        total = torch.zeros(2, device=self.device)
        model.mean_shift.running_mean.zero_()
        hidden = distributed.rank() > 0
        with progress(len(loader), "mean displacement", "batch", hidden=hidden) as bar:
            for images in loader:
                total += model(normalized(images, self.device))[1].mean(dim=(2, 3)).sum(dim=0)
                bar.update()
        model.mean_shift.running_mean.copy_(distributed.summed(total) / len(ids))


LISTS, settings, writes, check, run = TrainIRN.as_step()
