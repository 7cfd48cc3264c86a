# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""The README's programs run, and the API documentation matches the docstrings."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from opentelemetry.instrumentation import paho_mqtt
from opentelemetry.instrumentation.paho_mqtt import private

PACKAGE = Path(__file__).parents[1]
README = (PACKAGE / "README.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("program", PROGRAMS, ids=range(len(PROGRAMS)))
def test_a_program_of_the_readme(broker, program):
    program = program.replace("1883", str(broker.port))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_the_first_program_makes_both_spans(broker, instrument, spans):
    instrument()
    exec(PROGRAMS[0].replace("1883", str(broker.port)), {})  # noqa: S102 (our own README)
    assert spans.processed(1)[0].parent.span_id == spans.published(1)[0].context.span_id


def test_each_private_name_of_paho_is_in_the_readme():
    names = [*private._LOST_WITHOUT, *(method.name for method in paho_mqtt._METHODS if method.name.startswith("_"))]
    (page,) = re.findall(r"^## Versions of paho and what is private in it$(.*?)^## ", README, re.M | re.S)
    assert {name for name in re.findall(r"`(?:Client\.)?(_\w+)`", page) if name != "__init__"} == set(names)


def test_the_api_documentation_is_current():
    script = PACKAGE / "docs" / "api.py"
    subprocess.run([sys.executable, str(script), "--check"], check=True, timeout=30)
