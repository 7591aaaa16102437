"""misc/runtime/devices.py: devices and threads of processes, and what is said where memory ends."""

from dataclasses import replace

import pytest
import torch

from misc.errors import StoppedError
from misc.runtime import devices
from misc.runtime.devices import memory_can_end, pick_devices, threads_per_process
from misc.runtime.processes import Resources


def names(device="auto", processes=None, count=100, on_gpu=True):
    resources = Resources(device, num_processes=processes)
    return [str(device) for device in pick_devices(resources, count, on_gpu)]


def test_devices_of_the_processes(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(devices, "cpu_count", lambda: 5)
    assert names() == ["cuda:0", "cuda:1"]
    assert names("cuda", processes=3) == ["cuda:0", "cuda:1", "cuda:0"]
    assert names("cuda:1") == ["cuda:1"]
    assert [len(names("cpu", 4, count)) for count in (0, 2, 100)] == [1, 2, 4]
    assert names(on_gpu=False) == ["cpu"] * 5
    monkeypatch.setattr(devices.distributed, "local_size", lambda: 2)
    monkeypatch.setattr(devices.distributed, "local_rank", lambda: 1)
    assert names() == ["cuda:1"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 5)  # fewer ranks than GPUs
    assert names() == ["cuda:1", "cuda:3"]
    assert names(on_gpu=False) == ["cpu"] * 2
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert names() == ["cpu"]


def test_threads_do_not_depend_on_the_images_left(monkeypatch):
    monkeypatch.setattr(devices, "cpu_count", lambda: 8)
    assert threads_per_process(Resources("cpu", 2)) == 4
    assert threads_per_process(Resources("cpu", 16)) == 1


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_what_a_gpu_rounds_is_said(precision):
    """Whatever PyTorch's defaults are: convolutions as --precision says, products never."""
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, products.allow_tf32
    try:
        products.allow_tf32, cudnn.allow_tf32 = True, precision == "float32"
        resources = Resources("cpu", num_threads=torch.get_num_threads(), precision=precision)
        devices.set_up_process(resources)
        assert (cudnn.allow_tf32, products.allow_tf32) == (precision != "float32", False)
        devices.set_up_process(replace(resources, deterministic=True))
        devices.set_up_process(replace(resources, precision="float32"))
        flags = cudnn.allow_tf32, products.allow_tf32, torch.are_deterministic_algorithms_enabled()
        assert flags == (False, False, False)  # nothing of an earlier run
    finally:
        torch.use_deterministic_algorithms(False)
        cudnn.allow_tf32, products.allow_tf32 = before


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory.\nsecond line"),
    MemoryError(),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
])  # fmt: skip
def test_the_options_to_lower_are_named_in_one_line(error):
    said = r"^RIB: image a: out of memory \([^\n]+\); lower --max_long or --num_processes$"
    options = ("--max_long", "--num_processes")
    with pytest.raises(StoppedError, match=said), memory_can_end("RIB: image a", options):
        raise error


def test_a_killed_reader_stops_the_run_and_other_errors_are_left_alone():
    with pytest.raises(StoppedError, match=r"^train_cam: a process that reads images ended"):
        with memory_can_end("train_cam"):
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")
    with pytest.raises(RuntimeError, match="^shapes do not match$"), memory_can_end("step"):
        raise RuntimeError("shapes do not match")
