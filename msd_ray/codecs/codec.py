"""How samples become pictures. A new codec is a class with the methods of `Codec`, named in `CODECS`; or it lies in a
user's own module, and recipes name it as `module:Class`."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Protocol

from torch import Tensor

from msd_ray.codecs import levels
from msd_ray.codecs.levels import Levels
from msd_ray.codecs.vae import Vae
from msd_ray.errors import UserError, one_line
from msd_ray.own_code import imported, is_own, refuse_strange
from msd_ray.validation import made_of

Shape = tuple[int, ...]


class Codec(Protocol):
    """Turns samples as networks make them (pixels, latents, points) into pictures."""

    def picture_shape(self, sample_shape: Shape) -> Shape | None:
        """The shape of a sample's picture, [C, H, W] with C 1 or 3; None where such samples have none."""
        ...

    def to_pixels(self, x: Tensor) -> Tensor:
        """The pictures [B, C, H, W], float32 in [-1, 1], of samples [B, ...] that have some."""
        ...


@dataclass(frozen=True)
class Identity:
    """Samples that are grey or RGB pictures already. Others, such as points, have none."""

    def picture_shape(self, sample_shape: Shape) -> Shape | None:
        return sample_shape if len(sample_shape) == 3 and sample_shape[0] in (1, 3) else None

    def to_pixels(self, x: Tensor) -> Tensor:
        return x


IDENTITY = Identity()
CODECS: dict[str, type[Any]] = {"identity": Identity, "vae": Vae, levels.KIND: Levels}


@dataclass(frozen=True)
class CodecConfig:
    """kind: `identity` for images and points, `vae` for latents, `levels` for tokens, or module:Class. options: those
    of the class (docs/prompts.md has those of vae)."""

    kind: str = "identity"
    options: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def of_tokens(self) -> bool:
        """Whether samples are tokens, whose noise is masks."""
        return self.kind == levels.KIND

    def __post_init__(self) -> None:
        if self.kind not in CODECS and not is_own(self.kind):
            raise ValueError(f"there is no codec {self.kind!r}, only {', '.join(CODECS)}, or module:Class for your own")
        if self.kind in CODECS and (self.options or fields(CODECS[self.kind])):  # else it is right, without pydantic
            object.__setattr__(self, "options", asdict(made_of(CODECS[self.kind], self.options, "options")))

    def to_json(self) -> dict[str, Any]:
        """Empty for the identity, so that what is kept without a codec is as it was before there were any."""
        return {} if self == NO_CODEC else asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "CodecConfig":
        """The inverse of `to_json`, of what a directory has. Raises ValueError for anything else, and UserError for a
        user's own codec that this process may not import."""
        made = made_of(cls, raw)
        refuse_strange(made.kind, "codec", "the ensemble")
        return made


NO_CODEC = CodecConfig()


def load_codec(config: CodecConfig) -> Codec:
    """Raises UserError where it cannot be had."""
    make = CODECS.get(config.kind) or imported(config.kind, "codec.kind")
    try:
        codec: Codec = make(**config.options)
    except Exception as error:  # whatever the user's module does
        raise UserError(f"codec.kind: {config.kind} gives no codec: {one_line(error)}") from None
    if missing := [method for method in ("picture_shape", "to_pixels") if not hasattr(codec, method)]:
        raise UserError(f"codec.kind: what {config.kind} gives has no {missing[0]}")
    return codec


def pictures(codec: Codec, x: Tensor) -> Tensor:
    """The pictures of samples [N, n, ...], where these have some; the samples themselves otherwise."""
    if codec.picture_shape(tuple(x.shape[2:])) is None:
        return x
    seen = codec.to_pixels(x.flatten(0, 1))
    return seen.reshape(*x.shape[:2], *seen.shape[1:])
