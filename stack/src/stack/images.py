"""The public images that containers are built on: by digest, or by tag if this machine made one of them."""

import os
import re
import subprocess

from stack.console import console
from stack.environment import given_variables
from stack.settings import ROOT

DIGESTS = ROOT / "docker-compose.digests.yml"


def compose_files() -> dict[str, str]:
    """The variable that makes Compose build on the public images by digest; none if it is to build on them by tag.

    By tag, if the engine has one of the images but not from a registry, as on a machine that reaches none, or if the
    user has chosen Compose's files.
    """
    if given_variables().get("COMPOSE_FILE"):
        return {}
    images = re.findall(r"docker-image://(\S+)@", DIGESTS.read_text())
    # Prints the tags of images that were built here or loaded from a file.
    from_no_registry = '{{if not .RepoDigests}}{{join .RepoTags " "}}{{end}}'
    inspect = ["docker", "image", "inspect", "--format", from_no_registry, *images]
    found = subprocess.run(inspect, capture_output=True, text=True, check=False).stdout.split()
    if held := [image for image in images if image in found]:
        console.print(f"{held[0]} here is not from a registry: public images are taken by tag, not by digest.")
        return {}
    overrides = sorted(path.name for path in ROOT.glob("*compose.override.y*ml"))
    return {"COMPOSE_FILE": os.pathsep.join(["docker-compose.yml", *overrides, DIGESTS.name])}
