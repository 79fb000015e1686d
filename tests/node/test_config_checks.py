from pathlib import Path

import pytest

from infermesh.node.config import ConfigError, load_config

NODE = '[node]\nid = "edge"\n'
TRUST = '[trust]\ndomain = "example.mesh"\n'
PEER = '[[peers]]\nid = "gpu-a"\naddress = "a:7443"\n'


def _conflicts(tmp_path: Path, text: str) -> list[str]:
    file = tmp_path / "node.toml"
    file.write_text(text)
    try:
        load_config(file, {}, {})
    except ConfigError as error:
        return [problem.replace(str(file), "F") for problem in error.problems]
    return []


@pytest.mark.parametrize(
    "text",
    [
        NODE,
        NODE + TRUST + PEER,
        '[node]\nid = "gpu-a"\nroles = ["gpu"]\n' + TRUST,
        NODE + '[client]\nlisten = "127.0.0.1:1"\n[admin]\nlisten = "127.0.0.2:1"\n',
        NODE + '[client]\nlisten = "127.0.0.1:0"\n[admin]\nlisten = "127.0.0.1:0"\n',
        # The mesh port of a node that is alone is not opened.
        NODE + '[mesh]\nlisten = "127.0.0.1:8080"\n',
        NODE + "[membership]\nheartbeat_s = 1\nsuspect_after_s = 2\ndead_after_s = 2\n",
        # A wait below the two seconds that a model without targets would get.
        NODE + "[admission]\nqueue_wait_max_s = 0.5\n",
    ],
)
def test_these_go_together(tmp_path: Path, text: str) -> None:
    assert _conflicts(tmp_path, text) == []


@pytest.mark.parametrize(
    ("text", "conflict"),
    [
        (
            NODE + PEER,
            (
                "F: trust.domain is missing, but [[peers]] are configured; set it to the name given to "
                "`mesh init --domain`"
            ),
        ),
        (
            '[node]\nid = "gpu-a"\nroles = ["gpu"]\n',
            (
                "F: trust.domain is missing, but node.roles has neither router nor edge; set it to the name given to "
                "`mesh init --domain`"
            ),
        ),
        (
            NODE + '[admin]\nlisten = "0.0.0.0:8080"\n',
            (
                "F: admin.listen = 0.0.0.0:8080 (F) and client.listen = 127.0.0.1:8080 (default) are the same port; "
                "give each its own"
            ),
        ),
        (
            NODE + TRUST + PEER + '[mesh]\nlisten = "[::]:9090"\n',
            (
                "F: admin.listen = 127.0.0.1:9090 (default) and mesh.listen = [::]:9090 (F) are the same port; "
                "give each its own"
            ),
        ),
        (
            NODE + TRUST + PEER + '[[peers]]\nid = "gpu-a"\naddress = "b:7443"\n',
            "F: peers[1].id = gpu-a (F) is also peers[0].id; each peer has one entry",
        ),
        (
            NODE + TRUST + PEER + '[[peers]]\nid = "gpu-b"\naddress = "a:7443"\n',
            "F: peers[1].address = a:7443 (F) is also peers[0].address; each peer has its own address",
        ),
        (
            NODE + TRUST + '[[peers]]\nid = "edge"\naddress = "b:7443"\n',
            "F: peers[0].id = edge (F) is this node itself (node.id = edge (F)); leave it out of [[peers]]",
        ),
        (
            NODE + '[[runtimes]]\nkind = "vllm"\nurl = "http://a:8000"\n',
            (
                "F: [[runtimes]] are configured, but node.roles = router has no gpu; "
                'add "gpu" to node.roles or take the runtimes out'
            ),
        ),
        (
            NODE + "[membership]\nheartbeat_s = 1\n",
            "F: membership.heartbeat_s = 1 (F) must be at most 1/2 of membership.suspect_after_s = 1.5 (default)",
        ),
        (
            NODE + "[membership]\nsuspect_after_s = 4\n",
            "F: membership.suspect_after_s = 4 (F) must be at most membership.dead_after_s = 3 (default)",
        ),
        (
            NODE + "[routing]\nstale_after_s = 0.25\n",
            "F: membership.heartbeat_s = 0.5 (default) must be at most routing.stale_after_s = 0.25 (F)",
        ),
        (
            NODE + "[routing]\nforget_after_s = 1\n",
            "F: routing.stale_after_s = 3 (default) must be at most routing.forget_after_s = 1 (F)",
        ),
        (
            NODE + "[upstream]\nconnections_max = 10\n",
            "F: upstream.pool_idle_max = 64 (default) must be at most upstream.connections_max = 10 (F)",
        ),
    ],
)
def test_these_do_not_and_both_keys_are_named(tmp_path: Path, text: str, conflict: str) -> None:
    assert _conflicts(tmp_path, text) == [conflict]


