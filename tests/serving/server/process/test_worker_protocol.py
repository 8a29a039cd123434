"""Every report survives its way over the socket."""

from __future__ import annotations

import subprocess
import sys

import pytest

from serving.inference.statistics import Counts, DurationStatistic
from serving.rollout.rollout import Refusal
from serving.server.process import worker_protocol as protocol

COUNTS = Counts(
    queued=DurationStatistic(count=2, total_s=0.5),
    images=70,
    batches={64: DurationStatistic(count=1, total_s=0.25), 6: DurationStatistic()},
)


@pytest.mark.parametrize(
    "report",
    [
        protocol.Heartbeat(),
        protocol.Prepared(refusals=[Refusal(name="net", version=2, reason="damaged", detail="a bit")]),
        protocol.Ready(providers=["CPUExecutionProvider"]),
        protocol.Counted(counts=[("net", 1, COUNTS), ("net", 2, Counts())]),
        protocol.Request(number=7, action="load", name="net"),
        protocol.Failed(reason="two\nlines"),
    ],
    ids=lambda report: type(report).__name__,
)
def test_a_report_is_one_line_and_decodes_to_itself(report: protocol.Report) -> None:
    line = protocol.encode_report(report)
    assert line.count(b"\n") == 1
    assert protocol.decode_report(line) == report


def test_the_supervisor_loads_neither_grpc_nor_onnx_runtime() -> None:
    program = """
import sys
import serving.server.process.supervisor
print({name.split(".")[0] for name in sys.modules} & {"grpc", "protos", "onnxruntime"})
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
