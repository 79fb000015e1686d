"""meshd with a config or an identity that cannot be used: it ends before any port opens, and says what to change."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from infermesh.testing.certificates import BadCertificate, NodeFiles, TrustDomain

GOOD = '[node]\nid = "gpu-a"\nroles = ["gpu"]\n[trust]\ndomain = "test.mesh"\n'


@dataclass(frozen=True, slots=True)
class Config:
    """A file, and what the message must name besides it."""

    name: str
    text: str
    named: Sequence[str]
    flags: Sequence[str] = ()
    environ: Mapping[str, str] = field(default_factory=dict)


CONFIGS = (
    Config("an unknown key", GOOD + "[routing]\npolicee = 'x'\n", ("routing.policee", '"x"', "routing.policy")),
    Config("an unknown section", GOOD + "[rooting]\npolicy = 'x'\n", ("rooting", "routing")),
    Config("a word for a number", GOOD + "[retry]\nattempts_max = 'three'\n", ("retry.attempts_max", "three")),
    Config("an unknown key in a flag", GOOD, ("client.lissen", "client.listen"), ("--set", "client.lissen=:80")),
    Config(
        "an unknown key in the environment", GOOD, ("INFERMESH_LOGS__LEVELL",), environ={"INFERMESH_LOGS__LEVELL": "x"}
    ),
)


async def run_meshd(config: Path, flags: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> str:
    """What it says. It must end by itself with exit code 2, and say nothing on stdout."""
    command = [sys.executable, "-m", "infermesh.node.main", "--config", str(config), *flags]
    with trio.fail_after(30):
        done = await trio.run_process(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_stdout=True,
            capture_stderr=True,
            env={**os.environ, **(environ or {})},
        )
    assert done.returncode == 2, done.stderr
    assert done.stdout == b""
    said = done.stderr.decode()
    assert "Traceback" not in said
    return said


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
async def test_meshd_refuses_a_config_that_it_does_not_understand_and_names_it(tmp_path: Path, config: Config) -> None:
    path = tmp_path / "node.toml"
    path.write_text(config.text, "utf-8")
    said = await run_meshd(path, config.flags, config.environ)
    if not (config.flags or config.environ):
        assert str(path) in said
    for word in config.named:
        assert word in said


@pytest.mark.slow
@pytest.mark.parametrize("kind", [BadCertificate.EXPIRED], ids=str)
async def test_meshd_refuses_an_identity_that_others_would_refuse(trust: TrustDomain, kind: BadCertificate) -> None:
    files = trust.bad(kind, "gpu-a")
    said = await run_meshd(write_config(files))
    assert str(files.certificate_file) in said
    assert "mesh ca renew" in said


@pytest.mark.slow
async def test_meshd_refuses_to_start_without_an_identity(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text(GOOD, "utf-8")
    said = await run_meshd(path)
    assert str(tmp_path / "ca.pem") in said
    assert "mesh init" in said


def write_config(files: NodeFiles) -> Path:
    path = files.folder / "node.toml"
    path.write_text(GOOD, "utf-8")
    return path
