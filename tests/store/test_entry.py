"""An entry of a store: what is written is read again, in the types and to the precision that are kept."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from segkd.errors import SegkdError
from segkd.store.entry import Compression, Kept, Unreadable, is_whole, read_entry, tolerance, write_entry


def logits(dtype: torch.dtype = torch.float32, *shape: int) -> Tensor:
    return 8 * torch.randn(shape or (5, 7, 3), generator=torch.Generator().manual_seed(0)).to(dtype)


def again(path: Path, value: Any, kept: Kept = "auto", compress: Compression = "none") -> Any:
    write_entry(path, value, kept, compress)
    assert is_whole(path)
    return read_entry(path)


@pytest.mark.parametrize("compress", ["none", "zstd"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64])
def test_what_is_kept_as_it_arises_comes_back_to_the_bit(
    tmp_path: Path, dtype: torch.dtype, compress: Compression
) -> None:
    value = logits(dtype)
    found = again(tmp_path / "0.safetensors", value, compress=compress)
    assert found.dtype == dtype
    assert torch.equal(found, value)


@pytest.mark.parametrize("compress", ["none", "zstd"])
@pytest.mark.parametrize("kept", ["float16", "bfloat16", "int8"])
def test_a_narrower_type_differs_by_no_more_than_it_must(tmp_path: Path, kept: Kept, compress: Compression) -> None:
    value = logits()
    found = again(tmp_path / "0.safetensors", value, kept, compress)
    assert found.dtype == torch.float32
    difference = (found - value).abs().max() / value.abs().max()
    assert 0 < difference <= tolerance(kept, value.dtype)


def test_int8_has_a_scale_for_each_channel_and_none_for_zeros(tmp_path: Path) -> None:
    value = torch.stack([torch.zeros(4, 4), torch.linspace(-1e-3, 1e-3, 16).view(4, 4), torch.full((4, 4), 900.0)])
    found = again(tmp_path / "0.safetensors", value, "int8")
    assert not found[0].any()
    assert torch.allclose(found[1], value[1], atol=1e-3 / 127)
    assert torch.equal(found[2], value[2])


@pytest.mark.parametrize("compress", ["none", "zstd"])
@pytest.mark.parametrize("kept", ["auto", "float16", "int8"])
@pytest.mark.parametrize("value", [torch.zeros(0, 4), torch.zeros(4, 0), torch.zeros(0), torch.zeros(0).long()])
def test_what_is_empty_comes_back(tmp_path: Path, value: Tensor, kept: Kept, compress: Compression) -> None:
    found = again(tmp_path / "0.safetensors", value, kept, compress)
    assert (found.shape, found.dtype) == (value.shape, value.dtype)


@pytest.mark.parametrize("value", [[logits(), logits(torch.float32, 2)], {8: logits(), 16: logits()}, {"a": logits()}])
def test_lists_and_mappings_keep_their_order_and_keys(tmp_path: Path, value: Any) -> None:
    found = again(tmp_path / "0.safetensors", value)
    assert type(found) is type(value)
    if isinstance(value, dict):
        assert list(found) == list(value)
    values = [list(each.values()) if isinstance(each, dict) else each for each in (found, value)]
    assert all(torch.equal(a, b) for a, b in zip(*values, strict=True))


def test_bytes_in_planes_compress_smooth_maps(tmp_path: Path) -> None:
    smooth = torch.linspace(0, 1, 64 * 64).view(1, 64, 64).repeat(8, 1, 1)
    for compress in ("none", "zstd"):
        write_entry(tmp_path / compress, smooth, compress=compress)
    assert (tmp_path / "zstd").stat().st_size < 0.6 * (tmp_path / "none").stat().st_size


@pytest.mark.parametrize("cut", [0, 4, 100, -8])
def test_a_cut_file_is_no_entry(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "0.safetensors"
    write_entry(path, logits())
    path.write_bytes(path.read_bytes()[:cut])
    assert not is_whole(path)
    with pytest.raises(Unreadable):
        read_entry(path)


def test_a_file_of_other_tensors_is_no_entry(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"weight": logits()}, tmp_path / "0.safetensors")
    assert not is_whole(tmp_path / "0.safetensors")
    with pytest.raises(Unreadable):
        read_entry(tmp_path / "0.safetensors")


def test_nothing_but_the_entry_is_left(tmp_path: Path) -> None:
    write_entry(tmp_path / "3" / "0.safetensors", logits())
    assert [path.name for path in (tmp_path / "3").iterdir()] == ["0.safetensors"]


@pytest.mark.parametrize("compress", ["none", "zstd"])
def test_other_bytes_of_the_same_length_are_no_entry(tmp_path: Path, compress: Compression) -> None:
    path = tmp_path / "0.safetensors"
    write_entry(path, logits(), compress=compress)
    raw = bytearray(path.read_bytes())
    raw[-64:] = bytes(64)
    path.write_bytes(raw)
    with pytest.raises(Unreadable):
        read_entry(path)


def test_what_a_narrower_type_cannot_hold_is_refused_not_made_infinite(tmp_path: Path) -> None:
    with pytest.raises(SegkdError, match=r"teacher\.store\.dtype: float16 cannot hold 1e\+05; valid: auto, bfloat16"):
        write_entry(tmp_path / "0.safetensors", torch.tensor([1.0, 1e5]), "float16")
    assert not list(tmp_path.iterdir())
    write_entry(tmp_path / "0.safetensors", torch.tensor([1.0, torch.inf]), "float16")


def test_a_single_number_of_any_stride_comes_back(tmp_path: Path) -> None:
    for number, value in enumerate((torch.tensor(3).expand(1), torch.tensor(3.0), torch.zeros(0, 4))):
        write_entry(tmp_path / f"{number}.safetensors", value)
        assert torch.equal(read_entry(tmp_path / f"{number}.safetensors"), value)
