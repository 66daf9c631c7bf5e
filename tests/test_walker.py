"""The walker: threads, fork, signals, exit, two callers at once, each in a process of its own.

A rule that is broken shows as a signal, or as a hang, which the time limit of a test ends.
"""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from child import passes

core = pytest.importorskip("pyinception._C", reason="the compiled core is not built")


def test_bits_do_not_depend_on_threads():
    passes("""
        one = conv(1)
        for threads in (2, 3, 7, 16):
            for _ in range(5):
                assert np.array_equal(conv(threads).view(np.uint32), one.view(np.uint32)), threads
    """)


def test_sample_alone_or_in_a_batch():
    passes("""
        whole = conv(3)
        for n in range(len(x)):
            alone = conv(2, x[n : n + 1])
            assert np.array_equal(alone.view(np.uint32), whole[n : n + 1].view(np.uint32)), n
    """)


def test_two_python_threads_at_once():
    passes("""
        expected, wrong = conv(1), []
        def go():
            for _ in range(30):
                if not np.array_equal(conv(2), expected):
                    wrong.append(1)
        threads = [threading.Thread(target=go) for _ in range(4)]
        for t in threads: t.start()
        for t in threads: t.join()
        assert not wrong
    """)


def test_fork_after_use():
    passes("""
        expected = conv(2)
        for _ in range(3):
            child = os.fork()
            if child == 0:
                os._exit(0 if np.array_equal(conv(2), expected) else 1)
            assert os.waitpid(child, 0)[1] == 0
        assert np.array_equal(conv(2), expected)
    """)


def test_a_child_forked_before_any_use_has_a_team_of_its_own():
    passes("""
        child = os.fork()
        if child == 0:
            before = len(os.listdir("/proc/self/task"))
            conv(2)
            os._exit(0 if len(os.listdir("/proc/self/task")) == before + 1 else 1)
        assert os.waitpid(child, 0)[1] == 0
    """)


def test_fork_while_another_thread_calls():
    passes("""
        expected, stop = conv(2), []
        def go():
            while not stop:
                conv(2)
        other = threading.Thread(target=go)
        other.start()
        for _ in range(5):
            child = os.fork()
            if child == 0:
                os._exit(0 if np.array_equal(conv(2), expected) else 1)
            assert os.waitpid(child, 0)[1] == 0
        stop.append(1)
        other.join()
    """)


def test_interrupt_comes_soon_and_the_next_call_is_right():
    out = passes("""
        big = draw.standard_normal((64, 56, 56, 64)).astype(np.float32)
        expected = conv(2)
        waits = []
        for _ in range(3):
            waits.append(interrupted(lambda: conv(2, big, "plain")))
            assert np.array_equal(conv(2), expected)
        print(max(waits), min(walls))
    """)
    worked, waited = map(float, out.split())
    assert worked < 0.5  # 0.2 s on a machine of its own
    assert waited < 0.8  # of three: on a busy machine one may be held up


def test_exit_while_a_daemon_thread_is_inside_a_call():
    passes("""
        big = draw.standard_normal((64, 56, 56, 64)).astype(np.float32)
        threading.Thread(target=lambda: conv(2, big, "plain"), daemon=True).start()
        time.sleep(0.2)
    """)


def test_thread_settings_are_honoured():
    assert passes("print(core.default_threads())", OMP_NUM_THREADS="1").strip() == "1"
    cpus = len(os.sched_getaffinity(0))
    assert 1 <= int(passes("print(core.default_threads())", OMP_NUM_THREADS="64")) <= cpus
    one = passes("""
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        print(core.default_threads())
    """)
    assert one.strip() == "1"


def test_idle_team_uses_no_processor():
    out = passes("""
        conv(2)
        before = time.process_time()
        time.sleep(0.5)
        print(time.process_time() - before)
    """)
    assert float(out) < 0.1


def test_members_part_and_may_run_everywhere_afterwards():
    """The caller moves to the core that the other member slept on; a third thread is in the way."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core: nowhere to part to")
    passes("""
        cores = os.sched_getaffinity(0)
        pair, expected = sorted(cores)[:2], conv(2)
        done = threading.Event()
        def spin():
            while not done.is_set():
                np.add(x, x)
        other = threading.Thread(target=spin)
        other.start()
        for turn in range(60):
            os.sched_setaffinity(0, {pair[turn % 2]})
            assert np.array_equal(conv(2), expected)
        os.sched_setaffinity(0, cores)
        done.set(), other.join()
        masks = [os.sched_getaffinity(int(t)) for t in os.listdir("/proc/self/task")]
        assert len(masks) > 1 and all(mask == cores for mask in masks), masks
    """)


def test_floating_point_state_is_left_alone():
    """Denormals survive, in this thread and in the team's, before and after."""
    passes("""
        tiny = np.float32(1e-40)
        a = np.full((1, 28, 28, 16), tiny, np.float32)
        f = np.zeros((16, 1, 1, 16), np.float32)
        f[np.arange(16), 0, 0, np.arange(16)] = 1
        for threads in (1, 2):
            y = np.empty_like(a)
            core.conv_fprop(a, f, None, y, (1, 1), (1, 1), (0, 0), False, "direct", "", threads)
            assert (y == tiny).all()
        assert tiny / np.float32(2) > 0
    """)


