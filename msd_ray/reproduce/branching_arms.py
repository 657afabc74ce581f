"""Arms of an experiment about students that branch off from a trunk, all with the same number of images."""

from dataclasses import dataclass, replace

from msd_ray.reproduce.experiment import Arm


@dataclass(frozen=True)
class Students:
    """Students of one size. total: DM and ADM images of all students of an arm together. lasts: ADM images of them, of
    which the last branch point leaves fewer. dm, adm: what else these stages say. tsm: what a stage before them says,
    for all images of all students; empty for none. more: further overrides."""

    label: str
    recipe: str
    total: int
    lasts: int
    dm: str
    adm: str
    tsm: str = ""
    more: tuple[str, ...] = ()

    def one(self) -> Arm:
        return self._arm("one student", 1, self._plainly(), shared_tsm=False)

    def scratch(self, k: int) -> Arm:
        return self._arm(f"K = {k} from scratch", k, self._plainly(), shared_tsm=False)

    def branches(self, k: int, at: int, afresh: str = "", kind: str = "") -> Arm:
        """at: percent of all images after which the students branch off. afresh: what they begin anew: a part, or all.
        kind: of the partition, where it is not the recipe's."""
        begins = f", afresh: {_ALL if afresh == 'all' else f'[{afresh}]'}" if afresh else ""
        said = f", {afresh.replace('_', ' ')} afresh" if afresh else ""
        arm = self._arm(f"trunk {at}%, K = {k}{said}{kind and f', {kind}'}", k, self._trunk(at, 1, begins))
        return replace(arm, overrides=(*arm.overrides, f"partition.kind={kind}")) if kind else arm

    def as_long_as(self, k: int, at: int) -> Arm:
        """One student that trains as many images one after the other as those students do: as long as they take where
        each has a machine of its own. It begins with the same trunk."""
        return self._arm(f"one student, as long as trunk {at}%, K = {k}", 1, self._trunk(at, k))

    def _plainly(self) -> tuple[str, ...]:
        return self._stage("dm", self.total - self.lasts), self._stage("adm", self.lasts)

    def _trunk(self, at: int, k: int, begins: str = "") -> tuple[str, ...]:
        """For `k` students' share of what comes after it."""
        trunk, adm = self.total * at // 100, min(self.lasts, self.total * (100 - at) // 100)
        own = self.total - trunk - adm
        stages = [self._stage("trunk", trunk, ", shared: true")]
        if own:
            stages.append(self._stage("dm", _share(own, k), begins))
        return (*stages, self._stage("adm", _share(adm, k), "" if own else begins))

    def _stage(self, name: str, images: int, more: str = "") -> str:
        said = f"adm, images: {images}, {self.adm}" if name == "adm" else f"dm, images: {images}, {self.dm}"
        return f"{name}: {{objective: {said}{more}}}"

    def _arm(self, name: str, k: int, stages: tuple[str, ...], shared_tsm: bool = True) -> Arm:
        if self.tsm:
            stages = (f"tsm: {{objective: tsm, {self.tsm}, shared: {str(shared_tsm).lower()}}}", *stages)
        said = f"partition.k={k}", f"stages={{{', '.join(stages)}}}", "training.share_images=true", *self.more
        return Arm(f"{self.label}, {name}", self.recipe, said)


_ALL = "[optimizers, average, fake_score, discriminator]"


def _share(images: int, k: int) -> int:
    """To the nearest whole batch of 32."""
    return round(images / k / 32) * 32


def also_in(features: str, arm: Arm) -> Arm:
    """Measured in these features, too, which may take longer than many arms' training."""
    return replace(arm, overrides=(*arm.overrides, f"evaluation.also=[{features}]"))
