"""The method stays on one page: what `fine_tune` enters on one image."""

from tests.tools.profile_calls import of_fine_tune


def test_one_image_of_rib_enters_few_functions_in_few_files():
    found = of_fine_tune()
    assert ("misc/rib.py", "fine_tune") in found.functions
    assert len(found.functions) <= 20 and len(found.files) <= 5
