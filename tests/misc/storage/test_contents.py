"""Hashes of files: read again where size or time changed, and nowhere else."""

import os

import pytest

from misc.errors import UserError
from misc.storage import manifest
from misc.storage.manifest import CONTENTS, content_hashes, file_hash


def test_only_files_that_changed_are_read_again(tmp_path, monkeypatch):
    paths = [tmp_path / "a b", tmp_path / "ä\n"]
    for path in paths:
        path.write_bytes(path.name.encode())
    kept = tmp_path / "kept"
    first = content_hashes(paths, kept)
    assert len(set(first)) == 2
    assert content_hashes([*paths, tmp_path / "none"], kept) == [*first, "missing"]
    read = []

    def digest(path):
        read.append(path)
        return file_hash(path)

    monkeypatch.setattr(manifest, "file_hash", digest)
    assert content_hashes(paths, kept) == first and not read
    os.utime(paths[0], ns=(1, 1))
    assert content_hashes(paths, kept) == first and read == paths[:1]
    paths[1].write_bytes(b"other")
    assert content_hashes(paths, kept)[1] != first[1] and read == paths


def test_a_damaged_record_is_not_believed(tmp_path):
    (tmp_path / "a").write_bytes(b"a")
    (first,) = content_hashes([tmp_path / "a"], tmp_path)
    record = tmp_path / CONTENTS
    record.write_bytes(record.read_bytes().replace(first.encode(), b"0" * 16))
    with pytest.raises(UserError, match="was changed since, and stays as it is"):
        content_hashes([tmp_path / "a"], tmp_path)
