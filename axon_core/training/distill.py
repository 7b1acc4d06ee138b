"""Few-step students of CoarseDiff and of FineDiff (progressive distillation; Salimans and Ho, ICLR 2022).

A student has its teacher's network and starts with its weights, but is evaluated at a few fixed times only. At each it
learns the prediction of x0 with which one deterministic step lands where its teacher's walk of several such steps lands
from the same state, down to the student's next time; at the last, that is the teacher's x0.

At m = 1 the bridge's state is F(x) and tells nothing of the noise to come. What is learned there is the mean over it: a
bridge's student of one step answers for the mean of its teacher's samples, one of two or more draws samples.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import nn

from axon_core.config import ModelConfig
from axon_core.diffusion import bridge, gaussian
from axon_core.diffusion.sampling import Denoiser, SeededNoise
from axon_core.model import AxonModel
from axon_core.training.draws import Draws
from axon_core.training.settings import StageSettings
from axon_core.training.stages import STAGES, VARIANTS, Batch, Loss, Stage, drop_views, offered_hint, weighted_mean
from axon_core.walks import Quality, coarse_denoiser, fine_denoiser, walk_coarse, walk_fine

Stride = Callable[[torch.Tensor, torch.Tensor, float, float], torch.Tensor]  # (x0, x, time, next) -> x at the next time


def landing(denoise: Denoiser, stride: Stride, x: torch.Tensor, times: Sequence[float]) -> torch.Tensor:
    """The x0 with which one stride from times[0] to times[-1] lands where a stride at each of the times lands.

    Args:
        denoise: the teacher, (x, time) -> prediction of x0.
        stride: a deterministic sampling step; affine in x0, which is what makes it invertible.
        x: (B, 1, n, n, n) state at times[0].
        times: decreasing, two or more.
    """
    state = x
    for time, after in pairwise(times):
        state = stride(denoise(state, time), state, time, after)
    first, last = times[0], times[-1]
    offset = stride(torch.zeros_like(x), x, first, last)
    return (state - offset) / (stride(torch.ones_like(x), x, first, last) - offset)


class Student(Stage):
    """What both students have in common.

    Attributes:
        model: the networks of the run, the teacher's among them; all stay as they are.
        student: the same networks, the student's in the teacher's places, and its times in the config.
        trained: the student's networks by name.
        times: at which the student is evaluated.
    """

    parts: tuple[str, ...] = ()  # attributes of the model that hold the teacher's networks, `learns` among them

    def __init__(self, model: AxonModel, settings: StageSettings) -> None:
        super().__init__(model, settings)
        teacher = self.networks(model)
        self.trained: nn.ModuleDict = copy.deepcopy(teacher)
        teacher.requires_grad_(False)
        self.student = copy.copy(model)
        self.student.config = self.distilled(model.config, settings.student_steps)
        vars(self.student).update(self.trained.items())
        self.substeps = math.ceil(settings.teacher_steps / settings.student_steps)

    @classmethod
    def networks(cls, model: AxonModel) -> nn.ModuleDict:
        """Those of the model that are the teacher's, or the student's in a distilled one."""
        return nn.ModuleDict({name: getattr(model, name) for name in cls.parts})

    @staticmethod
    def distilled(config: ModelConfig, steps: int) -> ModelConfig:
        """The config of a model whose network is a student of so many steps."""
        raise NotImplementedError

    @staticmethod
    def times_of(config: ModelConfig) -> tuple[float, ...]:
        """The times that such a config tells."""
        raise NotImplementedError

    @property
    def times(self) -> tuple[float, ...]:
        return self.times_of(self.student.config)

    def stretch(self, draws: Draws) -> tuple[int, float, float]:
        """One of the student's steps, the same for all samples: its number, its time and the next, 0 after the last."""
        number = draws.integers(len(self.times), 1)[0]
        return number, self.times[number], (*self.times, 0)[number + 1]


