"""The two kinds of steps: those that fill folders image by image, and those that train."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from misc.cli.check import Preflight
from misc.cli.options import Options
from misc.data.dataset_info import keys_in
from misc.runtime import distributed
from misc.runtime.devices import main_device, memory_can_end, read_ahead_workers, uses_cuda
from misc.runtime.image_task import ImageTask, prepare_output, run_over_images
from misc.runtime.training import Training, check_batch, is_trained, save_trained, state_of, train
from misc.storage.manifest import IMAGES, Sources, file_hash, folder_hash, weights_hash
from misc.storage.outputs import Output
from misc.torchutils import PolyOptimizer, parameter_groups
from net.checkpoint import load_boundary_net, load_classifier, load_segmentation, save_checkpoint

_ADVICE = "give the labels of all images, or an --infer_list of those that have one"
# What steps start from, by its name in manifests: its option, its hash, and its check.
READS: dict[str, tuple[str, Callable, Callable]] = {
    "maps": ("cam_out_dir", folder_hash, lambda look, path, args, ids: look.cams(ids, path)),
    "classifier": ("cam_weights_name", file_hash, lambda look, path, args, ids: look.checkpoint(
        path, load_classifier, args.info.num_classes)),
    "IRN": ("irn_weights_name", file_hash, lambda look, path, args, ids: look.checkpoint(
        path, load_boundary_net)),
    "network": ("seg_weights_name", file_hash, lambda look, path, args, ids: look.checkpoint(
        path, load_segmentation, args.info.num_labels)),
    "imagenet weights": ("imagenet_weights", weights_hash, lambda look, path, args, ids:
        look.backbone(path)),
    "init": ("seg_init", weights_hash, lambda look, path, args, ids:
        look.backbone(path, "ResNet101", "--seg_init")),
    "IR labels": ("ir_label_out_dir", folder_hash, lambda look, path, args, ids:
        look.label_maps(ids, path)),
    "labels": ("seg_label_dir", folder_hash, lambda look, path, args, ids:
        look.label_maps(ids, path, _ADVICE, trained_on=True)),
}  # fmt: skip


class Step:
    """A step of the method.

    A subclass sets `name`, `flag` (the option of its result), `version` (raised when the same
    options give another result), `options` (that the result depends on), `reads` (keys of READS)
    and `lists` (roles of its image lists, that of its images first, and "labels").
    """

    name = flag = ""
    version = 1
    common: tuple[str, ...] = ()  # options of all steps of a kind
    options: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    lists: tuple[str, ...] = ("infer",)

    @classmethod
    def as_step(cls) -> tuple[tuple[str, ...], Callable, Callable, Callable, Callable]:
        """LISTS, settings, writes, check and run of a step module."""
        return cls.lists, cls.settings, cls.writes, cls.check, cls.run

    @classmethod
    def place(cls, args: Options) -> Path:
        return getattr(args, cls.flag.removeprefix("--"))

    @classmethod
    def ids(cls, args: Options) -> tuple[str, ...]:
        return args.image_ids(cls.lists[0])

    @classmethod
    def settings(cls, args: Options) -> dict:
        options = args.settings(*cls.common, *cls.options)
        return {"step": cls.name, "version": cls.version, **options}

    @classmethod
    def inputs(cls, args: Options) -> dict:
        """Hashes of what the result is made from, by name."""
        read = {name: READS[name] for name in cls.reads}
        return {name: hash_of(getattr(args, option)) for name, (option, hash_of, _) in read.items()}

    @classmethod
    def check(cls, args: Options, preflight: Preflight) -> None:
        """Look at everything that can be known to be wrong before the first image."""
        preflight.images(cls.ids(args))
        if "labels" in cls.lists:
            preflight.labels(cls.ids(args))
        for option, _, check in (READS[name] for name in cls.reads):
            check(preflight, getattr(args, option), args, cls.ids(args))


class FolderStep(Step, ImageTask):
    """A step that makes files of one image after the other; picklable until `start` was called.

    A subclass sets `suffix` (of its files) and `subfolders` (that it fills), and overrides `one`.
    """

    suffix = ".png"
    subfolders: tuple[str, ...] = (".",)

    def __init__(self, args: Options):
        self.args = args

    def outputs(self, image_id: str) -> list[Path]:
        return [out.path / f"{image_id}{out.suffix}" for out, _ in self.folders(self.args)]

    @classmethod
    def folders(cls, args: Options) -> list[tuple[Output, dict]]:
        """The folders that the step fills, each with its settings."""
        paths = [cls.place(args) / name for name in cls.subfolders]
        return [(Output(cls.flag, path, suffix=cls.suffix), cls.settings(args)) for path in paths]

    @classmethod
    def writes(cls, args: Options) -> tuple[Output, ...]:
        return tuple(folder for folder, _ in cls.folders(args))

    @classmethod
    def sources(cls, args: Options) -> Sources:
        return Sources(keys_in(args, args.cam_out_dir, ".npy", cls.ids(args)))

    @classmethod
    def check(cls, args: Options, preflight: Preflight) -> None:
        for folder, settings in cls.folders(args):
            preflight.output(folder, settings, cls.ids(args))
        super().check(args, preflight)

    @classmethod
    def run(cls, args: Options) -> None:
        inputs = cls.inputs(args)
        for folder, settings in cls.folders(args):
            prepare_output(folder, settings, inputs, args.overwrite, partial(cls.sources, args))
        for output in cls.writes(args):
            output.folder.mkdir(parents=True, exist_ok=True)
        ids = cls.ids(args)
        if cls.on_gpu and uses_cuda(args.resources):  # cuDNN plans once for images of one size
            ids = tuple(sorted(ids, key=args.info.image_size, reverse=True))
        run_over_images(cls(args), ids, args.resources)


class TrainStep(Step):
    """A step that trains a network: `model` on `dataset`, both made by `__init__` of a subclass.

    network: the beginning of the names of its options.
    """

    network = ""
    model: nn.Module

    def __init__(self, args: Options, device: torch.device):
        self.args, self.device = args, device

    @classmethod
    def writes(cls, args: Options) -> tuple[Output, ...]:
        checkpoint = Output(cls.flag, cls.place(args), is_file=True)
        return checkpoint, state_of(checkpoint)

    @classmethod
    def option(cls, args: Options, name: str) -> object:
        return getattr(args, f"{cls.network}_{name}")

    @classmethod
    def length(cls, args: Options) -> dict[str, int]:
        return {"epochs": cls.option(args, "num_epoches")}

    @classmethod
    def keys(cls, args: Options) -> dict[str, str]:
        """A text for each image that changes where what is learned of it does."""
        raise NotImplementedError

    @classmethod
    def check(cls, args: Options, preflight: Preflight) -> None:
        preflight.output_file(cls.writes(args)[0], cls.settings(args))
        batch = (cls.option(args, "batch_size"), len(cls.ids(args)))
        parts = cls.length(args).get("accumulate", 1)
        preflight.collect(lambda: check_batch(f"--{cls.network}_batch_size", *batch, parts))
        super().check(args, preflight)

    def losses(self, network: nn.Module, images: Tensor, labels: Tensor, part: float) -> dict:
        """Losses by name; "total" is minimised. part: the fraction of a batch that this is."""
        raise NotImplementedError

    def losses_of(self, network: nn.Module, batch: Sequence[Tensor], part: float) -> dict:
        return self.losses(network, *(t.to(self.device, non_blocking=True) for t in batch), part)

    def optimizer(self, steps: int) -> tuple[Optimizer, LRScheduler | None]:
        """The optimizer, and the schedule of its learning rates where it has none itself."""
        options = [self.option(self.args, name) for name in ("learning_rate", "weight_decay")]
        groups = parameter_groups(*self.model.trainable_parameters(), *options)
        return PolyOptimizer(groups, *options, steps), None

    def finish(self) -> None:
        """Called after the last batch, before the network is saved."""

    @classmethod
    def run(cls, args: Options) -> nn.Module | None:
        """Train and save the network; returns it, or None where it is there already."""
        images = distributed.on_first_rank(lambda: cls.keys(args))
        training = Training(
            name=cls.name, file=cls.writes(args)[0], batch_size=cls.option(args, "batch_size"),
            settings={**cls.settings(args), "inputs": cls.inputs(args), IMAGES: images},
            num_workers=read_ahead_workers(args.resources), seed=args.seed,
            overwrite=args.overwrite, **cls.length(args),
        )  # fmt: skip
        if is_trained(training):
            return None
        torch.manual_seed(args.seed)
        lower = (f"--{cls.network}_batch_size", f"--{cls.network}_crop_size")
        with memory_can_end(cls.name, lower):
            step = cls(args, main_device(args.resources))
            step.model.train()
            optimizer, schedule = step.optimizer(training.steps(len(step.dataset))[1])
            train(training, step.model, optimizer, step.dataset, step.losses_of, schedule)
            step.finish()
        save_trained(training, step.model, save_checkpoint)
        return step.model
