"""AxonModel: the three stages behind one door, with their config and weights.

A model on disk is a folder with `model.safetensors` (all stages in half precision; the config, the trained stages and
the card's figures in its metadata), `model.safetensors.sha256` and a model card `README.md`.
Networks are built and their weights read when first used, so that the first preview need not wait for the last stage.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import nn

from axon_core import resources
from axon_core.config import ModelConfig, from_dict, load_preset
from axon_core.diffusion import bridge, gaussian
from axon_core.errors import ModelError
from axon_core.nets.encoder import FilmToVolume, GlobalEncoder
from axon_core.nets.rays import mean_of_repeated
from axon_core.nets.srnet import SRNet

if TYPE_CHECKING:
    from axon_core.diffusion.sampling import SeededNoise
    from axon_core.nets.unet import ControlNet3d, UNet3d

WEIGHTS = "model.safetensors"
PARTS = {  # stage -> attributes of AxonModel that hold its networks; where FineDiff is a bridge, see `AxonModel.parts`
    "endpoint": ("film_to_volume",),
    "coarse": ("coarse",),
    "fine": ("prior", "control"),
    "super-resolution": ("sr",),
}
FINE_BRIDGE = "fine_bridge"  # FineDiff's network where it is a bridge
Module = TypeVar("Module", bound=nn.Module)


class Hint(NamedTuple):
    """What steers FineDiff: (B, 1, n, n, n) in [-1, 1], and the films (B, V, p, p) for a global encoder, else None."""

    volume: torch.Tensor
    films: torch.Tensor | None = None


@dataclass(frozen=True)
class ModelCard:
    """What a user should know before trusting a model; travels inside the weights.

    Attributes:
        title: one line.
        licence: of the weights.
        data: what it was trained on.
        stages: trained stages, in order, among the keys of PARTS.
        default_stages: those whose result was better than the stage before on held-out cases.
        notes: honest limits.
    """

    title: str = ""
    licence: str = ""
    data: str = ""
    stages: tuple[str, ...] = ()
    default_stages: tuple[str, ...] = ()
    notes: str = ""


@dataclass(frozen=True)
class ModelInfo:
    """A model found on disk, without loading it."""

    name: str
    folder: Path
    config: ModelConfig
    card: ModelCard
    size_bytes: int
    sha256: str
    baseline: dict[str, Any] = field(default_factory=dict)  # of a baseline: its name and sizes


@dataclass(eq=False)
class AxonModel:
    """F(x), the bridge, FineDiff and SR-Net of one preset.

    Attributes:
        config: sizes, window, diffusion settings.
        card: provenance, and which stages may run.
        path: the weights' file, or None for freshly initialised networks.
        sha256: of the weights' file.
    """

    config: ModelConfig
    card: ModelCard = field(default_factory=ModelCard)
    path: Path | None = None
    sha256: str = ""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def method(self) -> str:
        """What provenance and tables call it."""
        return "axon"

    @property
    def random_endpoint(self) -> bool:
        """Whether F(x) itself is drawn at random, as that of some baselines."""
        return False

    # ---- networks, built on first use

    @cached_property
    def film_to_volume(self) -> nn.Module:
        """F(x)."""
        c = self.config
        return self._built("film_to_volume", FilmToVolume(c.encoder, c.film_size, c.size))

    @cached_property
    def coarse(self) -> UNet3d:
        """f_theta of the bridge; input channels are the bridge's state and F(x)."""
        from axon_core.nets.unet import UNet3d

        return self._built("coarse", UNet3d(self.config.coarse, 2))

    @cached_property
    def prior(self) -> UNet3d:
        """The unconditional DDPM over CT volumes."""
        from axon_core.nets.unet import UNet3d

        return self._built("prior", UNet3d(self.config.fine, 1))

    @cached_property
    def control(self) -> ControlNet3d:
        """ControlNet on the coarse volume or on the repeated films, see `fine_hint`."""
        from axon_core.nets.unet import ControlNet3d

        c = self.config
        control = ControlNet3d(c.fine)
        if c.diffusion.global_encoder:
            control.add_encoder(GlobalEncoder(c.encoder, c.film_size, c.size, control.time_channels))
        return self._built("control", control)

    @cached_property
    def fine_bridge(self) -> UNet3d:
        """The network of a second bridge, in the place of prior and ControlNet; its y is the coarse volume."""
        from axon_core.nets.unet import UNet3d

        return self._built(FINE_BRIDGE, UNet3d(self.config.fine, 2))

    @cached_property
    def sr(self) -> SRNet:
        """x2 super-resolution."""
        return self._built("sr", SRNet(**dataclasses.asdict(self.config.sr)))

    def _built(self, name: str, module: Module) -> Module:
        if self.path is not None:
            from safetensors import safe_open

            prefix = name + "."
            try:
                with safe_open(str(self.path), framework="pt") as file:
                    kept = {k[len(prefix) :]: file.get_tensor(k) for k in file.keys() if k.startswith(prefix)}  # noqa: SIM118
                state = {key: value.float() if value.is_floating_point() else value for key, value in kept.items()}
                module.load_state_dict(state)
            except Exception as error:  # the file was replaced or damaged after it was opened
                raise ModelError(
                    "model.weights",
                    f"{self.path.parent.name}: the weights of {name!r} do not fit.",
                    "Install the model again.",
                ) from error
        return module.to(self.device).eval()

    def parts(self, stage: str) -> tuple[str, ...]:
        """The attributes that hold the networks of a stage, a key of PARTS."""
        return (FINE_BRIDGE,) if stage == "fine" and self.config.diffusion.is_bridge else PARTS[stage]

    def has(self, stage: str) -> bool:
        """Whether the stage may run: it was trained, or the model is an untrained one for tests and timing."""
        return stage in self.card.stages

    def to(self, device: torch.device | str) -> AxonModel:
        """Move the networks, those not yet built included."""
        self.device = torch.device(device)
        for name in (name for stage in PARTS for name in self.parts(stage)):
            if name in self.__dict__:
                self.__dict__[name].to(self.device)
        return self

    # ---- what each stage computes

    def endpoint(self, films: torch.Tensor, noise: SeededNoise | None = None) -> torch.Tensor:
        """F(x): (B, V, p, p) films in [-1, 1] -> (B, 1, n, n, n) in (-1, 1); `noise` is for a `random_endpoint`."""
        return self.film_to_volume(films)

    def bridge_x0(
        self, x: torch.Tensor, m: torch.Tensor, y: torch.Tensor, network: nn.Module | None = None
    ) -> torch.Tensor:
        """A bridge network's prediction of the CT from x_m and y; m is (B, 1, 1, 1, 1).

        By default it is CoarseDiff's network, and y = F(x).
        """
        network, c = network or self.coarse, self.config.bridge
        time = m.flatten() * 1000.0
        if c.sigma == 0:  # paper: f predicts x_m - x0
            return x - network(torch.cat([x, y], 1), time)
        c_skip, c_out, c_in = bridge.preconditioning(m, c.s, c.sigma)
        residual = x - y
        return y + c_skip * residual + c_out * network(torch.cat([c_in * residual, y], 1), time)

    def fine_hint(self, films: torch.Tensor, coarse: torch.Tensor) -> Hint:
        """What steers FineDiff: `coarse` (B, 1, n, n, n), or the films (B, V, p, p) repeated along their rays."""
        c = self.config.diffusion
        volume = mean_of_repeated(films, self.config.size) if c.hint == "films" else coarse
        return Hint(volume, films if c.global_encoder else None)

    def fine_start(self, hint: Hint, t: int, noise: torch.Tensor) -> torch.Tensor:
        """Where a DDPM's sampling starts at the integer time t: the coarse volume in noise, or noise alone."""
        if self.config.diffusion.from_noise:
            return noise
        return gaussian.add_noise(hint.volume, self.alphas[t].to(noise.device, noise.dtype), noise)

    def fine_x0(self, x: torch.Tensor, t: torch.Tensor, hint: Hint) -> torch.Tensor:
        """FineDiff's prediction of the CT from the noisy x, steered by the hint.

        Args:
            x: (B, 1, n, n, n).
            t: (B,) times, indices into `alphas`; m where FineDiff is a bridge.
            hint: see `fine_hint`.
        """
        c = self.config.diffusion
        if c.is_bridge:
            m = t.to(x.device, x.dtype).view(-1, 1, 1, 1, 1)
            x0 = self.bridge_x0(x, m, hint.volume, self.fine_bridge)
        else:
            alpha = self.alphas[t.long().cpu()].to(x.device, x.dtype).view(-1, 1, 1, 1, 1)
            time = t.to(x.device, x.dtype)
            output = self.prior(x, time, self.control(x, time, *hint))
            x0 = gaussian.predict_x0(x, alpha, output, c.prediction)
        return x0.clamp(-1, 1) if c.clamp else x0

    @cached_property
    def alphas(self) -> torch.Tensor:
        """(1000,) cumulated alphas of FineDiff."""
        return gaussian.alpha_bars(zero_terminal=self.config.diffusion.zero_terminal)

    def super_resolve(self, volume: torch.Tensor) -> torch.Tensor:
        """(B, 1, n, n, n) -> (B, 1, 2n, 2n, 2n).

        The cube is continued by its outermost voxels first: convolutions that see zeros beyond it draw a rim.
        """
        margin = 4
        larger = self.sr(F.pad(volume, (margin,) * 6, mode="replicate"))
        edge = margin * self.sr.factor
        return larger[..., edge:-edge, edge:-edge, edge:-edge]

    # ---- disk

    @classmethod
    def from_preset(cls, name: str) -> AxonModel:
        """Freshly initialised networks of a preset."""
        return cls(load_preset(name), ModelCard(title="untrained", stages=tuple(PARTS), default_stages=tuple(PARTS)))

    @classmethod
    def from_pretrained(cls, name_or_folder: str | os.PathLike[str]) -> AxonModel:
        """Open a model by its name among the bundled ones, or by its folder.

        Errors:
            ModelError: not found, damaged, of an unknown format, or a baseline.
        """
        info = find_model(name_or_folder)
        if info.baseline:
            raise ModelError(
                "model.baseline",
                f"{info.name} holds the baseline {info.baseline['name']!r}, not an AXON model.",
                "Open it with axon_core.open_model.",
            )
        return cls(info.config, info.card, info.folder / WEIGHTS, info.sha256)

    def save_pretrained(
        self, folder: str | os.PathLike[str], card: ModelCard, dtype: torch.dtype = torch.float16
    ) -> ModelInfo:
        """Write the networks of `card.stages`, their config and the card; an interrupted write leaves the old file."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            f"{name}.{key}": value.detach().cpu().to(dtype if value.is_floating_point() else value.dtype).contiguous()
            for stage in card.stages
            for name in self.parts(stage)
            for key, value in getattr(self, name).state_dict().items()
        }
        described = {"config": self.config.to_dict(), "card": dataclasses.asdict(card), **self.described()}
        metadata = {"axon": json.dumps(described)}
        temporary = folder / (WEIGHTS + ".tmp")
        save_file(state, str(temporary), metadata=metadata)
        digest = file_sha256(temporary)
        os.replace(temporary, folder / WEIGHTS)
        (folder / (WEIGHTS + ".sha256")).write_text(f"{digest}  {WEIGHTS}\n", encoding="utf-8")
        return inspect(folder)

    def described(self) -> dict[str, Any]:
        """What the metadata of the weights say beside config and card."""
        return {}


def bfloat16_pays(device: torch.device, training: bool = False) -> bool:
    """Whether `device` computes faster in bfloat16 than in float32: GPUs of CUDA, and CPUs that multiply it natively.

    On CPUs whose only such units are vectors (AVX-512) that holds for inference alone: their backward convolutions are
    slower.
    """
    if device.type == "cpu":
        return bool(torch.cpu._is_amx_tile_supported() or (torch.cpu._is_avx512_bf16_supported() and not training))
    return device.type == "cuda" and torch.cuda.is_bf16_supported()


def file_sha256(path: Path) -> str:
    """Hexadecimal digest of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def find_model(name_or_folder: str | os.PathLike[str]) -> ModelInfo:
    """A model by its name among the bundled ones, or by its folder; see `inspect`.

    Errors:
        ModelError: not found, damaged, or of an unknown format.
    """
    for folder in (Path(name_or_folder), resources.folder() / "Models" / str(name_or_folder)):
        if os.path.isfile(folder / WEIGHTS):
            return inspect(folder)
    known = ", ".join(info.name for info in available_models()) or "none"
    raise ModelError(
        "model.not-found",
        f"There is no model {str(name_or_folder)!r}.",
        f"Installed models: {known}; or give a folder.",
    )


