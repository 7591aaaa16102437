"""misc/runtime/memory.py: what is said where memory ends; no GPU needed, errors are made here."""

import platform
import shutil
import subprocess
import sys

import pytest
import torch

from misc.errors import StoppedError, UserError
from misc.runtime.memory import memory_can_end, require_shared_memory
from tests.conftest import PROJECT


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        MemoryError(),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_the_options_to_lower_are_named_in_one_line(error):
    said = r"^RIB: image a: out of memory \([^\n]+\); lower --max_long or --num_processes$"
    options = ("--max_long", "--num_processes")
    with pytest.raises(StoppedError, match=said), memory_can_end("RIB: image a", options):
        raise error


def test_an_error_of_many_lines_gives_its_first():
    with pytest.raises(StoppedError) as found, memory_can_end("step", ("--batch",)):
        raise torch.OutOfMemoryError("CUDA out of memory.\nsecond line")
    assert str(found.value) == "step: out of memory (CUDA out of memory.); lower --batch"


def test_other_errors_are_left_alone():
    with pytest.raises(RuntimeError, match="^shapes do not match$"), memory_can_end("", ("--a",)):
        raise RuntimeError("shapes do not match")


def test_too_little_shared_memory_is_said_before(tmp_path):
    there = shutil.disk_usage(tmp_path).total
    require_shared_memory(there, tmp_path)
    require_shared_memory(10**18, tmp_path / "not there")
    with pytest.raises(UserError, match=f"{tmp_path}: has .* MB, .*--shm-size.*--num_workers"):
        require_shared_memory(there + 1, tmp_path)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="asks glibc")
def test_freed_memory_is_kept_for_the_next_tensors():
    program = """if True:
        import resource, torch
        from misc.runtime.memory import freed_memory_kept

        def pages_from_system():
            several = [torch.ones(2**24) for _ in range(8)]
            del several
            for _ in range(4):  # an aligned one needs a little more room than it leaves
                torch.ones(2**24)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for _ in range(4):
                torch.ones(2**24)
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

        print(pages_from_system())
        with freed_memory_kept():
            print(pages_from_system())
    """
    command = [sys.executable, "-c", program]
    run = subprocess.run(command, cwd=PROJECT, capture_output=True, check=True)
    usual, kept = map(int, run.stdout.split())
    assert kept < usual / 2
