"""Teachers in directories of diffusers: a network of one of the `CLASSES`, alone or in a pipeline.

Only its JSON files and safetensors are read, here and not by diffusers, which would also take pickles and code.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from msd_ray.diffusion import Stepped
from msd_ray.networks import DenoiserSpec, DiffusersDiTConfig, DiffusersPixArtConfig
from msd_ray.networks.patches import width_of
from msd_ray.networks.weights import from_chunks
from msd_ray.ranges import Sigma
from msd_ray.storage import LFS_POINTER, Store
from msd_ray.teachers.checkpoint import Checkpoint, check_weights
from msd_ray.teachers.diffusers_classes import CLASSES, ModelClass, class_name
from msd_ray.validation import made_of, shortened

PIPELINE, MODEL = "model_index.json", "config.json"
"""Which of them a directory has tells a pipeline from a model alone."""
WEIGHTS = "diffusion_pytorch_model"
_OF_DATA = {"in_channels", "out_channels", "sample_size", "num_train_timesteps", "norm_num_groups"}
_MOST_BYTES, _LARGEST, _MOST_CLASSES, _MOST_TOKENS = 1 << 20, 4096, 10**6, 1 << 16
_FLOWS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


@dataclass(frozen=True)
class DiffusersDirectory:
    """prediction, table: in place of what its scheduler says, such as of a model without one. sigma_data: of its
    data."""

    path: str
    prediction: Literal["", "epsilon", "v_prediction", "sample", "flow"] = ""
    table: dict[str, Any] | None = None
    sigma_data: Sigma = 0.5

    def read(self) -> Checkpoint:
        """Raises one of `DAMAGES`, with the reason, where the directory holds no such teacher. Executes nothing."""
        root, parts = Path(self.path), self._parts()
        config = _json(parts / MODEL)
        name = class_name(config)
        if name not in CLASSES:
            raise ValueError(f"its network is of the class {shortened(name)}, none of {', '.join(CLASSES)}")
        spec = _spec(CLASSES[name], config, self._stepped(), self.sigma_data)
        stored = {key: value for key, value in _tensors(parts) if key not in CLASSES[name].unused}
        parameters = sum(value.numel() for value in stored.values())
        weights = {f"network.model.{_today(key)}": value.float() for key, value in stored.items()}
        if isinstance(spec.network, DiffusersDiTConfig | DiffusersPixArtConfig):
            weights = _with_positions(weights, spec.network, spec.sample_shape)
        check_weights(spec, weights)
        return Checkpoint("diffusers", name, parameters, spec, weights, _licence(root))

    def _parts(self) -> Path:
        """The folder of its network."""
        root = Path(self.path)
        if not (root / PIPELINE).is_file():
            return root
        index = _json(root / PIPELINE)
        for component in ("unet", "transformer"):
            if component in index:
                library, name = index[component]
                if library != "diffusers":
                    raise ValueError(
                        f"its {component} {shortened(name)} is code of {shortened(library)}, not diffusers"
                    )
                return root / component
        raise ValueError(f"its {PIPELINE} names neither a unet nor a transformer")

    def _stepped(self) -> Stepped:
        """What it predicts at which noise levels; a scheduler's own way of sampling is left out."""
        scheduler = _scheduler(Path(self.path))
        if scheduler is None and not (self.prediction and self.table):
            raise ValueError("it has no scheduler: say teacher.options.prediction and teacher.options.table")
        prediction, table = (
            _process(scheduler or {}) if self.table is None else (_prediction(scheduler or {}), self.table)
        )
        described = {"kind": "stepped", "prediction": self.prediction or prediction, "table": table}
        return made_of(Stepped, described, "its scheduler")


def _scheduler(root: Path) -> dict[str, Any] | None:
    for place in (root / "scheduler" / "scheduler_config.json", root / "scheduler_config.json"):
        if place.is_file():
            return _json(place)
    return None


