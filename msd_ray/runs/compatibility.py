"""Whether the parts of a recipe fit each other and the data, and what follows from them together."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from itertools import takewhile

from msd_ray.codecs import IDENTITY, load_codec
from msd_ray.conditions import Conditions, ConditionsConfig
from msd_ray.conditions.kinds import OPEN
from msd_ray.data import DataSet
from msd_ray.diffusion import Masked, Noise
from msd_ray.ensemble import Sampling
from msd_ray.ensemble.sampling import UNMASK
from msd_ray.errors import UserError, one_line
from msd_ray.evaluation import features_name
from msd_ray.networks import (
    KINDS,
    Adapter,
    DenoiserSpec,
    GaussianMixtureConfig,
    Kind,
    PictureUNetConfig,
    StudentSize,
)
from msd_ray.networks.shapes import shapes_only
from msd_ray.objectives import Needs, Nets, objective_class
from msd_ray.own_code import is_own
from msd_ray.recipes import Recipe
from msd_ray.teachers import TeacherSource
from msd_ray.teachers.prompted import prompted
from msd_ray.teachers.sources import load_source


def teachers_sampling(recipe: Recipe) -> Sampling:
    """How the teacher makes samples; students that are denoisers as it is do so without churn."""
    if recipe.codec.of_tokens:
        return Sampling(UNMASK, recipe.teacher.steps, recipe.noise)
    churn = recipe.teacher.churn
    return Sampling("heun", recipe.teacher.steps, recipe.noise, churn if churn.amount else None)


def without_imports(recipe: Recipe) -> Recipe:
    """The recipe with a built-in method in place of each of the user's own: who owns what, for how many images and in
    which directories does not depend on it, and nothing is imported because a file says so."""
    other = "dm" if recipe.partition.timesteps == 1 or recipe.noise.steps != 1 else "o2mkd"
    stages = {
        name: replace(stage, objective=other, options={}) if is_own(stage.objective) else stage
        for name, stage in recipe.stages.items()
    }
    return replace(recipe, stages=stages)


def needs_of(recipe: Recipe, name: str) -> Needs:
    """Of the objective of stage `name`. Raises UserError where its options are not the objective's, or it cannot train
    what it needs."""
    stage = recipe.stages[name]
    try:
        objective = objective_class(stage.objective)(noise=recipe.noise, **stage.options)
    except (TypeError, ValueError) as error:
        raise UserError(f"stages.{name}.options do not fit {stage.objective}: {error}") from None
    needs: Needs = objective.needs
    if (needs.fake or needs.head) and not hasattr(objective, "fake_loss"):
        raise UserError(f"stages.{name}: {stage.objective} has no fake_loss; write it, or Needs(fake=False, head=None)")
    return needs


def judged_networks(recipe: Recipe) -> list[str]:
    """The pretrained networks whose features discriminators judge. Raises UserError as `needs_of`."""
    return sorted({needs_of(recipe, name).pretrained for name in recipe.stages} - {""})


def spelled_out(recipe: Recipe, needs: dict[str, Needs]) -> Recipe:
    """With each method's own values where the recipe leaves them to it, so that what is kept of a run says them all.

    Raises UserError where a stage is too short for its method.
    """
    stages = {}
    for name, stage in recipe.stages.items():
        try:
            stages[name] = replace(stage, **vars(stage.optimization(needs[name].optimization)))
        except ValueError as error:
            raise UserError(f"stages.{name}: {error}") from None
    for name in shared_by_default(recipe, needs):
        stages[name] = replace(stages[name], shared=True)
    stages = {name: replace(s, shared=False) if s.shared == "auto" else s for name, s in stages.items()}
    return replace(recipe, stages=stages)


def shared_by_default(recipe: Recipe, needs: dict[str, Needs]) -> list[str]:
    """The stages that are shared where the recipe leaves it open: the first ones that make a denoiser. There every
    student learns to be the teacher, and more images are worth more than fewer conditions. Not the last stage, which
    makes the students differ, nor any where they differ in size or in noise levels."""
    sizes = {replace(size, adapter=None) for size in (recipe.student, *recipe.students.values())}
    partition = recipe.partition
    if partition.k == 1 or partition.timesteps > 1 or len(sizes) > 1:
        return []
    first = takewhile(lambda name: needs[name].makes == "denoiser" and recipe.stages[name].shared == "auto", needs)
    return list(first)[: len(needs) - 1]


def refuse_short_stages(recipe: Recipe, needs: dict[str, Needs]) -> None:
    """Raises UserError for a stage that ends before its method's whole loss takes part."""
    for name, stage in recipe.stages.items():
        if stage.images <= (begin := needs[name].complete_from):
            raise UserError(
                f"stages.{name}: {stage.objective} is complete only after {begin} images, and a student sees "
                f"{stage.images} here; train longer, or set stages.{name}.options so that it is sooner"
            )


