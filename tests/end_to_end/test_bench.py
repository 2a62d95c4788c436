"""The benchmark works; what it measures is not judged here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
PEERS = ("relay", "relay:io_threads=2", "relay:journal", "loop")
MEASURES = ("start", "rest", "throughput", "latency", "fanout", "publishers")


def test_quick_run(tmp_path: Path) -> None:
    result = tmp_path / "bench.json"
    options = ["--quick", "--peers", ",".join(PEERS), "--json", result, "--plots", tmp_path]
    done = subprocess.run(
        [sys.executable, "-m", "bench", *options, *MEASURES],
        env={**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS}/support"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr  # 1: a promise did not hold
    assert not done.stderr
    assert "Messages a second at saturation" in done.stdout
    found = json.loads(result.read_text())
    measured = {(record["measure"], record["peer"]) for record in found["records"]}
    assert measured == {(measure, peer) for measure in MEASURES for peer in PEERS}
    for record in found["records"]:
        assert record["values"].get("lost", 0) == 0, record
    plots = sorted(path.name for path in tmp_path.glob("*.svg"))
    assert plots == ["cpu.svg", "fanout.svg", "latency.svg", "publishers.svg", "throughput.svg"]
