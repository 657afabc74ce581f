"""How one client's calls are shared among gateways on one port: with one connection, and with as many as the
client opens by default.

    python benchmarks/serving_gateways.py [--gateways 2] [--calls 2000] [--clients 8] [--quick]

The last line of standard output is one JSON object. shares: for each number of connections, what part of each client's
calls went to the gateway that got most of them; it is by chance which connection reaches which gateway.
"""

import argparse
import json
import os
import signal
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

from common import finish, say
from served import HTTP_PORT, PORT, SERVE, WHERE, random_ensemble

from msd_ray.serving.client import Client, Connection


def ask(connections: int, calls: int) -> None:
    """One client's calls, one after the other."""
    with Client(Connection(WHERE, connections=connections)) as client:
        for seed in range(calls):
            client.generate([seed % 10], [seed])


def fronts_of(lines: list[str]) -> Counter[str]:
    """How often each gateway says in the access log that it answered; Ray puts its process id before each line."""
    return Counter(line.partition("pid=")[2].partition(")")[0] for line in lines if '"/msd.v1.' in line)


def share(log: Path, connections: int, calls: int) -> float:
    begin = len(log.read_text().splitlines())
    ask(connections, calls)
    lines: list[str] = []
    while sum(fronts_of(lines).values()) < calls:
        lines = log.read_text().splitlines()[begin:]
    return round(max(fronts_of(lines).values()) / calls, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gateways", type=int, default=2)
    parser.add_argument("--calls", type=int, default=2000, help="of each client")
    parser.add_argument("--clients", type=int, default=8, help="for each number of connections, one after the other")
    parser.add_argument("--quick", action="store_true", help="50 calls of four clients")
    args = parser.parse_args()
    calls, clients = (50, 4) if args.quick else (args.calls, args.clients)
    with tempfile.TemporaryDirectory() as folder:
        uri, log = random_ensemble(Path(folder) / "ensemble", 1), Path(folder) / "log"
        line = [*SERVE, uri, f"gateway.replicas={args.gateways}", "--port", str(PORT), "--http-port", str(HTTP_PORT)]
        with log.open("w") as file:
            env = {**os.environ, "RAY_DEDUP_LOGS": "0"}
            service = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=file, text=True, env=env)
        assert service.stdout
        next(said for said in service.stdout if said.startswith("update:"))
        shares = {n: [share(log, n, calls) for _ in range(clients)] for n in (1, Connection("").connections)}
        say(json.dumps(shares))
        service.send_signal(signal.SIGTERM)
        code = service.wait(120)
    finish("serving_gateways", {"gateways": args.gateways, "calls": calls, "shares": shares, "exit_code": code})


if __name__ == "__main__":
    main()