def _process(scheduler: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """What a network is to predict that this scheduler was made for, and the noise levels that it was trained at."""
    steps = scheduler.get("num_train_timesteps", 1000)
    if scheduler.get("_class_name") in _FLOWS:
        if scheduler.get("use_dynamic_shifting"):
            raise ValueError(
                "its scheduler's shift depends on the size of images (use_dynamic_shifting), which is not read; say "
                "teacher.options.table"
            )
        return "flow", {"schedule": "flow", "steps": steps, "shift": float(scheduler.get("shift", 1.0))}
    if scheduler.get("trained_betas") is not None:
        raise ValueError("its scheduler has betas of its own, which are not read; say teacher.options.table")
    return _prediction(scheduler), {
        "schedule": scheduler.get("beta_schedule", "linear"),
        "steps": steps,
        "beta_start": scheduler.get("beta_start", 0.0001),
        "beta_end": scheduler.get("beta_end", 0.02),
        "zero_terminal_snr": bool(scheduler.get("rescale_betas_zero_snr")),
    }


def _prediction(scheduler: Mapping[str, Any]) -> str:
    said = str(scheduler.get("prediction_type", "epsilon"))
    return "flow" if said == "flow_prediction" else said


def _spec(of: ModelClass, config: Mapping[str, Any], how: Stepped, sigma_data: float) -> DenoiserSpec:
    """Raises ValueError where the configuration asks for what our networks do not do, or for enormous sizes."""
    channels, size = _number(config, "in_channels", _LARGEST), _number(config, "sample_size", _LARGEST)
    classes = _number(config, of.counted, _MOST_CLASSES) if config.get(of.counted) else 0
    for key, wanted in of.fixed.items():
        if config.get(key, wanted) != wanted:
            raise ValueError(f"its {key} is {shortened(config[key])}, and only {wanted!r} is read")
    network = made_of(of.kind, {**_arguments(of, config), **_variances(of, config, channels)})
    if problem := of.misfit(config, network):
        raise ValueError(problem)
    return DenoiserSpec(network, (channels, size, size), classes, sigma_data, preconditioning=how)


def _variances(of: ModelClass, config: Mapping[str, Any], channels: int) -> dict[str, bool]:
    """Whether it predicts variances, where our kind of network can leave them out."""
    outputs = channels if config.get("out_channels") is None else config["out_channels"]
    can = "variances" in of.kind.__dataclass_fields__
    if outputs not in (channels, 2 * channels if can else channels):
        raise ValueError(f"its network gives {shortened(outputs)} channels for {channels}")
    return {"variances": outputs != channels} if can else {}


def _arguments(of: ModelClass, config: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the network; what else is in the file must be known, or be off."""
    own = set(of.kind.__dataclass_fields__) - {"kind", "variances"}
    known = {*own, *of.fixed, *of.also, of.counted, *_OF_DATA}
    strange = [key for key, value in config.items() if not key.startswith("_") and key not in known and value]
    if strange:
        raise ValueError(f"its {MODEL} has the key {shortened(strange[0])}, which is not known here")
    return {key: value for key, value in config.items() if key in own}


def _number(config: Mapping[str, Any], key: str, most: int) -> int:
    value = config.get(key)
    if type(value) is not int or not 1 <= value <= most:
        raise ValueError(f"its {key} is {shortened(value)}, not a number from 1 to {most}")
    return value


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Of one file, or of those that an index lists."""
    whole = [name for name in (f"{WEIGHTS}.safetensors", f"{WEIGHTS}.fp16.safetensors") if (folder / name).is_file()]
    index = folder / f"{WEIGHTS}.safetensors.index.json"
    if not whole and index.is_file():
        whole = sorted({str(name) for name in _json(index)["weight_map"].values()})
    if not whole:
        pickled = any(folder.glob(f"{WEIGHTS}*.bin"))
        why = "only pickled weights, which are not read; save it with safe_serialization=True" if pickled else "none"
        raise ValueError(f"it should have {WEIGHTS}.safetensors in {folder.name}, and has {why}")
    for name in whole[:1] if not index.is_file() else whole:
        if "/" in name or not name.endswith(".safetensors"):
            raise ValueError(f"its index names the file {shortened(name)}")
        _refuse_pointer(folder / name)
        yield from from_chunks(Store(str(folder)).read_chunks(name), str(folder / name)).items()


def _with_positions(
    weights: dict[str, Tensor], config: DiffusersDiTConfig | DiffusersPixArtConfig, sample_shape: tuple[int, ...]
) -> dict[str, Tensor]:
    """With the positions of a transformer's tokens, which follow from its shape and which diffusers does not keep."""
    width, tokens = width_of(config), (sample_shape[1] // config.patch_size) ** 2
    if tokens > _MOST_TOKENS or len(weights["network.model.pos_embed.proj.bias"]) != width:
        raise ValueError(
            f"its configuration asks for {tokens:,} tokens of {width:,} channels, which its weights are not"
        )
    return {"network.model.pos_embed.pos_embed": config.positions(sample_shape), **weights}


def _today(name: str) -> str:
    """The name of a tensor since diffusers 0.17."""
    return re.sub(r"(attentions\.\d+\.)(query|key|value|proj_attn)\.", lambda m: f"{m[1]}{_OLD_NAMES[m[2]]}.", name)


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ValueError(f"it has no {file.name} in {file.parent.name}")
    _refuse_pointer(file)
    if file.stat().st_size > _MOST_BYTES and not file.name.endswith("index.json"):
        raise ValueError(f"its {file.name} is too large to be a configuration")
    try:
        found = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its {file.name} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"its {file.name} is no mapping")
    return found


def _refuse_pointer(file: Path) -> None:
    with open(file, "rb") as opened:
        if opened.read(len(LFS_POINTER)) == LFS_POINTER:
            raise ValueError(f"its {file.name} is a pointer of git LFS; run `git lfs pull` where it came from")


def _licence(root: Path) -> str:
    """What its model card says; nothing where it has none."""
    card = root / "README.md"
    if not card.is_file():
        return ""
    with open(card, encoding="utf-8", errors="replace") as file:
        said = re.match(r"---\n(?:.*\n)*?license: *([^\n]{1,100})\n", file.read(4096))
    return said[1].strip() if said else ""
