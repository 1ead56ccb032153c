"""Properties of exported images that must hold for whatever input hypothesis thinks of."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from medmnist_diffusion.data.conditioning import Conditioning


@given(st.integers(0, 999), st.text(max_size=40))
def test_a_class_folder_is_one_plain_name_that_keeps_its_id(label: int, name: str) -> None:
    folder = Conditioning({number: name for number in range(1000)}).folder_of(label)
    assert Path(folder).name == folder
    assert folder.isascii()
    assert int(folder.split("_")[0]) == label
