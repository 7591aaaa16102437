"""step/base.py: the order in which images are handed out."""

from types import SimpleNamespace

import pytest

from step import base


class Step(base.FolderStep):
    """Makes nothing, of three images."""

    @classmethod
    def folders(cls, args):
        return []

    @classmethod
    def ids(cls, args):
        return ("a", "b", "c")


@pytest.mark.parametrize("on_gpu, order", [(False, "abc"), (True, "bac")])
def test_a_gpu_gets_images_of_one_size_together_and_the_largest_first(monkeypatch, on_gpu, order):
    given, size_of = [], {"a": (3, 4), "b": (5, 6), "c": (3, 4)}
    monkeypatch.setattr(base, "uses_cuda", lambda resources: on_gpu)
    monkeypatch.setattr(base, "run_over_images", lambda step, ids, resources: given.extend(ids))
    Step.run(SimpleNamespace(info=SimpleNamespace(image_size=size_of.get), resources=None))
    assert given == list(order)
