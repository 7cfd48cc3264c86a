# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""The cost of a message must not grow unnoticed. Instructions are counted, so a busy machine does not matter."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

# Measured: 1,115 to 1,462 with Python 3.11; the propagator takes about a third of that.
MOST_INSTRUCTIONS = 1_500

Costs = dict[str, dict[str, int]]


@pytest.fixture(scope="module")
def costs(broker) -> Costs:
    # In its own process, because a coverage measurement would use the same counter.
    program = Path(__file__).parents[1] / "benchmarks" / "instructions.py"
    done = subprocess.run([sys.executable, program, str(broker.port)], check=True, capture_output=True, timeout=60)
    return json.loads(done.stdout)


@pytest.mark.parametrize("side", ["publish", "receive"])
@pytest.mark.parametrize("variant", ["sampled", "unsampled"])
def test_the_instrumentation_adds_little_to_a_message_but_the_span(costs: Costs, variant: str, side: str) -> None:
    added = costs[variant][side] - costs["raw"][side] - costs[variant][f"span of {side}"]
    assert 0 < added <= MOST_INSTRUCTIONS
