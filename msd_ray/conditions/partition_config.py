"""What a recipe says of a partition."""

from dataclasses import dataclass
from typing import Annotated

from msd_ray.own_code import is_own
from msd_ray.ranges import Count, Seed, within

SEQUENTIAL, RANDOM, KMEANS, LEARNED = OF_CLASSES = ("sequential", "random", "kmeans", "learned")
QUADRANTS, KEYWORDS = "quadrants", "keywords"
KINDS = (*OF_CLASSES, QUADRANTS, KEYWORDS)


@dataclass(frozen=True)
class PartitionConfig:
    """k: parts of the conditions. kind: consecutive classes, a random division, classes with similar features together
    (kmeans), classes of which the trunk has similar things to learn together (learned), or `module:function` for one of
    the user's own, which is called with the `Conditions` and this configuration and returns the part of each condition;
    its parts may differ in size. Of prompts: those with similar vectors together (kmeans), the four quadrants of their
    vectors (quadrants), or those with certain words (keywords). seed: of random, kmeans and learned. timesteps:
    intervals of the noise levels, or phases that divide the steps of noise.steps. There are k * timesteps students.
    keywords: the words of each part but the last, which has all other prompts.
    """

    k: Count = 1
    kind: str = SEQUENTIAL
    seed: Seed = 0
    timesteps: Annotated[int, within(ge=1, le=1000)] = 1
    keywords: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        if bool(self.keywords) != (self.kind == KEYWORDS) or not all(map(all, self.keywords)) or () in self.keywords:
            raise ValueError("keywords are for the kind keywords, a list of words for each part but the last")
        if self.kind not in KINDS and not is_own(self.kind):
            raise ValueError(f"there is no kind {self.kind!r}, only {', '.join(KINDS)}, or your own module:function")