def sampling_of(recipe: Recipe, needs: dict[str, Needs]) -> Sampling:
    """Follows from what the last stage makes. Raises UserError where the recipe asks for something else."""
    if recipe.training.anchors == "random" and len(recipe.noise.step_levels) == 1:
        raise UserError("training.anchors: these students have no further steps; set noise.steps to at least 2")
    name, last = list(needs.items())[-1]
    objective, timesteps = recipe.stages[name].objective, recipe.partition.timesteps
    if last.makes == "generator":
        steps = len(recipe.noise.step_levels)
        if timesteps > 1 and steps == 1:
            raise UserError(
                f"partition.timesteps: {objective} makes one-step students, which cannot share the timesteps; with "
                "noise.steps they divide the steps among them"
            )
        if timesteps > steps:
            raise UserError(f"partition.timesteps ({timesteps}) above noise.steps ({steps}): some are never asked")
        return Sampling.of_generators(recipe.noise)
    where = f"stages.{name}.options.steps" if last.ddim_steps else "teacher.steps"
    if recipe.noise.steps != 1:
        raise UserError(
            f"noise.steps: {objective} (stages.{name}) makes students that are asked at every noise level; leave it "
            f"out, and set {where}"
        )
    if objective in ("pd", "rdd"):
        raise UserError(
            f"stages.{name}: {objective} ends in one step: let a stage of {objective} follow with options.steps=1 and "
            f"options.teacher=before"
        )
    if objective == "tsm" and timesteps == 1:
        raise UserError(
            f"stages.{name}: tsm alone makes no one-step generator; let a stage such as dm follow, or take o2mkd"
        )
    if last.ddim_steps and timesteps > 1:
        raise UserError(f"partition.timesteps: {objective} trains each student for all of its steps; leave it out")
    sampling = replace(teachers_sampling(recipe), churn=None)
    if last.ddim_steps:
        sampling = Sampling("ddim", last.ddim_steps, recipe.noise, guidance=last.guidance)
    if problem := sampling.problem():
        raise UserError(f"{where}, in which these students make a sample: {problem}")
    if timesteps > sampling.steps:
        raise UserError(
            f"partition.timesteps ({timesteps}) above teacher.steps ({sampling.steps}): some are never asked"
        )
    return sampling


def check_adapters(recipe: Recipe, source: TeacherSource | None, needs: Mapping[str, Needs]) -> None:
    """Raises UserError where students cannot share frozen weights under their adapters, or a fake score cannot have its
    own."""
    sizes = {"student": recipe.student} | {f"students.{i}": size for i, size in recipe.students.items()}
    for name, size in sizes.items():
        _check_fakes(f"{name}.fake_adapter", size, recipe, needs)
        if _adapters_of(size) and recipe.network.cut(replace(size, begins="noise")) != recipe.network:
            raise UserError(
                f"{name}.adapter: adapters change no sizes; leave channel_factor, multipliers and blocks of {name} out"
            )
    if not any(map(_adapters_of, sizes.values())):
        return
    groups = max(stage.groups for stage in recipe.stages.values())
    if groups > 1:
        raise UserError(f"student.adapter: students of {groups} trunks share no weights; write true for `shared`")
    if recipe.init:
        raise UserError("student.adapter: adapters begin at the teacher or at a shared stage; leave `init` out")
    if not groups and source and (source.spec is None or source.spec.network != recipe.network):
        raise UserError(
            f"student.adapter: {recipe.teacher.origin} gives no weights of the recipe's network for adapters to "
            "change; let a shared stage come first, or leave it out"
        )


def _check_fakes(name: str, size: StudentSize, recipe: Recipe, needs: Mapping[str, Needs]) -> None:
    """Raises UserError where a stage would give the fake score weights that its own adapters cannot have."""
    if not isinstance(size.fake_adapter, Adapter):
        return
    before = [stage for stage, of_stage in needs.items() if of_stage.makes == "denoiser"]
    if before and size.fake_adapter != size.adapter:
        raise UserError(f"{name}: after the stage {before[0]} the fake score begins as the student; write same or none")
    if not size.adapter and any(stage.groups for stage in recipe.stages.values()):
        raise UserError(f"{name}: there is no base for it after shared stages, but under a student's own adapter")


