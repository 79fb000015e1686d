"""What HTTP/2 costs without sockets: `scripts/bench http2 [--json]`. See machine_bench.py."""

from __future__ import annotations

import sys

from tests.bench.http2.machine_bench import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
