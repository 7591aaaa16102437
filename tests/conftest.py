"""Fixtures shared by all tests."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import run_sample
from coco14.dataset import describe as describe_coco
from Dataset.make_sample import make_sample
from misc.data.dataset_info import DatasetInfo
from misc.runtime import devices
from net.checkpoint import save_checkpoint
from net.resnet50_cam import Net
from net.resnet50_irn import EdgeDisplacement
from tests.weights import fill_by_recipe
from voc12.dataset import describe

PROJECT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("RIB_TEST_DATA", PROJECT.parent / "shared"))

THIN = {"width": 8, "stem": 8}

# Options under which a step on the synthetic sample takes a second.
TINY = tuple(
    """--device cpu --num_processes 1 --num_workers 0 --max_long 96 --cam_crop_size 64
    --cam_long 64,96 --cam_batch_size 4 --cam_num_epoches 1 --RIB_iter 2 --RIB_batch_size 2
    --irn_crop_size 64 --irn_radius 4 --irn_batch_size 2 --irn_num_epoches 1 --irn_pad_size 0
    --exp_times 2""".split()
)


def pytest_configure(config) -> None:
    """Compute with one thread, and ignore a warning of NumPy 2 at every mask of pycocotools."""
    torch.set_num_threads(1)  # several would only wait for each other in networks this small
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start
    config.addinivalue_line("markers", "cuda: computes on a GPU; bash tests/run.sh -m cuda")
    config.addinivalue_line("filterwarnings", "ignore:__array__ implementation:DeprecationWarning")


def pytest_collection_modifyitems(items: list) -> None:
    """The longest files first: at the end no process waits for another."""
    items.sort(key=lambda item: not item.path.name.startswith(("test_faults", "test_advcam")))


def shared_path(relative: str) -> Path:
    """A file of the reference data beside the project; skips the test where it is absent."""
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"{path} is not here: the reference data is kept outside the repository")
    return path


def recorded_file(name: str) -> Path:
    """Path of the golden outputs of a name, there or not."""
    own = PROJECT / "tests" / "golden" / name
    given = "RIB_TEST_DATA" in os.environ or not own.is_file()
    return SHARED / "golden" / name if given else own


def recorded_names(name: str, ending: str) -> list[str]:
    """The names of a file's arrays with an ending, without it, to parametrise tests with."""
    path = recorded_file(name)
    if not path.is_file():
        return []
    with np.load(path, allow_pickle=False) as data:
        return [key.removesuffix(ending) for key in data.files if key.endswith(ending)]


def recorded_numbers(name: str, pattern: str) -> list[int]:
    """The numbers in the names of a file's arrays: the group of a pattern, ascending."""
    found = (re.fullmatch(pattern, key) for key in recorded_names(name, ""))
    return sorted({int(match[1]) for match in found if match})


def close(actual, expected, share: float = 1e-4) -> None:
    """Equal to recorded values up to a share of the largest of them."""
    actual = np.asarray(actual.detach().cpu() if torch.is_tensor(actual) else actual)
    expected = np.asarray(expected)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=share * np.abs(expected).max())


_GPUS = [pytest.param("cuda:0", marks=pytest.mark.cuda)] if torch.cuda.is_available() else []


@pytest.fixture(params=["cpu", *_GPUS])
def device(request, monkeypatch) -> torch.device:
    """The CPU and, where there is one, a GPU, which rounds nothing more than a CPU."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return torch.device(request.param)


@pytest.fixture(scope="session")
def golden():
    """Loads arrays recorded from the original implementation, e.g. golden("eval.npz")."""

    def load(name: str):
        path = recorded_file(name)
        if not path.is_file():
            shared_path(f"golden/{name}")  # skips
        return np.load(path, allow_pickle=False)

    return load


@pytest.fixture(scope="session")
def sample(tmp_path_factory) -> DatasetInfo:
    """A synthetic dataset of 8 training and 2 validation images; not to be changed."""
    root = tmp_path_factory.mktemp("sample") / "voc"
    make_sample(root, num_train=8, num_val=2)
    return describe(root)


@pytest.fixture
def info(sample, tmp_path) -> DatasetInfo:
    """A copy of the synthetic sample that may be spoilt."""
    shutil.copytree(sample.root, tmp_path / "voc")
    return describe(tmp_path / "voc")


@pytest.fixture
def result_dir(tmp_path) -> Path:
    return tmp_path / "result"


@pytest.fixture
def on_copy(info, result_dir, tiny_run, capsys):
    """Runs on the copied sample: exit code, lines of stderr that name a problem, and the log."""

    def run(*options):
        capsys.readouterr()
        code = tiny_run("--voc12_root", info.root, "--result_dir", result_dir, *options)
        said = capsys.readouterr()
        return code, [x for x in said.err.splitlines() if x.startswith("error: ")], said.out

    return run


@pytest.fixture(scope="session")
def coco_sample(tmp_path_factory) -> DatasetInfo:
    """A synthetic COCO of 8 + 2 images; a crowd in the 6th, nothing in the 8th."""
    root = tmp_path_factory.mktemp("sample") / "coco"
    make_sample(root, num_train=8, num_val=2, layout="coco")
    return describe_coco(root)


@pytest.fixture(scope="session")
def classifier_file(tmp_path_factory) -> Path:
    """Checkpoint of a classifier of width 8 with 20 classes, from which training can start too."""
    return saved(Net(20, **THIN), tmp_path_factory.mktemp("classifier") / "thin_cam.pth")


@pytest.fixture(scope="session")
def boundary_file(tmp_path_factory) -> Path:
    """Checkpoint of a boundary network of width 8."""
    return saved(EdgeDisplacement(**THIN), tmp_path_factory.mktemp("boundary") / "thin_irn.pth")


def saved(model: torch.nn.Module, path: Path) -> Path:
    """Checkpoint of a network with the recipe's weights."""
    fill_by_recipe(model)
    save_checkpoint(path, model)
    return path


@pytest.fixture(scope="session")
def tiny_run():
    """Calls run_sample in this process with TINY options before the given ones; its exit code."""
    patch = pytest.MonkeyPatch()
    patch.setattr(devices, "cpu_count", lambda: 1)
    threads = torch.get_num_threads()

    def call(*options: str | Path) -> int:
        torch.set_num_threads(1)
        try:
            return run_sample.main([*TINY, *map(str, options)])
        except SystemExit as end:  # the parser of the options
            return end.code
        finally:
            torch.set_num_threads(threads)

    yield call
    patch.undo()
