"""What a caller gets of the service beside another one who floods it. Each has a token, and a `msd-ray bench`.

- alone: the polite caller's few requests, at random times, with nobody beside them.
- beside_flood: the same while the other one asks all the time, with hundreds of calls at once.
- both_flood: the polite one too asks for as much as it can get, with a quarter of the other's calls.

share: of the images that were made meanwhile, the polite caller's. The aim is half of them where both flood, and all
that it asks for where it is polite; its p99 beside the flood over that alone depends on `limits.concurrent`, so there
are two settings of it.

    python benchmarks/serving_fairness.py [--seconds 30] [--rate 5] [--callers 256] [--quick]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import finish, say
from served import WHERE, random_ensemble, served

SHOWN = ("requests", "answered", "images_per_second", "p50_ms", "p99_ms", "shed_share", "errors")
CONCURRENT = (512, 16)
Figures = dict[str, Any]


def bench(caller: str, seconds: float, *load: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "msd_ray", "bench", WHERE, "--token", f"{caller}-token", "--json"]
    line = [*command, "--seconds", str(seconds), *load]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def figures_of(process: subprocess.Popen[str]) -> Figures:
    said = json.loads(process.communicate()[0])["stages"][0]
    return {name: said[name] for name in SHOWN}


def together(seconds: float, polite: tuple[str, ...], greedy: tuple[str, ...], longer: float) -> Figures:
    """longer: seconds by which the greedy one begins earlier and ends later."""
    flood = bench("greedy", seconds + 2 * longer, *greedy)
    time.sleep(longer)
    found = {"polite": figures_of(bench("polite", seconds, *polite)), "greedy": figures_of(flood)}
    rates = [of["images_per_second"] for of in found.values()]
    return {**found, "share": round(rates[0] / sum(rates), 3)}


def measured(seconds: float, rate: float, callers: int) -> Figures:
    polite, greedy = ("--rate", str(rate)), ("--callers", str(callers))
    alone = figures_of(bench("polite", seconds, *polite))
    beside = together(seconds, polite, greedy, 3.0)
    both = together(seconds, ("--callers", str(callers // 4)), greedy, 0.0)
    return {"alone": alone, "beside_flood": beside, "both_flood": both}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each load")
    parser.add_argument("--rate", type=float, default=5.0, help="requests per second of the polite caller")
    parser.add_argument("--callers", type=int, default=256, help="calls of the other one at once")
    parser.add_argument("--quick", action="store_true", help="4 seconds each, one setting")
    args = parser.parse_args()
    seconds, settings = (4.0, CONCURRENT[1:]) if args.quick else (args.seconds, CONCURRENT)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        uri, tokens = random_ensemble(Path(folder) / "ensemble", 1), Path(folder) / "tokens"
        tokens.write_text("".join(f"{name}-token name={name}\n" for name in ("polite", "greedy")))
        for concurrent in settings:
            with served(uri, f"gateway.tokens={tokens}", f"limits.concurrent={concurrent}"):
                found[f"concurrent={concurrent}"] = measured(seconds, args.rate, args.callers)
                say(json.dumps(found))
    finish("serving_fairness", {"seconds": seconds, "rate": args.rate, "callers": args.callers, **found})


if __name__ == "__main__":
    main()