@pytest.mark.oracles
def test_forked_data_loader_and_turns_with_torch():
    pytest.importorskip("torch")
    passes("""
        import torch
        expected = conv(2)
        class Set(torch.utils.data.Dataset):
            def __len__(self): return 8
            def __getitem__(self, i):
                return float(np.array_equal(conv(2), expected))
        for _ in range(2):
            loader = torch.utils.data.DataLoader(Set(), batch_size=2, num_workers=2,
                                                 multiprocessing_context="fork")
            assert sum(float(b.sum()) for b in loader) == 8
        m = torch.randn(512, 512)
        for _ in range(20):
            torch.mm(m, m)
            assert np.array_equal(conv(2), expected)
    """)


@pytest.mark.oracles
def test_the_team_of_torch_walks_where_it_has_the_size():
    pytest.importorskip("torch")
    passes("""
        expected = conv(1)
        import torch
        torch.set_num_threads(2)
        m = torch.randn(512, 512)
        torch.mm(m, m), torch.exp(torch.randn(1 << 20))
        threads = lambda: len(os.listdir("/proc/self/task"))
        before = threads()
        assert np.array_equal(conv(2), expected) and threads() == before
        child = os.fork()
        if child == 0:
            os._exit(0 if np.array_equal(conv(2), expected) else 1)
        assert os.waitpid(child, 0)[1] == 0
        big = draw.standard_normal((64, 56, 56, 64)).astype(np.float32)
        interrupted(lambda: conv(2, big, "plain"))
        assert np.array_equal(conv(2), expected) and threads() == before
        assert np.array_equal(conv(3), expected) and threads() > before  # a team of our own
        threading.Thread(target=lambda: conv(2, big, "plain"), daemon=True).start()
        time.sleep(0.2)
    """)


@pytest.mark.oracles
def test_loaded_in_a_forked_child_of_a_process_with_torchs_team():
    pytest.importorskip("torch")
    body = """
        import os, torch
        torch.set_num_threads(2)
        torch.exp(torch.randn(1 << 20))
        child = os.fork()
        if child == 0:
            import numpy as np
            import pyinception._C as core
            x, w = np.ones((4, 28, 28, 64), np.float32), np.ones((96, 3, 3, 64), np.float32)
            y = np.empty((4, 28, 28, 96), np.float32)
            core.conv_fprop(x, w, None, y, (3, 3), (1, 1), (1, 1), True, "direct", "", 2)
            os._exit(0 if y[0, 9, 9, 9] == 9 * 64 else 1)
        assert os.waitpid(child, 0)[1] == 0
    """
    command = [sys.executable, "-c", textwrap.dedent(body)]
    subprocess.run(command, check=True)


def test_recorded_launches_give_the_same_bits():
    draw = np.random.default_rng(1)
    x = draw.standard_normal((2, 9, 9, 16)).astype(np.float32)
    w = draw.standard_normal((24, 3, 3, 16)).astype(np.float32)
    eager, later = (np.full((2, 9, 9, 24), np.nan, np.float32) for _ in range(2))
    end = (3, 3), (1, 1), (1, 1), True, "direct", "", 2
    core.conv_fprop(x, w, None, eager, *end)
    with core.record() as launches:
        core.conv_fprop(x, w, None, later, *end)
    assert np.isnan(later).all(), "recording runs nothing"
    for _ in range(3):
        later[...] = np.nan
        launches.run(2)
        assert np.array_equal(eager, later)
    x += 1
    launches.run(1)
    core.conv_fprop(x, w, None, eager, *end)
    assert np.array_equal(eager, later)


def test_a_call_that_fails_leaves_the_recorded_list_as_it_was():
    x, w = np.ones((1, 4, 4, 3), np.float32), np.ones((5, 3, 3, 3), np.float32)
    y = np.empty((1, 4, 4, 5), np.float32)
    end = (3, 3), (1, 1), (1, 1), False
    with core.record() as launches:
        core.conv_fprop(x, w, None, y, *end)
        before = len(launches)
        with pytest.raises(ValueError, match="conv_fprop: y has shape"):
            core.conv_fprop(x, w, None, y[:, 1:], *end)
        assert len(launches) == before
    launches.run()
    assert y.max() == 27
