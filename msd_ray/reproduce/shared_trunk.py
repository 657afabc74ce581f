"""Whether students that branch off from a trunk pay, at equal images in all and at equal time. No paper says."""

from dataclasses import replace

from msd_ray.reproduce.experiment import Arm, Claim, Experiment, below

_RATES = "batch: 32, fake_steps: 3, generator_lr: 5e-4, fake_lr: 2e-3, warmup: 320"
_TSM = "tsm: {objective: tsm, batch: 64, generator_lr: 2e-3, warmup: 1_600, images: 51_200, shared: %s}"
_WIDTHS = {"full width": "", "half width": "student.channel_factor=0.5"}
_ALL = "[optimizers, average, fake_score, discriminator]"
_ALSO = "efficientnet-lite0"
_LASTS = 8_000
"""ADM images of all students together, of which the last branch point leaves fewer."""


def _share(images: int, k: int) -> int:
    """To the nearest whole batch."""
    return round(images / k / 32) * 32


def _stage(name: str, images: int, more: str = "") -> str:
    return f"{name}: {{objective: {'adm' if name == 'adm' else 'dm'}, images: {images}, {_RATES}{more}}}"


class _Width:
    """The arms of students of one width. total: DM and ADM images of all students together."""

    def __init__(self, width: str, total: int = 28_800) -> None:
        self._width, self._total = width, total

    def one(self) -> Arm:
        return self._arm("one student", 1, self._plainly(), shared_tsm="false")

    def scratch(self, k: int) -> Arm:
        return self._arm(f"K = {k} from scratch", k, self._plainly(), shared_tsm="false")

    def branches(self, k: int, at: int, afresh: str = "") -> Arm:
        """at: percent of all images after which the students branch off."""
        begins = f", afresh: {_ALL if afresh == 'all' else f'[{afresh}]'}" if afresh else ""
        said = f", {afresh.replace('_', ' ')} afresh" if afresh else ""
        return self._arm(f"trunk {at}%, K = {k}{said}", k, self._trunk(at, 1, begins))

    def as_long_as(self, k: int, at: int) -> Arm:
        """One student that trains as many images one after the other as those students do: as long as they take where
        each has a machine of its own. It begins with the same trunk."""
        return self._arm(f"one student, as long as trunk {at}%, K = {k}", 1, self._trunk(at, k))

    def _plainly(self) -> tuple[str, ...]:
        return _stage("dm", self._total - self._lasts(0)), _stage("adm", self._lasts(0))

    def _trunk(self, at: int, k: int, begins: str = "") -> tuple[str, ...]:
        trunk = self._total * at // 100
        own, adm = self._total - trunk - self._lasts(at), self._lasts(at)
        stages = [_stage("trunk", trunk, ", shared: true")]
        if own:
            stages.append(_stage("dm", _share(own, k), begins))
        return (*stages, _stage("adm", _share(adm, k), "" if own else begins))

    def _lasts(self, at: int) -> int:
        return min(_LASTS * self._total // 28_800, self._total * (100 - at) // 100)

    def _arm(self, name: str, k: int, stages: tuple[str, ...], shared_tsm: str = "true") -> Arm:
        size = _WIDTHS[self._width]
        if size:
            stages = (_TSM % shared_tsm, *stages)
        said = (
            f"partition.k={k}",
            f"stages={{{', '.join(stages)}}}",
            "training.share_images=true",
            *filter(None, [size]),
        )
        return Arm(f"{self._width}, {name}", "digits", said)


def _arms(width: str) -> list[Arm]:
    """What takes long and decides little is run with the first seed alone."""
    of, full = _Width(width), width == "full width"
    twos = [of.scratch(2), of.branches(2, 50), of.as_long_as(2, 50)]
    others = [of.branches(2, at) for at in (25, 75)] + [
        of.branches(5, 50, what) for what in ("optimizers", "average", "fake_score")
    ]
    return [
        _in_both(of.one()),
        _in_both(of.scratch(5)),
        of.branches(5, 25),
        _in_both(of.branches(5, 50)),
        _in_both(of.branches(5, 75)),
        of.as_long_as(5, 25),
        _in_both(of.as_long_as(5, 50)),
        of.as_long_as(5, 75),
        of.branches(5, 50, "all"),
        *(_in_both(arm) if full else replace(arm, most=1) for arm in twos),
        *(replace(arm, most=1) for arm in others if full),
    ]


def _in_both(arm: Arm) -> Arm:
    """Measured in the second feature space, too, which takes longer than many arms' training."""
    return replace(arm, overrides=(*arm.overrides, f"evaluation.also=[{_ALSO}]"))


def _claims(width: str) -> list[Claim]:
    best = f"{width}, trunk 50%, K = 5"
    return [
        Claim(
            f"{width}: five students after half a trunk beat one student at equal images in all",
            below("fid", best, f"{width}, one student"),
        ),
        Claim(
            f"{width}: they beat one student that trains as long",
            below("fid", best, f"{width}, one student, as long as trunk 50%, K = 5"),
        ),
        Claim(f"{width}: they beat five students from scratch", below("fid", best, f"{width}, K = 5 from scratch")),
        Claim(
            f"{width}: carrying everything over beats beginning it afresh", below("fid", best, f"{best}, all afresh")
        ),
    ]


_COLUMNS = ("fid", f"{_ALSO}/fid", "precision", "recall", "agreement", "images", "longest", "cpu_seconds")

SHARED_TRUNK = Experiment(
    name="shared-trunk",
    title="Digits: students that branch off from a trunk",
    arms=tuple(arm for width in _WIDTHS for arm in _arms(width)),
    claims=tuple(claim for width in _WIDTHS for claim in _claims(width)),
    columns=_COLUMNS,
)

_LONG = _Width("full width", 3 * 28_800)
SHARED_TRUNK_LONG = Experiment(
    name="shared-trunk-long",
    title="Digits: students that branch off from a trunk, three times as long",
    arms=(_LONG.one(), _LONG.branches(5, 50), _LONG.as_long_as(5, 50)),
    claims=tuple(_claims("full width")[:2]),
    columns=tuple(column for column in _COLUMNS if not column.startswith(_ALSO)),
)
