"""Follows the log of pods. Each request asks for new lines only, so a long log costs no more than a short one."""

import re

from msd_ray.kubernetes.api import Api

FIRST = 10_000
"""How many of the newest lines the first request shows."""


class Tail:
    """The log of one container in the pods that a selector chooses. If a new pod replaces the old one, its log is shown
    from the beginning.

    The API server cuts a time to whole seconds, so a request asks for the newest known second again and skips the lines
    that are known.
    """

    def __init__(self, api: Api, selector: str, container: str) -> None:
        self._api, self._selector, self._container = api, selector, container
        self._newest: dict[str, list[str]] = {}

    def new_lines(self) -> list[str]:
        """The lines since the last request, without time stamps. Empty if there is no pod yet."""
        pods = [pod["metadata"] for pod in self._api.find("Pod", selector=self._selector)]
        pods.sort(key=lambda pod: str(pod.get("creationTimestamp", "")))
        return [line for pod in pods for line in self._new_lines_of(pod["name"])]

    def _new_lines_of(self, pod: str) -> list[str]:
        known = self._newest.get(pod, [])
        found, shown = self._api.log(pod, self._container, _second(known[-1]) if known else "", FIRST), set(known)
        new = [line for line in found if line not in shown]
        if new:
            self._newest[pod] = [line for line in known + new if _second(line) == _second(new[-1])]
        return [line.partition(" ")[2] for line in new]


def _second(line: str) -> str:
    """The time stamp of a line without its fraction."""
    return re.sub(r"\.\d+", "", line.partition(" ")[0])
