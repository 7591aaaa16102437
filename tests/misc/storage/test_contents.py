"""Hashes of files: read again where size or time changed, and nowhere else."""

import os

from misc.storage import contents
from misc.storage.contents import NAME, content_digests


def test_only_files_that_changed_are_read_again(tmp_path, monkeypatch):
    paths = [tmp_path / "a b", tmp_path / "\u00e4\n", tmp_path / "none"]
    for path in paths[:2]:
        path.write_bytes(path.name.encode())
    first = content_digests(paths, tmp_path / "kept")
    assert len(set(first)) == 3 and first[2] == "missing"
    read = []
    monkeypatch.setattr(
        contents, "open", lambda *how: read.append(how) or open(*how), raising=False
    )
    assert content_digests(paths, tmp_path / "kept") == first and not read
    os.utime(paths[0], ns=(1, 1))
    assert content_digests(paths, tmp_path / "kept") == first and len(read) == 1
    paths[1].write_bytes(b"other")
    assert content_digests(paths, tmp_path / "kept")[1] != first[1]


def test_a_damaged_record_is_not_believed(tmp_path):
    (tmp_path / "a").write_bytes(b"a")
    (first,) = content_digests([tmp_path / "a"], tmp_path)
    record = tmp_path / NAME
    record.write_bytes(record.read_bytes().replace(first.encode(), b"0" * 16))
    assert content_digests([tmp_path / "a"], tmp_path) == [first]
