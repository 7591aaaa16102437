"""Instance labels: class maps cut by the displacement field, spread by the random walk (IRN)."""

from pathlib import Path

from misc.cams import load_cam
from misc.cli.options import Options
from misc.data.datasets import image_of
from misc.instances import instances
from misc.storage.cam_files import save_dict
from net.inference import boundaries
from step.make_sem_seg_labels import MakePseudoMask


class MakeInstances(MakePseudoMask):
    """Instance labels of one image: `score` (N,), `mask` N x H x W, `class` (N,)."""

    name, flag, suffix, version = "make_ins_seg_labels", "--result_dir", ".npy", 1
    options = ("beta", "exp_times", "walk_radius", "ins_seg_bg_thres", "irn_pad_size")
    subfolders = (".",)

    @classmethod
    def place(cls, args: Options) -> Path:
        return args.ins_seg_out_dir

    def one(self, image_id: str) -> None:
        args, image = self.args, image_of(self.args.info, image_id)
        maps = load_cam(args.cam_out_dir / f"{image_id}.npy")
        edge, field = boundaries(self.model, image, args.irn_pad_size)
        walk = {"radius": args.walk_radius, "beta": args.beta, "exp_times": args.exp_times}
        found = instances(maps["cam"], maps["keys"], field.cpu().numpy(), edge, image.shape[:2],
                          args.ins_seg_bg_thres, **walk)  # fmt: skip
        content = {"score": found.score, "mask": found.mask, "class": found.classes}
        save_dict(self.outputs(image_id)[0], content)


LISTS, settings, writes, check, run = MakeInstances.as_step()
