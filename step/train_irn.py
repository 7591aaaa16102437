"""Train the inter-pixel relation network: boundaries and displacements (IRN, Sec. 4)."""

import torch
from torch.utils.data import DataLoader, Subset

from misc.affinity_loss import PairLoss
from misc.cams import CAM_STRIDE
from misc.cli.check import Preflight
from misc.cli.options import Options
from misc.data.datasets import AffinityDataset, TopLeftDataset, normalized
from misc.data.image_keys import keys_in
from misc.indexing import PathIndex, affinity_labels
from misc.runtime import distributed
from misc.runtime.devices import main_device, read_ahead_workers
from misc.runtime.processes import set_up_reader
from misc.runtime.programs import progress
from misc.runtime.training import (
    Training,
    check_batch,
    is_trained,
    save_trained,
    state_of,
    train,
)
from misc.storage.manifest import IMAGES, folder_hash, settings_of, weights_hash
from misc.storage.outputs import Output
from misc.torchutils import PolyOptimizer, parameter_groups
from net.checkpoint import on_backbone, save_checkpoint
from net.resnet50_irn import Net

LISTS = ("train", "infer")


def target(args: Options) -> Output:
    """The checkpoint to write."""
    return Output("--irn_weights_name", args.irn_weights_name, is_file=True)


def settings(args: Options) -> dict:
    """The options that the network depends on."""
    names = (
        "dataset", "irn_crop_size", "irn_batch_size", "irn_num_epoches", "irn_learning_rate",
        "irn_weight_decay", "irn_radius", "seed",
    )  # fmt: skip
    return {"step": "train_irn", "version": 3, **args.settings(*names)}


def writes(args: Options) -> tuple[Output, ...]:
    """Everything that the step writes."""
    return target(args), state_of(target(args))


def check(args: Options, preflight: Preflight) -> None:
    """Everything that can be known to be wrong before the first batch."""
    ids = args.image_ids("train")
    preflight.output_file(target(args), settings(args))
    preflight.collect(lambda: check_batch("--irn_batch_size", args.irn_batch_size, len(ids)))
    preflight.backbone(args.imagenet_weights)
    preflight.images((*ids, *args.image_ids("infer")))
    preflight.label_maps(ids, args.ir_label_out_dir)


def run(args: Options) -> None:
    """Train the two heads on the confident labels, store the mean displacement, save."""
    image_ids = args.image_ids("train")
    inputs = {
        "imagenet weights": weights_hash(args.imagenet_weights),
        "IR labels": folder_hash(args.ir_label_out_dir),
    }
    read = tuple(dict.fromkeys((*image_ids, *args.image_ids("infer"))))
    images = distributed.on_first_rank(lambda: keys_in(args, args.ir_label_out_dir, ".png", read))
    noted = {**settings_of(settings(args), inputs), IMAGES: images}
    readers = read_ahead_workers(args.resources)
    training = Training(
        **args.training("irn"), file=target(args), settings=noted, num_workers=readers
    )
    if is_trained(training):
        return
    torch.manual_seed(args.seed)
    device = main_device(args.resources)
    side = args.irn_crop_size // CAM_STRIDE  # of boundary map and displacement field
    paths = PathIndex(args.irn_radius, (side, side))
    model = on_backbone(Net, args.imagenet_weights)
    pair_loss = PairLoss(paths)
    model.to(device).train()
    dataset = AffinityDataset(
        args.info, image_ids, args.ir_label_out_dir, args.irn_crop_size, args.seed
    )

    def losses_of(network, batch: list[torch.Tensor], part: float) -> dict[str, torch.Tensor]:
        images, labels = normalized(batch[0], device), batch[1].to(device, non_blocking=True)
        pairs = affinity_labels(labels, paths, args.info.num_labels)
        return pair_loss(*network(images), pairs)._asdict()

    rate, decay = args.irn_learning_rate, args.irn_weight_decay
    groups = parameter_groups(*model.trainable_parameters(), rate, decay)
    optimizer = PolyOptimizer(groups, rate, decay, training.steps(len(dataset))[1])
    train(training, model, optimizer, dataset, losses_of)
    store_mean_displacement(model, args, device)
    save_trained(training, model, save_checkpoint)


@torch.no_grad()
def store_mean_displacement(model: Net, args: Options, device) -> None:
    """Mean displacement over the inference set, which inference subtracts from every field.

    Every image counts; the original implementation drops the last incomplete batch.
    """
    model.eval()
    dataset = TopLeftDataset(args.info, args.image_ids("infer"), args.irn_crop_size)
    mine = Subset(dataset, distributed.part(range(len(dataset))))
    readers = read_ahead_workers(args.resources)
    loader = DataLoader(
        mine,
        args.irn_batch_size,
        num_workers=readers,
        pin_memory=device.type == "cuda",
        worker_init_fn=set_up_reader,
    )
    total = torch.zeros(2, device=device)
    model.mean_shift.running_mean.zero_()
    with progress(len(loader), "mean displacement", "batch", hidden=distributed.rank() > 0) as bar:
        for images in loader:
            _, displacement = model(images.to(device))
            total += displacement.mean(dim=(2, 3)).sum(dim=0)
            bar.update()
    model.mean_shift.running_mean.copy_(distributed.summed(total) / len(dataset))
