"""A checkpoint's file while it is written: a fault at any step leaves the old one and no other."""

import errno
import os
import resource
import signal
import stat
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_checkpoint import leftovers, network

from pyinception import checkpoint


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    """A real limit on the size of files stands for the full disk."""
    net = network()
    path = tmp_path / "net.safetensors"
    net.save(path, record="old")
    old = path.read_bytes()
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (600, limits[1]))
        with pytest.raises(OSError, match=rf"cannot write {path} \(\d+ bytes\): .*EFBIG") as caught:
            net.save(path, record="new")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.errno == errno.EFBIG
    assert path.read_bytes() == old
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("call", ["fsync", "replace", "fchmod"])
def test_an_error_at_each_step_leaves_the_old_file(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = network()
    path = tmp_path / "net.safetensors"
    net.save(path)
    old = path.read_bytes()

    def fail(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(OSError, match=r"net\.safetensors .*No space left.*ENOSPC") as caught:
            network(seed=4).save(path)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    assert path.read_bytes() == old
    assert leftovers(tmp_path) == []


def test_an_interrupt_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(handle: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        network().save(tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"cannot write .*none.net .*ENOENT"):
        network().save(tmp_path / "none" / "net")


def test_permissions_are_those_of_an_ordinary_file(tmp_path: Path) -> None:
    plain, saved = tmp_path / "plain", tmp_path / "saved"
    plain.write_bytes(b"")
    network().save(saved)
    assert stat.S_IMODE(saved.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
    saved.chmod(0o600)
    network().save(saved)
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600


def test_eight_savers_of_one_path_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "net"
    nets = [network(seed) for seed in range(8)]
    threads = [
        threading.Thread(target=net.save, args=(path, seed)) for seed, net in enumerate(nets)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    loaded = checkpoint.load(path)
    expected = nets[loaded.record].state_dict()
    for name, array in loaded.model.items():
        np.testing.assert_array_equal(array, expected[name])
    assert leftovers(tmp_path) == []