def _adapters_of(size: StudentSize) -> list[Adapter]:
    return [adapter for adapter in (size.adapter, size.fake_adapter) if isinstance(adapter, Adapter)]


def check_ranks(teacher: DenoiserSpec, sizes: Iterable[StudentSize]) -> None:
    """Raises UserError for adapters that hold as much as the weights that they change."""
    for adapter in [adapter for size in sizes for adapter in _adapters_of(size)]:
        own, all_of_it = teacher.own_parameters(adapter), teacher.parameters()
        if own >= all_of_it:
            raise UserError(
                f"student.adapter.rank: adapters of rank {adapter.rank} have {own:,} parameters, all weights of a "
                f"student {all_of_it:,}; take a lower rank, or leave the adapter out"
            )


def teacher_of(recipe: Recipe, data: DataSet, conditions: Conditions, brought: DenoiserSpec | None) -> DenoiserSpec:
    """The teacher that students are cut from; preconditioned as the one that is brought, where one is. Raises UserError
    where the network's configuration makes no sense for the data, or for the form of their prompts."""
    if misfit := recipe.network.misfit(data.shape):
        raise UserError(misfit)
    for network in (recipe.network, *([brought.network] if brought else [])):
        _refuse_other_prompts(network, recipe.conditions)
    spec = DenoiserSpec(recipe.network, data.shape, conditions.width, recipe.noise.sigma_data)
    if brought:
        return replace(spec, sigma_data=brought.sigma_data, preconditioning=brought.preconditioning)
    return replace(spec, preconditioning=Masked()) if recipe.codec.of_tokens else spec


def _refuse_other_prompts(network: Kind, config: ConditionsConfig) -> None:
    """Raises UserError where the network takes prompts in another form than that in which they come."""
    comes, takes = config.options.get("embedder", "") if config.kind in OPEN else "", getattr(network, "takes", "")
    if takes and comes != takes:
        raise UserError(
            f"network: {network.kind} takes prompts as conditions.options.embedder={takes} makes them, not "
            f"{comes or config.kind}"
        )
    of_tokens = {getattr(kind, "takes", "") for kind in KINDS.values()} - {""}
    if comes in of_tokens and not takes and not is_own(network.kind):
        raise UserError(
            f"network: {network.kind} takes one vector of a prompt, not what {comes} makes; write "
            f"conditions.options.embedder=clip"
        )


def source_of(recipe: Recipe, data: DataSet, conditions: Conditions, needs: dict[str, Needs]) -> TeacherSource | None:
    """Of a teacher that is not trained here. Raises UserError where it does not fit the data or a stage."""
    source = load_source(recipe.teacher.source, recipe.teacher.options)
    name = recipe.teacher.origin
    if source is None:
        return None
    if (there := tuple(source.sample_shape)) != data.shape:
        raise UserError(
            f"teacher.source: {name} makes samples of shape {list(there)}, the data have {list(data.shape)}; set "
            f"data.options to what the teacher saw (size, preprocessing, channels), or choose other data"
        )
    if source.classes != conditions.width:
        raise UserError(
            f"teacher.source: {name} knows {source.classes} conditions, the data have {conditions.width}; "
            f"choose data of the teacher's classes"
        )
    if source.spec:
        _check_noise(recipe.noise, source.spec)
    if not source.spec and (blind := [stage for stage in needs if needs[stage].encoder]):
        raise UserError(
            f"stages.{blind[0]}: {recipe.stages[blind[0]].objective} looks into the teacher, and {name} has no `spec`"
        )
    if not conditions.is_open and recipe.teacher.guidance != 1:
        raise UserError("teacher.guidance: only teachers of prompts are guided; write teacher.guidance=1")
    told = [stage for stage, n in needs.items() if n.encoder and n.fake and n.teacher == "none"]
    if told and recipe.teacher.guidance != 1:
        raise UserError(
            f"stages.{told[0]}: {recipe.stages[told[0]].objective} asks the teacher without guidance; write "
            "teacher.guidance=1"
        )
    return prompted(source, recipe.conditions, recipe.teacher.guidance) if conditions.is_open else source


def _check_noise(noise: Noise, teacher: DenoiserSpec) -> None:
    """Raises UserError where the recipe asks the teacher at noise levels that it was not trained on."""
    low, high = teacher.preconditioning.span
    if not low <= noise.sigma_min < max(noise.sigma_max, noise.sigma_init) <= high:
        lowest, highest = max(noise.sigma_min, low), min(noise.sigma_max, high)
        raise UserError(
            f"noise: the teacher knows noise levels from {low:g} to {high:g}; write noise.sigma_min={lowest:g} "
            f"noise.sigma_max={highest:g} noise.sigma_init={min(noise.sigma_init, high):g}"
        )


