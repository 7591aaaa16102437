"""misc/runtime/overlap.py: what is done beside the one that computes, and that nothing is lost."""

import os
import signal
import threading
import time

import pytest
import torch

from misc.errors import StoppedError, UserError
from misc.runtime import image_task, interrupts
from misc.runtime.image_task import ImageTask, run_over_images
from misc.runtime.overlap import _MOST_WAITING, OnItsWay, Overlap
from misc.runtime.resources import Resources

IDS = tuple(f"2007_00000{n}" for n in range(8))
CPU = torch.device("cpu")


class Copies(ImageTask):
    """Reads an image's name in one thread, writes it to a file in another."""

    name = "copies"

    def __init__(self, folder, read_fails=None, write_fails=None, sleep=0.0):
        self.folder, self.sleep = folder, sleep
        self.read_fails, self.write_fails = read_fails, write_fails

    def outputs(self, image_id):
        return [self.folder / f"{image_id}.txt"]

    def start(self, device, image_ids):
        self.events, self.lock = [], threading.Lock()

    def note(self, what, image_id):
        with self.lock:
            self.events.append((what, image_id, threading.current_thread().name))

    def read(self, image_id):
        self.note("read", image_id)
        if image_id == self.read_fails:
            raise UserError(f"{image_id}: is damaged")
        return image_id

    def one(self, image_id):
        text = self.overlap.read(self.read, image_id)
        self.note("compute", image_id)
        self.overlap.write(image_id, self.write, image_id, text)

    def write(self, image_id, text):
        time.sleep(self.sleep)
        if image_id == self.write_fails:
            raise OSError("no space left")
        self.outputs(image_id)[0].write_text(text)
        self.note("write", image_id)

    def finish(self):
        return self.events


def run(task, threads=1):
    resources = Resources("cpu", num_processes=1, num_side_processes=threads)
    return run_over_images(task, IDS, resources)


def written(folder):
    return sorted(path.stem for path in folder.iterdir())


@pytest.mark.parametrize("threads", [0, 1])
def test_everything_is_read_computed_and_written_in_order(tmp_path, threads):
    (events,) = run(Copies(tmp_path, sleep=0.01), threads)
    for what in ("read", "compute", "write"):
        assert [image for kind, image, _ in events if kind == what] == list(IDS)
    by = {what: {who for kind, _, who in events if kind == what} for what in ("read", "write")}
    here = {threading.current_thread().name}
    assert by["write"] == ({"writer_0"} if threads else here)
    assert by["read"] == ({"reader_0"} | here if threads else here)  # the first by who needs it
    assert written(tmp_path) == list(IDS)


def test_the_next_image_is_read_while_one_is_computed():
    overlap, under_way = Overlap(IDS, CPU, threads=True), threading.Event()

    def read(image_id):
        if image_id == IDS[1]:
            under_way.set()
        return image_id

    assert overlap.read(read, IDS[0]) == IDS[0]
    assert under_way.wait(10)  # nobody has asked for it
    assert overlap.read(read, IDS[5]) == IDS[5]  # another order than was said
    assert overlap.read(read, IDS[6]) == IDS[6]
    overlap.close()


def test_who_computes_waits_where_the_disk_is_slow():
    overlap, goes_on, done = Overlap(IDS, CPU, threads=True), threading.Event(), []
    overlap.write(IDS[0], goes_on.wait, 10)
    for number in range(1, _MOST_WAITING):
        overlap.write(IDS[0], done.append, number)
    late = threading.Thread(target=overlap.write, args=(IDS[0], done.append, "late"))
    late.start()
    late.join(0.1)
    assert late.is_alive() and not done
    goes_on.set()
    late.join()
    overlap.written()
    assert done == [*range(1, _MOST_WAITING), "late"]
    overlap.close()


@pytest.mark.parametrize("threads", [0, 1])
def test_what_fails_in_a_thread_names_its_image(tmp_path, threads):
    with pytest.raises(UserError, match=f"^{IDS[3]}: is damaged"):
        run(Copies(tmp_path, read_fails=IDS[3]), threads)
    assert written(tmp_path) == list(IDS[:3])
    for image_id in IDS[3], IDS[-1]:  # the last one: after all have been computed
        with pytest.raises(StoppedError, match=f"^copies: image {image_id}: no space left"):
            run(Copies(tmp_path, write_fails=image_id), threads)
        assert written(tmp_path) == list(IDS[: IDS.index(image_id)])


def test_what_is_computed_is_written_before_a_signal_is_answered(tmp_path, monkeypatch):
    task, one_of = Copies(tmp_path, sleep=0.05), image_task.one_of

    def interrupted(task, image_id):
        one_of(task, image_id)
        if image_id == IDS[4]:
            assert len(written(tmp_path)) < 5
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(image_task, "one_of", interrupted)
    with pytest.raises(interrupts.Interrupted), interrupts.noticed():
        run(task)
    assert written(tmp_path) == list(IDS[:5])


def test_copies_have_arrived_when_they_are_asked_for():
    tensors = [torch.arange(3), torch.tensor(True)]
    assert all(map(torch.equal, OnItsWay(tensors).arrived(), tensors))
