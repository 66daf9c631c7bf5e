"""The six switches: argument first, then `using`, then the environment."""

import logging
import os
import threading

import pytest

from pyinception import config
from pyinception.config import using

AT_IMPORT = set(os.environ)  # before a fixture clears it


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for switch in config.SWITCHES.values():
        monkeypatch.delenv(switch.environment, raising=False)


def test_there_are_six() -> None:
    assert set(config.SWITCHES) == {"backend", "threads", "algorithm", "cpu_level", "jit", "log"}


def test_order_of_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (config.get("threads"), config.origin("threads")) == (0, "default")
    monkeypatch.setenv("PYINCEPTION_THREADS", "3")
    assert (config.get("threads"), config.origin("threads")) == (3, "PYINCEPTION_THREADS")
    with using(threads=2):
        assert (config.get("threads"), config.origin("threads")) == (2, "using")
        assert config.get("threads", 1) == 1
        with using(backend="reference"):
            assert (config.get("threads"), config.get("backend")) == (2, "reference")
    assert config.get("threads") == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("backend", "gpu"),
        ("threads", -1),
        ("threads", "many"),
        ("threads", 1.5),
        ("algorithm", "fft"),
        ("cpu_level", "sse2"),
        ("jit", "maybe"),
        ("jit", []),
        ("log", 3),
    ],
)
def test_wrong_values_name_their_source(
    name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=f"using: {name} is "), using(**{name: value}):  # type: ignore[arg-type]
        pass
    if isinstance(value, str):
        monkeypatch.setenv(f"PYINCEPTION_{name.upper()}", value)
        with pytest.raises(ValueError, match=f"PYINCEPTION_{name.upper()}: {name} is {value!r}"):
            config.get(name)


def test_a_failed_using_leaves_nothing_behind() -> None:
    with pytest.raises(ValueError, match="algorithm"), using(threads=2, algorithm="fft"):
        pass
    assert config.get("threads") == 0
    with pytest.raises(RuntimeError), using(threads=2):
        raise RuntimeError
    assert config.get("threads") == 0


def test_another_thread_does_not_see_it() -> None:
    seen = []
    with using(threads=2):
        thread = threading.Thread(target=lambda: seen.append(config.get("threads")))
        thread.start()
        thread.join()
    assert seen == [0]


def test_flags_and_numbers_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYINCEPTION_JIT", "1")
    assert config.get("jit") is True
    monkeypatch.setenv("PYINCEPTION_JIT", "")
    assert config.get("jit") is False


def test_log_switch(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "pyinception"):
        config.report("info", "quiet")
        with using(log="info"):
            config.report("info", "loud")
    assert [record.message for record in caplog.records] == ["loud"]


def test_no_switch_of_the_shell_reaches_the_tests() -> None:
    assert not {switch.environment for switch in config.SWITCHES.values()} & AT_IMPORT
