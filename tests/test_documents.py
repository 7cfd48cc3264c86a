"""What the documents say is so: links lead somewhere, commands exist and work."""

import re
import subprocess
from pathlib import Path

import pytest

from harness import Stack
from stack.settings import ROOT

DOCUMENTS = sorted(path for path in ROOT.glob("**/*.md") if ".venv" not in path.parts)
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_to_a_file_leads_to_one(document: Path) -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", document.read_text()):
        assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_make_target_exists(document: Path) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    for words in re.findall(r"`make ([a-z -]+)", document.read_text()):
        assert set(words.split()) <= set(targets), words


def test_make_alone_lists_the_commands() -> None:
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("up", "down", "ps", "logs", "verify", "trace", "watch", "doctor", "new-service", "test", "lint"):
        assert f"make {target} " in done.stdout


def test_the_readmes_legacy_publisher_makes_a_tagged_root(stack: Stack) -> None:
    command = next(line for line in README.splitlines() if line.startswith("mosquitto_pub"))
    subprocess.run(["bash", "-c", f"{command} -p {stack.settings.mqtt_port}"], check=True, timeout=20)
    (root, *_) = stack.spans_of("messaging.destination.name", "sensors/legacy-001/reading", count=3, since=0)
    assert root.attributes["mqtt.missing_context"] is True
