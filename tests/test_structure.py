"""The structure of the project: which part may import which, and that no option is forgotten."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from misc.cli.options import STEPS, build_parser, parse
from step import all_steps
from tests.conftest import PROJECT

# Parts from the ground up; each may import itself and what stands before it.
PARTS = (
    ["misc.errors"], ["misc.storage"], ["misc.runtime"], ["misc"], ["misc.data"], ["net"],
    ["misc.cli"], ["misc.report"], ["step"], ["voc12", "coco14"], ["Dataset", "run_sample"],
)  # fmt: skip
FOLDERS = ("misc", "net", "step", "voc12", "coco14", "Dataset")


def part_of(module: str) -> int:
    """The number of the part that a module belongs to; -1 for other packages."""
    names = [(len(name), n) for n, of_part in enumerate(PARTS) for name in of_part
             if f"{module}.".startswith(f"{name}.")]  # fmt: skip
    return max(names)[1] if names else -1


def imports(path: Path) -> Iterator[str]:
    """Modules, and names in them, that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_imports_run_one_way():
    wrong = []
    for path in (path for folder in FOLDERS for path in sorted((PROJECT / folder).rglob("*.py"))):
        module = ".".join(path.relative_to(PROJECT).with_suffix("").parts)
        higher = [name for name in imports(path) if part_of(name) > part_of(module)]
        wrong += [f"{module} imports {name}" for name in higher]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", ["", "data", "storage", "runtime", "cli", "report"])
def test_no_folder_is_a_drawer(package):
    assert len(list((PROJECT / "misc" / package).glob("*.py"))) <= 16


# Groups of flags whose numbers and choices change what steps write.
METHOD = ("classifier", "RIB", "AdvCAM", "inter-pixel", "random walk", "instance", "segmentation")


def test_every_number_of_the_method_is_in_the_settings_of_a_step():
    groups = [g for g in build_parser()._action_groups if g.title.startswith(METHOD)]
    actions = [action for group in groups for action in group._group_actions]
    numbers = {a.dest for a in actions if a.type is not Path and not a.dest.startswith("with_")}
    recorded = set()
    # An experiment is in the settings where it is made, so that those of others stay as they were.
    for words in ([], ["--RIB_final_activation", "sigmoid"]):
        for step in all_steps().values():
            if hasattr(step, "settings"):
                recorded |= set(step.settings(parse(words)))
    assert len(groups) == len(METHOD) and numbers - recorded == set()


def test_every_step_has_what_a_run_asks_for():
    known = all_steps()
    for name in STEPS:
        step = known[name]
        assert step.__doc__, name
        assert all(hasattr(step, what) for what in ("LISTS", "writes", "check", "run")), name


def test_help_loads_neither_torch_nor_pycocotools():
    program = (
        "import sys, run_sample\n"
        "try: run_sample.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'pycocotools', 'matplotlib') if m in sys.modules])"
    )
    end = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True)
    assert end.stdout.decode().splitlines()[-1] == "[]"
