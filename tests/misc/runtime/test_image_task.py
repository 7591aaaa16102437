"""misc/runtime/image_task.py: the driver of the steps, with small tasks in its place."""

import os
import signal

import numpy as np
import pytest
import torch

from misc.errors import StoppedError, UserError
from misc.runtime import devices
from misc.runtime.image_task import ImageTask, run_over_images
from misc.runtime.processes import Resources
from misc.storage.cam_files import save_dict

IDS = tuple(f"2007_00000{n}" for n in range(7))
ONE, TWO = (Resources("cpu", num_processes=n) for n in (1, 2))


class WriteNumber(ImageTask):
    """Writes the number of each image, and counts what it did."""

    name = "write_number"
    images_worth_a_process = 1

    def __init__(self, folder, failure=None):
        self.folder, self.failure = folder, failure

    def outputs(self, image_id):
        return [self.folder / f"{image_id}.npy"]

    def start(self, device, image_ids):
        self.done, self.expected, self.threads = [], image_ids, torch.get_num_threads()

    def one(self, image_id):
        if image_id == IDS[3] and self.failure:
            if self.failure == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise {"bug": ZeroDivisionError, "user": UserError}[self.failure]("of no avail")
        number = np.full(5, int(image_id[-1]), dtype=np.float32)
        save_dict(self.outputs(image_id)[0], {"number": number})
        self.done.append(image_id)

    def finish(self):
        assert self.done == self.expected
        return self.done


def files(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.npy")}


def test_the_files_do_not_depend_on_the_number_of_processes(tmp_path, monkeypatch):
    freed = []  # before others need it
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: freed.append(len(files(folder))))
    for count, resources in enumerate((ONE, TWO), start=1):
        folder = tmp_path / str(count)
        folder.mkdir()
        results = run_over_images(WriteNumber(folder), IDS, resources)
        assert results == [list(IDS[first::count]) for first in range(count)]
    assert sorted(files(tmp_path / "1")) == [f"{image_id}.npy" for image_id in IDS]
    assert files(tmp_path / "1") == files(tmp_path / "2") and freed == [0]


def test_complete_images_are_left_and_damaged_ones_redone(tmp_path):
    run_over_images(WriteNumber(tmp_path), IDS, ONE)
    whole = files(tmp_path)
    paths = [tmp_path / f"{image_id}.npy" for image_id in IDS]
    for path in paths:
        os.utime(path, (1, 1))
    paths[0].unlink()
    for path, place in zip(paths[1:4], (0.3, 0.5, 0.7), strict=True):
        flipped = bytearray(path.read_bytes())
        flipped[int(place * len(flipped))] ^= 1
        path.write_bytes(flipped)
        os.utime(path, (1, 1))
    assert run_over_images(WriteNumber(tmp_path), IDS, ONE) == [list(IDS[:4])]
    assert files(tmp_path) == whole
    assert [path.stat().st_mtime == 1 for path in paths] == [False] * 4 + [True] * 3
    assert run_over_images(WriteNumber(tmp_path), IDS, ONE) == []


@pytest.mark.parametrize("content", [b"", b"mine", "array", "changed by hand"])
def test_a_file_that_is_not_ours_is_never_replaced(tmp_path, content):
    path = tmp_path / f"{IDS[2]}.npy"
    if content == "changed by hand":
        run_over_images(WriteNumber(tmp_path), IDS, ONE)
        np.save(path, np.load(path, allow_pickle=True).item())
    elif content == "array":
        np.save(path, np.arange(3))
    else:
        path.write_bytes(content)
    before = files(tmp_path)
    with pytest.raises(UserError, match=f"{path}: was not made by this program.*move it away"):
        run_over_images(WriteNumber(tmp_path), IDS, ONE)
    assert files(tmp_path) == before


def test_an_image_is_complete_when_all_its_outputs_are(tmp_path):
    class TwoOutputs(WriteNumber):
        def outputs(self, image_id):
            return [self.folder / f"{image_id}.npy", self.folder / f"{image_id}_more.npy"]

    run_over_images(WriteNumber(tmp_path), IDS, ONE)
    save_dict(tmp_path / f"{IDS[5]}_more.npy", {})
    ids = [i for i in IDS if i != IDS[5]]
    assert run_over_images(TwoOutputs(tmp_path), IDS, ONE) == [ids]


@pytest.mark.parametrize(("failure", "resources", "error", "said"), [
    ("bug", ONE, RuntimeError, f"write_number: image {IDS[3]}: of no avail"),
    ("user", ONE, UserError, "^of no avail$"),
    ("kill", TWO, StoppedError, "write_number: a process ended with code -9"),
])  # fmt: skip
def test_an_error_names_the_image_and_bad_input_stays_bad_input(
    tmp_path, monkeypatch, failure, resources, error, said
):
    monkeypatch.setattr(devices, "cpu_count", lambda: 3)
    before, task = torch.get_num_threads(), WriteNumber(tmp_path, failure)
    with pytest.raises(error, match=said):
        run_over_images(task, IDS, resources)
    assert torch.get_num_threads() == before and getattr(task, "threads", 3) == 3
    assert f"{IDS[1]}.npy" in files(tmp_path) and f"{IDS[3]}.npy" not in files(tmp_path)
