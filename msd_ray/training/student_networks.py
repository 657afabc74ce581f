"""The networks of one student and their optimizers, from stage to stage."""

import copy
import re
from collections.abc import Collection
from dataclasses import replace

import torch
from torch import Tensor, nn

from msd_ray.diffusion import EDMDenoiser
from msd_ray.networks import PRETRAINED
from msd_ray.networks.adapters import begin_as, copied, load_own, own_parameters, own_tensors
from msd_ray.objectives import Nets
from msd_ray.rng import derived_seed
from msd_ray.training.config import StageConfig
from msd_ray.training.ema import update
from msd_ray.training.optimizer import OptimizerStep
from msd_ray.training.pieces import here
from msd_ray.training.process_group import ProcessGroup
from msd_ray.training.sharding import Sharding, divides, without_memory
from msd_ray.training.state import Tensors, laid_as, tensors_of
from msd_ray.training.student_spec import Extras, StudentSpec

HEAD = "head."
"""What begins so in the names of the state is a discriminator."""
_BEFORE = "before the first stage"


class StudentNetworks:
    """Everything of a student that a checkpoint keeps as tensors.

    nets: what its objective computes with. ema: the average of its generator's weights. stage: the present one, empty
    before the first. Of that stage: config; objective; optimization, as the recipe or the method has it; and the
    optimizers, fake_descent being None where neither a fake score nor a discriminator trains.
    """

    def __init__(
        self,
        generator: EDMDenoiser,
        fake: EDMDenoiser | None,
        spec: StudentSpec,
        extras: Extras,
        device: torch.device,
        group: ProcessGroup,
    ) -> None:
        """generator: with the weights that it starts from; in the host's memory where the group divides them. fake: the
        fake score; if None one as the generator, which starts from the same weights unless extras say otherwise."""
        self._spec, self._device, self._group = spec, device, group
        self._sharding = Sharding(spec.training, group, device) if divides(spec.training, group) else None
        self._form = without_memory(generator) if self._sharding else None
        self.ema = self._placed(copied(generator).requires_grad_(False))
        fake = fake or copied(generator)
        self._blank = next(generator.parameters()).is_meta
        if extras.fake is not None and not self._blank:
            load_own(fake, extras.fake)
        self.nets = Nets(self._placed(generator), self._placed(fake), encoder=extras.encoder)
        self._heads: dict[str, nn.Module] = {}
        begins_again = any("fake_score" in spec.begins_afresh(stage) for stage in spec.stages)
        self._start_of_fake = extras.fake if begins_again else None  # a copy of a large network takes gigabytes
        if begins_again and (spec.adapter or spec.adapter_of_fake):
            self._start_of_fake = {name: value.clone() for name, value in own_tensors(fake).items()}
        self.generator_descent: OptimizerStep
        self.fake_descent: OptimizerStep | None
        self.stage = ""

    def enter(self, stage: str) -> None:
        """Begins a stage: its objective, a discriminator and a target if it needs them, its optimizers. What the spec
        says begins afresh, unless the student is about to be loaded."""
        afresh = self._spec.begins_afresh(stage) if self.stage else ("optimizers",)
        before = None if "optimizers" in afresh else (self.generator_descent, self.fake_descent, self.nets)
        self._begin_afresh(afresh, self._spec.stages[stage].objective)
        self.stage, self.config = stage, self._spec.stages[stage]
        self.objective = self._spec.objective(stage)
        needs = self.objective.needs
        self.optimization = self.config.optimization(needs.optimization)
        kept = needs.memory(self.nets, self._spec.denoiser.sample_shape) if needs.memory else {}
        memory = {name: torch.ones(shape, device=self._device) for name, shape in kept.items()}
        target = None if needs.target_decay is None else self._target()
        pretrained = PRETRAINED[needs.pretrained]().to(self._device) if needs.pretrained else None
        head = self._head(self.config.objective)
        self.nets = replace(self.nets, head=head, memory=memory, target=target, pretrained=pretrained)
        frozen = re.compile("|".join(needs.frozen) or "(?!)")
        for name, p in own_parameters(self.nets.generator):
            p.requires_grad_(not frozen.search(name))
        generator = [p for p in self.nets.generator.parameters() if p.requires_grad]
        fake = [p for _, p in own_parameters(self.nets.fake)] if needs.fake else []
        if self.nets.head is not None:
            fake += self.nets.head.parameters()
        lr, fake_lr, clip = self.config.generator_lr, self.config.fake_lr, self.optimization.fake_clip_value
        self.generator_descent = self._descent(generator, lr)
        self.fake_descent = self._descent(fake, fake_lr, clip) if fake else None
        if before:
            self._go_on(*before)

    def _placed(self, network: EDMDenoiser) -> EDMDenoiser:
        """The network itself, or what this process keeps of it."""
        return self._sharding.divide(network) if self._sharding else network

    def _target(self) -> EDMDenoiser:
        """A copy of the generator."""
        if not self._sharding or not self._form:
            return copied(self.nets.generator).requires_grad_(False)
        target = self._sharding.divided_like(self._form).requires_grad_(False)
        load_own(target, own_tensors(self.nets.generator))
        return target

    def _descent(self, weights: list[nn.Parameter], lr: float, clip_value: float = 0.0) -> OptimizerStep:
        shards, state = self._spec.shards, self._spec.training.optimizer_state
        return OptimizerStep(weights, lr, self.optimization, clip_value, shards, self._group, state)

    def _go_on(self, generator: OptimizerStep, fake: OptimizerStep | None, nets: Nets) -> None:
        """Takes over what the same objective kept between its updates in the stage before."""
        for now, then in ((self.generator_descent, generator), (self.fake_descent, fake)):
            if now and then and [*map(id, now.parameters)] == [*map(id, then.parameters)]:
                now.optimizer.load(then.optimizer.tensors())
        self.nets.memory.update({name: nets.memory[name] for name in self.nets.memory if name in nets.memory})
        if self.nets.target and nets.target:
            load_own(self.nets.target, own_tensors(nets.target))

    def _begin_afresh(self, what: Collection[str], objective: str) -> None:
        """Takes these back to where they begin: the average and the fake score, a discriminator is made anew."""
        if "average" in what:
            load_own(self.ema, own_tensors(self.nets.generator))
        if "fake_score" in what:
            self._load_into(self.nets.fake, self._start_of_fake or own_tensors(self.nets.generator))
        if "discriminator" in what:
            self._heads.pop(objective, None)

    def leave(self) -> None:
        """Ends the stage, if there is one; after one that makes a denoiser the fake score starts from that."""
        if self.stage and self.objective.needs.makes == "denoiser":
            begin_as(self.nets.fake, self.nets.generator)

    def average(self, nimg: int) -> None:
        """Takes the generator, which has seen `nimg` images, into its averages."""
        nets, decay = self.nets, self.objective.needs.target_decay
        update(self.ema, nets.generator, self._spec.training.ema.decay(nimg, self.config.batch))
        if nets.target and decay is not None:
            update(nets.target, nets.generator, decay)

    def held(self) -> list[Tensor]:
        """All that lies on the device between two updates: weights, optimizers, memory."""
        nets = self.nets
        frozen = [nets.encoder, nets.pretrained]
        modules = [nets.generator, nets.fake, self.ema, nets.target, *frozen, *self._heads.values()]
        weights = [here(t) for m in modules if m for t in (*m.parameters(), *m.buffers())]
        return [*weights, *self.averages(), *nets.memory.values()]

    def averages(self) -> list[Tensor]:
        """The optimizers' state on the device."""
        return [t for descent in self._descents().values() for t in descent.optimizer.on_device()]

    def state(self) -> dict[str, Tensors]:
        """What a checkpoint keeps of them, as `State.tensors`. Where processes divide the weights, the first has them
        whole, in the host's memory, and the others have nothing."""
        state = {name: own_tensors(module) for name, module in self._modules().items()}
        state |= {f"{HEAD}{objective}": tensors_of(head) for objective, head in self._heads.items()}
        if self._sharding:
            state = {name: self._sharding.gathered(tensors) for name, tensors in state.items()}
        for name, descent in self._descents().items():
            state[name] = descent.optimizer.tensors()
            if self._sharding:
                state[name] = self._sharding.gathered_averages(state[name], descent.parameters)
        return state | ({"memory": dict(self.nets.memory)} if self.nets.memory else {})

    def load(self, stage: str, state: dict[str, Tensors]) -> None:
        """The inverse of `state`, taken in that stage; empty before the first. Networks that have no weights yet take
        those of the state, without a copy."""
        self.stage, self._heads, self.nets = "", {}, replace(self.nets, target=None)
        self._load_modules(state)
        for name, tensors in state.items():
            if name.startswith(HEAD) and (head := self._head(name.removeprefix(HEAD))):
                self._load_into(head, tensors)
        if stage:
            self.enter(stage)
            for name, descent in self._descents().items():
                known = state[name]
                if self._sharding:
                    known = self._sharding.own_averages(known, descent.parameters)
                descent.optimizer.load(known)
            self.nets.memory.update({k: v.clone().to(self._device) for k, v in state.get("memory", {}).items()})
        if self.nets.target:
            self._load_into(self.nets.target, state["target"])

    def whole(self, state: dict[str, Tensors]) -> "StudentNetworks":
        """Of networks that are divided: these, with the average and the fake score whole, as they are in `state`. Only
        to compute with."""
        assert self._form
        one = copy.copy(self)
        one.ema, fake = (copy.deepcopy(self._form).to_empty(device=self._device) for _ in range(2))
        one.ema.load_state_dict(state["ema"])
        fake.load_state_dict(state["fake"])
        one.nets = replace(self.nets, fake=fake)
        return one

    def _descents(self) -> dict[str, OptimizerStep]:
        """By their names in the state."""
        if not self.stage:
            return {}
        both = {"generator_optimizer": self.generator_descent, "fake_optimizer": self.fake_descent}
        return {name: descent for name, descent in both.items() if descent}

    def _load_into(self, module: nn.Module, tensors: Tensors) -> None:
        """Takes whole tensors, or those of another network that is divided alike."""
        load_own(module, self._sharding.pieces(tensors, module.state_dict()) if self._sharding else tensors)

    def _load_modules(self, state: dict[str, Tensors]) -> None:
        for name, module in self._modules().items():
            tensors = state[name]
            if self._blank:
                own = module.state_dict()
                tensors = {key: laid_as(value.to(self._device), own[key]) for key, value in tensors.items()}
            if self._sharding:
                self._load_into(module, tensors)
            else:
                load_own(module, tensors, assign=self._blank)
        self._blank = False

    def go_on_from(self, stage: StageConfig, state: dict[str, Tensors]) -> None:
        """Enters the first stage as if it came after `stage`, in which a student of another run ended in that state."""
        own, (first, config) = self._spec, next(iter(self._spec.stages.items()))
        heads = [f"{HEAD}{objective}" for objective in {config.objective, stage.objective}]
        known = {name: part for name, part in state.items() if not name.startswith(HEAD) or name in heads}
        self._spec = replace(own, stages={_BEFORE: stage, **own.stages}, shards=1)
        self.load(_BEFORE, known)
        self._spec = own
        self.leave()
        self.enter(first)

    def _modules(self) -> dict[str, nn.Module]:
        """By their names in the state; discriminators have names of their own."""
        named = {"generator": self.nets.generator, "ema": self.ema, "fake": self.nets.fake, "target": self.nets.target}
        return {name: module for name, module in named.items() if module}

    def _head(self, objective: str) -> nn.Module | None:
        """The discriminator of an objective; kept through stages that do not use it."""
        if objective not in self._heads:
            stage = next(name for name, config in self._spec.stages.items() if config.objective == objective)
            needs = self._spec.objective(stage).needs
            if needs.head is None:
                return None
            torch.manual_seed(derived_seed(self._spec.seed, self._spec.index, "head"))
            head = needs.head(self.nets).to(self._device)
            if self._sharding and not needs.second_order:  # FSDP forgets a gradient's weights before its own gradient
                self._sharding.divide_head(head)
            self._heads[objective] = head
        return self._heads[objective]