def inspect(folder: Path) -> ModelInfo:
    """Read a model's config and card and check its file against the recorded sum.

    Errors:
        ModelError: damaged or of an unknown format.
    """
    from safetensors import safe_open

    path = folder / WEIGHTS
    digest = file_sha256(path)
    recorded = folder / (WEIGHTS + ".sha256")
    if recorded.is_file() and recorded.read_bytes().split()[:1] != [digest.encode()]:
        raise ModelError("model.damaged", f"{folder.name}: the weights' checksum is wrong.", "Install the model again.")
    try:
        with safe_open(str(path), framework="pt") as file:
            described = json.loads((file.metadata() or {})["axon"])
        config = from_dict(ModelConfig, described["config"], "config")
        card = from_dict(ModelCard, described["card"], "card")
        baseline = dict(described.get("baseline", {}))
    except Exception as error:  # safetensors, json and the config raise many kinds; all mean the same to a user
        raise ModelError(
            "model.format", f"{folder.name}: not a model of this program.", "Use a folder that it wrote."
        ) from error
    return ModelInfo(folder.name, folder, config, card, path.stat().st_size, digest, baseline)


def available_models() -> list[ModelInfo]:
    """Models that came with the program, by name."""
    return list(_readable(sorted(resources.folder().glob(f"Models/*/{WEIGHTS}"))))


def _readable(paths: Iterable[Path]) -> Iterable[ModelInfo]:
    for path in paths:
        try:
            yield inspect(path.parent)
        except ModelError:
            continue  # a damaged model must not hide the others


def parameter_count(module: nn.Module) -> int:
    """Number of weights."""
    return sum(p.numel() for p in module.parameters())


def describe(model: AxonModel) -> dict[str, Any]:
    """Parameters of each stage, for people."""
    return {stage: sum(parameter_count(getattr(model, name)) for name in model.parts(stage)) for stage in PARTS}
