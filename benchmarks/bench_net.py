"""GoogLeNet forward at 224x224: Session, torch eager channels_last, OpenVINO."""

from functools import cache

import pytest

from pyinception import config
from pyinception.bench import rivals
from pyinception.bench.net import Net


@cache
def net(batch: int) -> Net:
    return Net(batch)


@pytest.mark.parametrize("contender", ["session", "torch", "openvino"])
def test_net(measure, settings, contender):
    threads, batch = settings
    group = f"googlenet batch {batch}"
    with config.using(threads=threads):
        problem = net(batch)
        if contender == "session":
            cell = problem.check()
            assert "failed" not in cell, cell["failed"]
            beside = {"bytes": problem.bytes, "kernel": problem.kernel}
            measure(group, problem.call, problem.macs, error=cell["error"], **beside)
            return
        with rivals.opened(threads, (contender,)) as (found, missing):
            if missing:
                pytest.skip(f"{contender}: {missing[contender]}")
            opponent = found[0].prepare(problem.graph, problem.x, problem.weights)
            cell = problem.judge(opponent.output())
            assert "failed" not in cell, cell["failed"]
            beside = {"first_us": 1e6 * opponent.first, "version": found[0].version}
            measure(group, opponent.call, problem.macs, error=cell["error"], **beside)