def test_runtimes_are_named_once_and_by_their_base_url(tmp_path: Path) -> None:
    runtime = '[[runtimes]]\nkind = "vllm"\nurl = "http://a:8000/v1"\n'
    text = '[node]\nid = "gpu-a"\nroles = ["gpu", "router"]\n' + runtime * 2
    [first, second, third] = _conflicts(tmp_path, text)
    assert first.startswith("F: runtimes[0].url = http://a:8000/v1 (F) ends in /v1; write the base URL")
    assert second == "F: runtimes[1].url = http://a:8000/v1 (F) is also runtimes[0].url; each runtime has one entry"
    assert third.startswith("F: runtimes[1].url")


@pytest.mark.parametrize("url", ["https://a:8000", "http://a:8000/prefix"])
def test_a_runtime_that_requests_could_not_be_sent_to_is_a_conflict(tmp_path: Path, url: str) -> None:
    text = '[node]\nid = "gpu-a"\nroles = ["gpu", "router"]\n'
    [conflict] = _conflicts(tmp_path, text + f'[[runtimes]]\nkind = "vllm"\nurl = "{url}"\n')
    assert f"runtimes[0].url = {url} (F) is not http://host:port" in conflict


def test_the_cores_have_the_last_word_on_their_settings(tmp_path: Path) -> None:
    text = NODE + "[admission]\nretry_after_min_s = 10\nretry_after_max_s = 10\n"
    [conflict] = _conflicts(tmp_path, text)
    assert "admission.retry_after_max_s is 10.0" in conflict
    assert "plus the jitter" in conflict


def test_a_kserve_runtime_has_ports_and_models_that_others_have_not(tmp_path: Path) -> None:
    node = '[node]\nid = "gpu-a"\nroles = ["gpu", "router"]\n'
    keys = 'grpc_url = "a:8001"\nmetrics_url = "http://a:8002/metrics"\nmodels = ["m"]\n'
    for kind in ("triton", "kserve"):
        assert _conflicts(tmp_path, f'{node}[[runtimes]]\nkind = "{kind}"\nurl = "http://a:8000"\n{keys}') == []
    conflicts = _conflicts(tmp_path, f'{node}[[runtimes]]\nkind = "vllm"\nurl = "http://a:8000"\n{keys}')
    assert len(conflicts) == 3
    assert conflicts[0] == (
        "F: runtimes[0].grpc_url = a:8001 (F) is set, but that key is for triton, kserve and "
        "runtimes[0].kind = vllm (F); take it out"
    )


def test_a_base_url_is_without_the_version_of_either_protocol(tmp_path: Path) -> None:
    text = '[node]\nid = "gpu-a"\nroles = ["gpu", "router"]\n[[runtimes]]\nkind = "triton"\nurl = "http://a:1/v2"\n'
    [conflict] = _conflicts(tmp_path, text)
    assert conflict.startswith("F: runtimes[0].url = http://a:1/v2 (F) ends in /v2; write the base URL")
