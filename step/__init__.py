"""The steps, each a module: `LISTS` (image lists and "labels"), `writes`, `check` and `run`."""

from types import ModuleType


def all_steps() -> dict[str, ModuleType]:
    """Return the modules of all steps, of the pictures and of the HTML report, by name."""
    # isort: off
    from step import cam_to_ir_label, make_cam, make_recam_with_AdvCAM, make_recam_with_RIB
    from step import eval_cam, eval_ins_seg, eval_seed_crf, eval_seg, eval_sem_seg
    from step import export_masks, html_report, import_maps, visualize
    from step import make_ins_seg_labels, make_seg, make_sem_seg_labels
    from step import train_cam, train_irn, train_seg

    modules = (
        train_cam, make_cam, make_recam_with_RIB, make_recam_with_AdvCAM, import_maps, eval_cam,
        eval_seed_crf, cam_to_ir_label, train_irn, make_sem_seg_labels, eval_sem_seg,
        make_ins_seg_labels, eval_ins_seg, train_seg, make_seg, eval_seg, export_masks, visualize,
        html_report,
    )  # fmt: skip
    return {module.__name__.rpartition(".")[2]: module for module in modules}
