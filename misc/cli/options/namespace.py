"""The parsed options of a run."""

import argparse
import functools
import json
from dataclasses import fields, replace
from pathlib import Path

from misc.cli.options.presets import REPLACEABLE, SEG_PRESETS, SEG_PRESETS_BY_DATASET, SegPreset
from misc.data.dataset_info import DatasetInfo, read_image_list
from misc.errors import UserError
from misc.runtime.processes import Resources

_LOOKED_AT = 1000  # images held out on which a classifier is looked at


class Options(argparse.Namespace):
    """Parsed options, read-only once `freeze` was called: what is logged is what is used."""

    def freeze(self) -> "Options":
        """Forbid further changes; returns itself."""
        self.__dict__["_frozen"] = True
        return self

    def __setattr__(self, name: str, value: object) -> None:
        if self.__dict__.get("_frozen"):
            raise AttributeError(f"options are read-only after parsing; {name} cannot be set")
        super().__setattr__(name, value)

    def plain(self) -> dict[str, object]:
        """Option values by name, for the log."""
        return {
            k: v
            for k, v in sorted(vars(self).items())
            if k not in ("_frozen", "info", "given", "said", "brought", "fitted")
        }

    def changed(self) -> dict[str, object]:
        """The options that were given with another value than their default."""
        return {name: value for name, value in self.plain().items() if name in self.given}

    def changed_plainly(self) -> dict[str, object]:
        """`changed` as JSON has it."""
        return json.loads(json.dumps(self.changed(), default=str))

    def image_ids(self, role: str, limited: bool = True) -> tuple[str, ...]:
        """Ids of the "train", "infer" or "eval" list, cut to --limit unless told not to."""
        path = getattr(self, f"{role}_list")
        ids = read_list_once(path, self.info)
        return ids[: self.limit] if limited else ids

    def made_lists(self) -> list[Path]:
        """The lists and labels that were not given, and are made in `list_dir`."""
        used = (self.train_list, self.infer_list, self.eval_list, self.seg_list, self.cls_labels)
        return [path for path in used if path.parent == self.list_dir]

    def with_list_dir(self, folder: Path) -> "Options":
        """The same options with another folder for the lists and labels that are made."""
        made = self.made_lists()
        values = {name: value for name, value in vars(self).items() if name != "_frozen"}
        moved = {name: folder / value.name for name, value in values.items() if value in made}
        return Options(**{**values, **moved, "list_dir": folder}).freeze()

    @property
    def seg_settings(self) -> SegPreset:
        """The settings of --seg_preset, with what options replace."""
        return replace(self.seg_published, **self._seg_given())

    @property
    def seg_published(self) -> SegPreset:
        """The settings of --seg_preset, for this dataset."""
        return {**SEG_PRESETS, **SEG_PRESETS_BY_DATASET.get(self.dataset, {})}[self.seg_preset]

    def seg_differences(self) -> dict[str, object]:
        """What differs from --seg_preset."""
        published = self.seg_published
        return {k: v for k, v in self._seg_given().items() if v != getattr(published, k)}

    def _seg_given(self) -> dict[str, object]:
        return {name: getattr(self, f"seg_{name}") for name in REPLACEABLE}

    def scored_ids(self) -> tuple[str, ...]:
        """Images to score: the evaluation list; under --limit, those of it that get maps."""
        if not self.info.mask_dirs:
            raise UserError("--masks: is not given, so there is nothing to score with; give it")
        ids = self.image_ids("eval", limited=False)
        if self.limit is None:
            return ids
        with_maps = set(self.image_ids("infer"))
        chosen = tuple(image_id for image_id in ids if image_id in with_maps)
        if not chosen:
            raise UserError(
                f"--limit {self.limit}: none of these images is in the evaluation "
                f"list {self.eval_list}; give a larger limit"
            )
        return chosen

    def held_out_ids(self) -> tuple[str, ...]:
        """Images that are in no training, on which the classifier is looked at; () without any."""
        path = self.list_dir / f"{self.info.seg_split}.txt"
        if not self.info.infer_split or not path.is_file():  # others train on all
            return ()
        trained = set(self.image_ids("train"))
        return tuple(i for i in read_list_once(path, self.info) if i not in trained)[:_LOOKED_AT]

    @property
    def resources(self) -> Resources:
        """What the run may use of the machine."""
        return Resources(**{f.name: getattr(self, f.name) for f in fields(Resources)})

    def training(self, prefix: str) -> dict[str, object]:
        """Values of a `Training`: --PREFIX_num_epoches, --PREFIX_batch_size and the common ones."""
        return {
            "name": f"train_{prefix}",
            "epochs": getattr(self, f"{prefix}_num_epoches"),
            "batch_size": getattr(self, f"{prefix}_batch_size"),
            "seed": self.seed,
            "overwrite": self.overwrite,
        }

    def settings(self, *names: str) -> dict[str, object]:
        """The named options as plain data for a folder's manifest.

        With "dataset" come those by which it reads its images, where it has any.
        """
        plain = {name: as_plain(getattr(self, name)) for name in names}
        return plain | (self.info.read_as() if "dataset" in names else {})


@functools.lru_cache
def read_list_once(path: Path, info: DatasetInfo) -> tuple[str, ...]:
    return read_image_list(path, info)


def as_plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