class BridgeStudent(Student):
    """A bridge of a few steps, m = 1 among them, evenly spaced: the first jump decides how much spread is drawn.

    The squared error of x0 is weighed as in `stages.BridgeStage`.
    """

    learns = "coarse"
    parts = ("coarse",)
    needs = ("endpoint", "coarse")

    @staticmethod
    def distilled(config: ModelConfig, steps: int) -> ModelConfig:
        times = tuple(bridge.times(steps, rho=1.0))
        return dataclasses.replace(config, bridge=dataclasses.replace(config.bridge, times=times))

    @staticmethod
    def times_of(config: ModelConfig) -> tuple[float, ...]:
        return config.bridge.times

    def forward(self, batch: Batch, draws: Draws) -> Loss:
        films, x0, weight = batch
        c = self.model.config.bridge
        _, first, last = self.stretch(draws)
        m = torch.full((len(x0), 1, 1, 1, 1), first, device=x0.device)
        noise = draws.noise(x0)
        with torch.no_grad():
            y = self.model.endpoint(drop_views(films, draws)).float()
            x = bridge.forward(x0, y, m, c.s, noise)

            def stride(x0: torch.Tensor, x: torch.Tensor, m: float, r: float) -> torch.Tensor:
                return bridge.step(x0, y, x, m, r, c.s, 0.0, noise)

            times = [last + (first - last) * part for part in bridge.times(self.substeps)] + [last]
            target = landing(coarse_denoiser(self.model, y), stride, x, times)
        error = self.student.bridge_x0(x, m, y).float() - target
        if c.sigma:
            error = error / bridge.preconditioning(m, c.s, c.sigma)[1]
        return Loss(weighted_mean(error**2, weight), m.flatten())

    def volume(self, batch: Batch, draws: Draws) -> torch.Tensor:
        y, noise = self.model.endpoint(batch[0][:, :1]).float(), SeededNoise(draws.seeds())
        return walk_coarse(self.student, y, self.times, noise)


class FineStudent(Student):
    """FineDiff in a few steps; prior and ControlNet learn together.

    At its first time the state is the `fine_start` of the model, as in use; at the others the noised truth. The squared
    error of x0 is weighed by SNR + 1, which makes it that of v.
    """

    learns = "control"
    parts = ("prior", "control")
    needs = ("endpoint", "prior", "control")

    @staticmethod
    def distilled(config: ModelConfig, steps: int) -> ModelConfig:
        times = tuple(gaussian.times(steps, 1.0 if config.diffusion.from_noise else Quality().fine_start))
        return dataclasses.replace(config, diffusion=dataclasses.replace(config.diffusion, times=times))

    @staticmethod
    def times_of(config: ModelConfig) -> tuple[float, ...]:
        return config.diffusion.times

    def forward(self, batch: Batch, draws: Draws) -> Loss:
        films, x0, weight = batch
        number, first, last = self.stretch(draws)
        alphas = [1.0, *self.model.alphas[1:].tolist()]  # the way ends at x0

        def stride(x0: torch.Tensor, x: torch.Tensor, t: float, r: float) -> torch.Tensor:
            return gaussian.step(x0, x, alphas[int(t)], alphas[int(r)], 0.0, torch.zeros_like(x))

        alpha = torch.tensor(alphas[int(first)], device=x0.device)
        hint = offered_hint(self.model, films, draws)
        noise = draws.noise(x0)
        x = gaussian.add_noise(x0, alpha, noise) if number else self.model.fine_start(hint, int(first), noise)
        times = [last + t for t in gaussian.times(self.substeps, total=int(first - last) + 1)] + [last]
        with torch.no_grad():
            target = landing(fine_denoiser(self.model, hint), stride, x, times)
        error = fine_denoiser(self.student, hint)(x, first) - target
        time = torch.full((len(x0),), first / len(alphas), device=x0.device)
        return Loss(weighted_mean(error**2, weight) / (1 - alpha), time)

    def volume(self, batch: Batch, draws: Draws) -> torch.Tensor:
        films = batch[0][:, :1]
        hint = self.model.fine_hint(films, self.model.endpoint(films).float())
        return walk_fine(self.student, hint, self.times, draws.noise)


STUDENTS: dict[str, type[Student]] = {"distill-coarse": BridgeStudent, "distill-fine": FineStudent}
EVERY: dict[str, type[Stage]] = {**STAGES, **VARIANTS, **STUDENTS}
