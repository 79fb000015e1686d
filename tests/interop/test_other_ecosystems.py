"""Clients of other ecosystems stream through the router: Node.js, Java, wget, Perl; skipped where not installed.

Each program writes a line per piece as it comes, so that the times here are those at which the client had it.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from infermesh.emulator import answer_text
from tests.interop.conftest import STEP_S, Program
from tests.interop.fleet import MODEL, Fleet

pytestmark = [pytest.mark.interop, pytest.mark.slow]

TOKENS: Final = 40
TIMEOUT_S: Final = 30

# Reads the stream by its reader, then asks once more on the connection that fetch's pool has kept.
NODE: Final = """
const [url, body] = process.argv.slice(1);
const options = {method: "POST", headers: {"content-type": "application/json"}, body};
const answer = await fetch(url, options);
if (answer.status !== 200) throw new Error(`status ${answer.status}`);
const decoder = new TextDecoder();
for await (const piece of answer.body) process.stdout.write(decoder.decode(piece, {stream: true}));
const lost = await fetch(url.replace("completions", "nothing"), options);
if (lost.status !== 404) throw new Error(`status ${lost.status}`);
console.log("error: " + (await lost.json()).error.code);
"""

JAVA: Final = """
import java.net.URI;
import java.net.http.*;

public class Stream {
    public static void main(String[] arguments) throws Exception {
        var client = HttpClient.newBuilder().version(HttpClient.Version.valueOf(arguments[2])).build();
        var request = HttpRequest.newBuilder(URI.create(arguments[0]))
            .header("content-type", "application/json")
            .POST(HttpRequest.BodyPublishers.ofString(arguments[1])).build();
        var answer = client.send(request, HttpResponse.BodyHandlers.ofLines());
        if (answer.statusCode() != 200) throw new RuntimeException("status " + answer.statusCode());
        answer.body().forEach(line -> { System.out.println(line); System.out.flush(); });
    }
}
"""

PERL: Final = """
use HTTP::Tiny;
$| = 1;
my $answer = HTTP::Tiny->new(timeout => 20)->request("POST", $ARGV[0], {
    headers => {"content-type" => "application/json"}, content => $ARGV[1],
    data_callback => sub { print $_[0] },
});
die "status $answer->{status} $answer->{content}" unless $answer->{success};
"""


@dataclass
class Streamed:
    times: list[float] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    rest: list[str] = field(default_factory=list)
    running_at_first: int = 0

    def check(self, prompt: str) -> None:
        """The whole answer came, and it came as it was made."""
        assert self.events[-1] == "data: [DONE]"
        pieces = [json.loads(event.removeprefix("data: "))["choices"][0]["text"] for event in self.events[:-1]]
        assert "".join(pieces) == answer_text(prompt.encode(), TOKENS)
        assert self.running_at_first == 1, "the engine had ended when the client had its first token"
        # Less than it took: a client that starts slowly on a busy machine finds some of it waiting.
        assert self.times[-1] - self.times[0] > 0.3 * (TOKENS - 1) * STEP_S


@pytest.fixture
def stream(fleet: Fleet) -> Callable[[Sequence[str], Path], Streamed]:
    def run(command: Sequence[str], folder: Path) -> Streamed:
        """The lines that a program writes, each with its time."""
        seen = Streamed()
        with (
            (folder / "stderr").open("wb") as log,
            subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=log) as process,
        ):
            assert process.stdout is not None
            for line in process.stdout:
                text = line.decode().strip()
                if text.startswith("data: "):
                    seen.times.append(time.monotonic())
                    seen.events.append(text)
                elif text:
                    seen.rest.append(text)
                if len(seen.events) == 1 and not seen.running_at_first:
                    seen.running_at_first = sum(daemon.engine()["running"] for daemon in fleet.gpus)
            status = process.wait(TIMEOUT_S)
        assert status == 0, (folder / "stderr").read_text("utf-8")[-1000:]
        return seen

    return run


Stream = Callable[[Sequence[str], Path], Streamed]


def _body(prompt: str) -> str:
    return json.dumps({"model": MODEL, "prompt": prompt, "max_tokens": TOKENS, "stream": True})


def test_node_fetch_streams_and_reads_an_error(program: Program, stream: Stream, fleet: Fleet, tmp_path: Path) -> None:
    node = program("node")
    url = f"{fleet.url}/v1/completions"
    seen = stream([node, "--input-type=module", "--eval", NODE, url, _body("node")], tmp_path)
    seen.check("node")
    assert seen.rest == ["error: unknown_path"]


@pytest.mark.parametrize("version", ["HTTP_1_1", "HTTP_2"])
def test_java_streams(version: str, program: Program, stream: Stream, fleet: Fleet, tmp_path: Path) -> None:
    """Its default, HTTP_2, offers h2c by Upgrade on a plain connection; we answer in HTTP/1.1, which is allowed."""
    java = program("java")
    program("javac")  # A runtime alone cannot run a source file.
    (tmp_path / "Stream.java").write_text(JAVA, "utf-8")
    url = f"{fleet.url}/v1/completions"
    quick = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]
    stream([java, *quick, "Stream.java", url, _body(version), version], tmp_path).check(version)


def test_wget_streams(program: Program, stream: Stream, fleet: Fleet, tmp_path: Path) -> None:
    command = [program("wget"), "--quiet", "--output-document=-", "--header=content-type: application/json"]
    stream([*command, f"--post-data={_body('wget')}", f"{fleet.url}/v1/completions"], tmp_path).check("wget")


def test_perl_streams(program: Program, stream: Stream, fleet: Fleet, tmp_path: Path) -> None:
    perl = program("perl")
    if subprocess.run([perl, "-MHTTP::Tiny", "-e", "1"], capture_output=True, check=False).returncode:
        pytest.skip("this perl has no HTTP::Tiny")
    stream([perl, "-e", PERL, f"{fleet.url}/v1/completions", _body("perl")], tmp_path).check("perl")