def check_experts(recipe: Recipe) -> None:
    """Raises UserError where students of Gaussian experts have another method than theirs, or others have it."""
    sizes = {"student": recipe.student} | {f"students.{i}": size for i, size in recipe.students.items()}
    for name, size in sizes.items():
        if size.experts and not isinstance(recipe.network.cut(size), GaussianMixtureConfig):
            raise UserError(f"{name}.experts: a teacher of kind {recipe.network.kind} cannot be cut into experts")
        for stage, config in recipe.stages.items():
            if config.objective == "vdd" and not size.experts:
                raise UserError(f"stages.{stage}: vdd trains students of Gaussian experts; write {name}.experts=8")
            if config.objective != "vdd" and size.experts:
                raise UserError(f"{name}.experts: {config.objective} trains no mixture of experts; write null")


def check_begins(recipe: Recipe, needs: Mapping[str, Needs]) -> None:
    """Raises UserError where students are to begin with a picture, and see none, or are asked at every noise level."""
    sizes = {"student": recipe.student} | {f"students.{i}": size for i, size in recipe.students.items()}
    last = list(needs)[-1]
    if getattr(recipe.network, "begins", "noise") != "noise":
        raise UserError("network.begins: teachers begin with noise; write student.begins=picture")
    for name in [name for name, size in sizes.items() if size.begins == "picture"]:
        if not isinstance(recipe.network, PictureUNetConfig):
            raise UserError(f"{name}.begins: students of kind {recipe.network.kind} see no picture; write noise")
        if needs[last].makes == "denoiser":
            objective = recipe.stages[last].objective
            raise UserError(f"{name}.begins: what {objective} makes (stages.{last}) begins with noise; write noise")


def check_codec(recipe: Recipe, data: DataSet) -> None:
    """Raises UserError where the recipe's codec cannot be had, or makes no pictures of the data's samples."""
    kind, codec = recipe.codec.kind, load_codec(recipe.codec)
    try:
        shape = codec.picture_shape(data.shape)
    except Exception as error:  # whatever the user's module does
        raise UserError(f"codec.kind: {kind} does not fit the data: {one_line(error)}") from None
    if shape is not None and not IDENTITY.picture_shape(tuple(shape)):
        raise UserError(f"codec.kind: {kind} makes pictures of shape {list(shape)}, neither [1, H, W] nor [3, H, W]")


def check_pictures(recipe: Recipe, data: DataSet, needs: dict[str, Needs]) -> None:
    """Raises UserError where a discriminator is to judge pictures, and the data are none."""
    for name, needed in needs.items():
        if needed.pretrained and not IDENTITY.picture_shape(data.shape):
            raise UserError(
                f"stages.{name}: {needed.pretrained} sees grey or RGB images, and the data have the shape "
                f"{list(data.shape)}; set stages.{name}.options.features=teacher"
            )


def refuse_minimised(recipe: Recipe, data: DataSet, needs: dict[str, Needs]) -> None:
    """Raises UserError where a loss is the distance that the table would report."""
    codec = load_codec(recipe.codec)
    reported = {features_name(name, data.shape, codec) for name in recipe.evaluation.spaces}
    for name, needed in needs.items():
        if same := reported.intersection(needed.minimised):
            raise UserError(
                f"stages.{name}: {recipe.stages[name].objective} minimises the Frechet distance in the features "
                f"{same.pop()}, in which the table reports it; choose other features for one of them "
                f"(evaluation.features, evaluation.also)"
            )


def student_of(
    recipe: Recipe, teacher: DenoiserSpec, looked_into: DenoiserSpec | None, size: StudentSize, needs: Collection[Needs]
) -> DenoiserSpec:
    """A student of that size. looked_into: the teacher that objectives look into. Raises UserError where it, its
    teacher or a discriminator on it does not fit the data."""
    try:
        student = replace(teacher, network=recipe.network.cut(size))
        if any(n.boundary for n in needs):
            student = replace(student, sigma_min=recipe.noise.sigma_min)
        with shapes_only():
            encoder = looked_into.build() if looked_into else None
            nets = Nets(student.build(), student.build(), encoder=encoder)
            for make in (n.head for n in needs):
                if make is not None:
                    make(nets)
    except ValueError as error:
        raise UserError(f"the recipe's network does not fit its data: {error}") from None
    return student
