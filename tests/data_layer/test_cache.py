import threading
from pathlib import Path

import numpy as np
import pytest

from mola_lightning.core import DataError, RunFolderError
from mola_lightning.data import Digits
from mola_lightning.data.cache import cache_folder, read_arrays, write_arrays

ARRAYS = {"images": np.arange(600, dtype=np.uint8).reshape(6, 10, 10), "labels": np.arange(6)}


def test_arrays_come_back(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a" / "b.npz", ARRAYS)
    found = read_arrays(tmp_path / "a" / "b.npz")
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.npz"]  # no draft is left behind


def test_each_damage_is_found_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    write_arrays(path, ARRAYS)
    sound = path.read_bytes()
    caught = 0
    for at in range(0, len(sound), 5):
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 0xFF]) + sound[at + 1 :])
        try:
            found = read_arrays(path)
        except DataError:
            caught += 1
        else:  # a flipped byte of the archive's own bookkeeping, such as a time stamp
            assert all(np.array_equal(found[name], ARRAYS[name]) for name in ARRAYS)
    assert caught > len(sound) // 5 // 2


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04"])
def test_a_wrong_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{path} is damaged.*Delete the file"):
        read_arrays(path)


def test_a_truncated_file_is_refused_and_not_replaced(digits: Digits, tmp_path: Path) -> None:
    source = Digits(domains=["optdigits"], root=tmp_path)
    whole = digits.cache_file("optdigits").read_bytes()
    path = source.cache_file("optdigits")
    path.write_bytes(whole[: len(whole) // 2])
    for use in (source.prepare, lambda: source.dataset("train")):
        with pytest.raises(DataError, match="Delete the file"):
            use()
    assert path.stat().st_size == len(whole) // 2
    path.unlink()
    source.prepare()
    assert path.read_bytes() == whole


def test_a_checksum_is_needed(tmp_path: Path) -> None:
    np.savez(tmp_path / "plain.npz", **ARRAYS)
    with pytest.raises(DataError, match="checksum"):
        read_arrays(tmp_path / "plain.npz")


def test_a_root_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunFolderError, match="option root"):
        Digits(domains=["optdigits"], root=tmp_path / "file").prepare()


def test_reading_before_prepare_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="prepare"):
        Digits(root=tmp_path).part("mnist", "train")


def test_writers_at_a_time_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    threads = [threading.Thread(target=write_arrays, args=(path, ARRAYS)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert np.array_equal(read_arrays(path)["images"], ARRAYS["images"])
    assert len(list(tmp_path.iterdir())) == 1


def test_the_default_root_is_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == Digits().root == tmp_path / "mola_lightning"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "mola_lightning"
