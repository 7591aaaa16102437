"""The steps in the order of the method, and which of them a run takes."""

from collections.abc import Mapping
from types import ModuleType

from misc.cli.options.namespace import Options
from misc.errors import UserError

# Step modules in the order of the method, with what --help says of them.
STEPS = {
    "train_cam": "1  train the image classifier",
    "make_cam": "   plain class activation maps of the classifier (baseline)",
    "make_recam_with_RIB": "2  RIB: fine-tune per image, sum the maps of all iterations",
    "make_recam_with_AdvCAM": "   AdvCAM maps: every image climbs towards its classes",
    "import_maps": "   maps of another method, from --import_maps",
    "eval_cam": "3  score plain and refined maps over all background thresholds",
    "eval_seed_crf": "   score these seeds after a dense CRF",
    "cam_to_ir_label": "4  confident labels for the inter-pixel relation network (IRN)",
    "train_irn": "5  train IRN",
    "make_sem_seg_labels": "6  random walk: pseudo masks",
    "eval_sem_seg": "   score the pseudo masks",
    "make_ins_seg_labels": "   instance labels",
    "eval_ins_seg": "   score the instance labels",
    "train_seg": "7  train the segmentation network (DeepLab-v2) on the pseudo masks",
    "make_seg": "8  predict the images of --seg_list",
    "eval_seg": "9  score these predictions",
    "export_masks": "   write masks, maps and labels in the forms of other programs (--export)",
}
# These run where they are asked for, by name or all together by --with_seg.
SEG_STEPS = ("train_seg", "make_seg", "eval_seg")
CRF_STEPS = ("eval_seed_crf",)
INS_STEPS = ("make_ins_seg_labels", "eval_ins_seg")
SCORING = ("eval_cam", "eval_seed_crf", "eval_sem_seg", "eval_ins_seg", "eval_seg")
EXPORT_STEPS = ("export_masks",)
OBJECT_MASKS = "SegmentationObject"  # folder of the root with masks of the objects
IMPORTED = "imported"  # what --recam says of maps of other methods
OPTIONAL = (
    "make_recam_with_AdvCAM", "import_maps", *CRF_STEPS, *INS_STEPS, *SEG_STEPS, *EXPORT_STEPS
)  # fmt: skip
SEQUENCE = tuple(name for name in STEPS if name not in OPTIONAL)

# What --recam chooses: its step, and an ending for the names of what is made from its maps.
RECAM = {"rib": ("make_recam_with_RIB", ""), "advcam": ("make_recam_with_AdvCAM", "_adv"),
         "none": (None, "_plain"), IMPORTED: ("import_maps", "_imported")}  # fmt: skip
ALL_MAPS = "all"
# Ending of the rows of the table that are made from these maps; RIB's have none.
ROW_ENDING = {"rib": "", "advcam": ", AdvCAM", "none": ", CAM", IMPORTED: ", imported"}


def chosen_steps(args: Options) -> list[str]:
    """Names of the steps to run: those given as true, or all that were not given as false.

    Without any *_pass option the classifier is trained only where no checkpoint was named.
    Raises UserError where no step is left.
    """
    flags = {name: getattr(args, f"{name}_pass") for name in STEPS}
    if any(flags.values()):
        return [name for name in STEPS if flags[name]]
    asked = set(SEQUENCE) - {"make_recam_with_RIB"} | {RECAM[args.recam][0]}
    for wanted, names in ((args.with_crf, CRF_STEPS), (args.with_ins, INS_STEPS),
                          (args.with_seg, SEG_STEPS), (args.export, EXPORT_STEPS)):  # fmt: skip
        asked |= set(names) if wanted else set()
    if args.recam == IMPORTED:  # nothing then needs the classifier
        asked -= {"train_cam", "make_cam"}
    root = args.info.root
    if root.is_dir() and not (root / OBJECT_MASKS).is_dir():
        asked.discard("eval_ins_seg")  # instance labels are made, and not scored
    if not args.info.mask_dirs:  # no ground truth: nothing to score
        asked -= set(SCORING)
    steps = [name for name in STEPS if name in asked and flags[name] is not False]
    if "cam_weights_name" in args.given and "train_cam" in steps:
        steps.remove("train_cam")
    if not steps:
        raise UserError("all steps are disabled (--*_pass False); leave one of these options out")
    return steps


def unread_lists(args: Options, steps: Mapping[str, ModuleType]) -> list[str]:
    """The options of lists that were given and that none of these steps reads."""
    read = {f"{role}_list" for step in steps.values() for role in step.LISTS}
    lists = ("train_list", "infer_list", "eval_list", "seg_list")
    return [f"--{name}" for name in lists if name in args.given and name not in read]
