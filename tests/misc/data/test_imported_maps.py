"""misc/data/imported_maps.py: what a file of maps may cost before it is refused."""

from misc.data.imported_maps import MapFile, read_maps
from tests.misc.data.test_label_file import refused, swollen


def test_maps_that_unpack_to_too_much_are_refused_before_they_are_unpacked(
    sample, tmp_path, monkeypatch
):
    monkeypatch.setattr("misc.storage.torch_files.MAX_FILE", 16 << 20)
    path = swollen(tmp_path / "a.npz", 24, "keys", "high_res")
    words = "a.npz cannot be read as arrays .unpacks to 2. MiB, more than 16 MiB"
    file = MapFile(path, "")
    assert refused(lambda path: read_maps([file], sample, (375, 500), (0,)), path, words) < 4 << 20
