"""Every file that is written goes through the gate of misc/storage/outputs.py."""

import ast
import re

from tests.conftest import PROJECT

GATE = ("misc/storage/files.py", "misc/storage/outputs.py")
WRITING = {"write_text", "write_bytes", "touch", "unlink", "symlink_to", "rename", "replace_file",
           "rmtree", "copyfile", "copytree", "memmap", "savetxt", "imsave",
           "atomic_path"}  # fmt: skip
# These write into what is given first: a stream in memory, or one that the gate has opened.
INTO_A_STREAM = {"save", "savez", "savez_compressed", "savefig", "imwrite", "to_csv"}


def is_stream(node: ast.expr) -> bool:
    in_memory = isinstance(node, ast.Constant) and node.value == "<bytes>"  # of imageio
    return in_memory or (isinstance(node, ast.Name) and node.id == "stream")


def writes(call: ast.Call) -> bool:
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    words = [a.value for a in (*call.args, *(k.value for k in call.keywords))
             if isinstance(a, ast.Constant) and isinstance(a.value, str)]  # fmt: skip
    if name == "open":
        into = any(is_stream(k.value) for k in call.keywords if k.arg == "fileobj")
        return not into and any(re.fullmatch(r"[rwax][bt+]*(:\w*)?", w) and w[0] != "r" or "+" in w
                                for w in words)  # fmt: skip
    if name in INTO_A_STREAM and isinstance(function, ast.Attribute):
        text = name == "to_csv" and not call.args  # without a place it is returned
        return not text and not any(is_stream(argument) for argument in call.args)
    return name in WRITING


def test_no_file_is_written_but_through_the_gate():
    folders = ("misc", "step", "net", "voc12", "coco14")
    found = [
        f"{path.relative_to(PROJECT)}:{node.lineno}"
        for folder in folders
        for path in sorted((PROJECT / folder).rglob("*.py"))
        if str(path.relative_to(PROJECT)) not in GATE
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and writes(node)
    ]
    # Of what `prepare_folder` has looked at.
    allowed = [entry for entry in found if entry.startswith("misc/storage/manifest.py:")]
    assert set(found) == set(allowed) and len(allowed) <= 1, found
