"""misc/runtime/image_task.py: the driver of the steps, with small tasks in its place."""

import atexit
import os
import signal
import time

import numpy as np
import pytest
import torch

from misc.errors import StoppedError, UserError
from misc.runtime import devices
from misc.runtime.image_task import ImageTask, run_over_images
from misc.runtime.processes import Resources
from misc.storage.cam_files import save_dict

IDS = tuple(f"2007_00000{n}" for n in range(7))


class WriteNumber(ImageTask):
    """Writes the number of each image, and counts what it did."""

    name = "write_number"
    images_worth_a_process = 1

    def __init__(self, folder):
        self.folder = folder

    def outputs(self, image_id):
        return [self.folder / f"{image_id}.npy"]

    def start(self, device, image_ids):
        self.device, self.done, self.expected = device, [], image_ids

    def one(self, image_id):
        number = np.full(5, int(image_id[-1]), dtype=np.float32)
        save_dict(self.outputs(image_id)[0], {"number": number})
        self.done.append(image_id)

    def finish(self):
        assert self.done == self.expected
        return self.done


class Fails(WriteNumber):
    """Cannot treat one image, in one of several ways."""

    def __init__(self, folder, failure):
        super().__init__(folder)
        self.failure = failure

    def one(self, image_id):
        if image_id == IDS[3]:
            if self.failure == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise {"bug": ZeroDivisionError, "user": UserError}[self.failure]("of no avail")
        super().one(image_id)


class EndsSlowly(WriteNumber):
    """Has work to do when its process ends, as loaders and libraries have."""

    def start(self, device, image_ids):
        super().start(device, image_ids)
        atexit.register(self.end, image_ids[0])

    def end(self, image_id):
        time.sleep(0.3)
        (self.folder / f"{image_id} ended").touch()


def options(processes):
    return Resources("cpu", num_processes=processes)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_files_do_not_depend_on_the_number_of_processes(tmp_path):
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        results = run_over_images(WriteNumber(folder), IDS, options(processes))
        assert results == [list(IDS[rank::processes]) for rank in range(processes)]
    assert sorted(files(tmp_path / "1")) == [f"{image_id}.npy" for image_id in IDS]
    assert files(tmp_path / "1") == files(tmp_path / "2")


def test_complete_images_are_left_and_damaged_ones_redone(tmp_path):
    run_over_images(WriteNumber(tmp_path), IDS, options(1))
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
    assert run_over_images(WriteNumber(tmp_path), IDS, options(1)) == [list(IDS[:4])]
    assert files(tmp_path) == whole
    assert [path.stat().st_mtime == 1 for path in paths] == [False] * 4 + [True] * 3
    assert run_over_images(WriteNumber(tmp_path), IDS, options(1)) == []


@pytest.mark.parametrize("content", [b"", b"mine", "array"])
def test_a_file_that_is_not_ours_is_no_damaged_one(tmp_path, content):
    path = tmp_path / f"{IDS[2]}.npy"
    np.save(path, np.arange(3)) if content == "array" else path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(UserError, match=f"{path}: was not made by this program"):
        run_over_images(WriteNumber(tmp_path), IDS, options(1))
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]


def test_an_image_is_complete_when_all_its_outputs_are(tmp_path):
    class TwoOutputs(WriteNumber):
        def outputs(self, image_id):
            return [self.folder / f"{image_id}.npy", self.folder / f"{image_id}_more.npy"]

    run_over_images(WriteNumber(tmp_path), IDS, options(1))
    save_dict(tmp_path / f"{IDS[5]}_more.npy", {})
    ids = tuple(i for i in IDS if i != IDS[5])
    assert run_over_images(TwoOutputs(tmp_path), IDS, options(1)) == [list(ids)]


def test_an_output_that_was_changed_by_hand_is_never_replaced(tmp_path):
    run_over_images(WriteNumber(tmp_path), IDS, options(1))
    path = tmp_path / f"{IDS[2]}.npy"
    np.save(path, np.load(path, allow_pickle=True).item())
    by_hand = path.read_bytes()
    with pytest.raises(UserError, match=f"{path}: was not made by this program.*move it away"):
        run_over_images(WriteNumber(tmp_path), IDS, options(1))
    assert path.read_bytes() == by_hand


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_names_the_image(tmp_path, processes):
    with pytest.raises(RuntimeError, match=f"write_number: image {IDS[3]}: of no avail"):
        run_over_images(Fails(tmp_path, "bug"), IDS, options(processes))
    assert f"{IDS[1]}.npy" in files(tmp_path) and f"{IDS[3]}.npy" not in files(tmp_path)


@pytest.mark.parametrize("processes", [1, 2])
def test_bad_input_stays_bad_input(tmp_path, processes):
    with pytest.raises(UserError, match="^of no avail$"):
        run_over_images(Fails(tmp_path, "user"), IDS, options(processes))


def test_a_killed_process_is_reported(tmp_path):
    with pytest.raises(StoppedError, match=r"write_number: a process ended with code -9"):
        run_over_images(Fails(tmp_path, "kill"), IDS, options(2))
    assert f"{IDS[1]}.npy" in files(tmp_path)


def test_a_process_that_has_finished_ends_by_itself(tmp_path):
    run_over_images(EndsSlowly(tmp_path), IDS, options(2))
    assert {name for name in files(tmp_path) if "ended" in name} == {
        f"{image_id} ended" for image_id in IDS[:2]
    }


def test_threads_are_as_before_even_after_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "cpu_count", lambda: 3)
    before = torch.get_num_threads()
    seen = []

    class Threads(Fails):
        def start(self, device, image_ids):
            seen.append(torch.get_num_threads())

    with pytest.raises(RuntimeError):
        run_over_images(Threads(tmp_path, "bug"), IDS[3:], options(1))
    assert seen == [3] and torch.get_num_threads() == before
