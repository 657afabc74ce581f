"""The program, as `msd-ray` and as `python -m msd_ray`. It listens for signals before it imports anything heavy."""

import os
import sys

from msd_ray.stopping import STOP


def main() -> None:
    STOP.listen()
    from msd_ray.cli import main as run

    try:
        run()
    except SystemExit as end:
        if not STOP.asked:
            raise
        sys.stdout.flush()
        os._exit(int(end.code or 0))  # at once: there is a limit, and all that had to be done is


if __name__ == "__main__":
    main()
