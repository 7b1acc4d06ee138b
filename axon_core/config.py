"""What a model is, as frozen dataclasses <-> TOML or JSON. Unknown keys are errors; weights carry their config."""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from axon_core.errors import ConfigError
from axon_core.geometry import CanonicalGrid
from axon_core.intensity import WINDOWS, HuWindow

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HINTS = ("coarse", "films")
PROCESSES = ("ddpm", "bridge")

T = TypeVar("T")


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of F(x): `ImageEncoder` widths and blocks, `FusionBlock` width and patch."""

    widths: tuple[int, ...]
    blocks: int = 2
    fusion_width: int = 16
    fusion_patch: int = 1


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of a 3D U-Net.

    Attributes:
        channels: at each level; multiples of `norm_groups`.
        attention: whether a level has self-attention.
        res_blocks: residual blocks for each level.
        head_channels: channels of an attention head.
        norm_groups: groups of the normalisation.
        patch: edge of the folded patches, 1 for none.
    """

    channels: tuple[int, ...]
    attention: tuple[bool, ...]
    res_blocks: int = 1
    head_channels: int = 32
    norm_groups: int = 8
    patch: int = 1


@dataclass(frozen=True)
class BridgeConfig:
    """The bridge of CoarseDiff.

    Attributes:
        s: its variance factor (paper: 1).
        sigma: standard deviation of Y - F(x) on training data in units of [-1, 1]; 0 trains the paper's plain
            "gradient" target, anything else the preconditioned network.
        times: of a distilled network, the decreasing m at which it is evaluated, without noise between them; empty:
            any times.
    """

    s: float = 1.0
    sigma: float = 0.0
    times: tuple[float, ...] = ()


@dataclass(frozen=True)
class DiffusionConfig:
    """The diffusion of FineDiff.

    Attributes:
        prediction: what the network predicts, "epsilon" or "v".
        zero_terminal: whether the schedule ends in pure noise.
        times: of a distilled network, the decreasing indices at which it is evaluated; empty: any times.
        hint: what steers it: the "coarse" volume, or the "films" repeated along their rays.
        clamp: keep the predicted CT within [-1, 1] at every step of sampling; the paper does not.
        process: "ddpm", a ControlNet on a Gaussian diffusion, of which the first three speak; or "bridge", a second
            bridge with the settings of the first, from the coarse volume to the CT (the paper's ablation).
        global_encoder: a ControlNet that also sees all of the films as one vector, added to its time (the paper's
            ablation; see `nets.encoder.GlobalEncoder`).
    """

    prediction: str = "epsilon"
    zero_terminal: bool = False
    times: tuple[int, ...] = ()
    hint: str = "coarse"
    clamp: bool = False
    process: str = "ddpm"
    global_encoder: bool = False

    def __post_init__(self) -> None:
        if self.hint not in HINTS:
            raise ConfigError(
                "config.hint", f"FineDiff cannot be steered by {self.hint!r}.", f"Use one of {', '.join(HINTS)}."
            )
        if self.process not in PROCESSES:
            raise ConfigError(
                "config.process", f"FineDiff cannot be a {self.process!r}.", f"Use one of {', '.join(PROCESSES)}."
            )
        if self.is_bridge and (self.from_noise or self.global_encoder):
            raise ConfigError(
                "config.fine-bridge",
                "A second bridge starts at the coarse volume, and has no ControlNet.",
                'Leave hint = "films" and global_encoder out, or process = "bridge".',
            )

    @property
    def is_bridge(self) -> bool:
        """Whether FineDiff is a second bridge."""
        return self.process == "bridge"

    @property
    def from_noise(self) -> bool:
        """Whether sampling starts from noise alone: repeated films are no coarse volume to start from."""
        return self.hint == "films"

    def described(self) -> str:
        """For people: what FineDiff is, by what it is steered, and whether its steps are clamped."""
        steered = {"coarse": "steered by the coarse volume", "films": "steered by the repeated films, from noise alone"}
        what = "a second bridge from the coarse volume" if self.is_bridge else steered[self.hint]
        return what + " and a global encoder" * self.global_encoder + ", clamped at every step" * self.clamp


@dataclass(frozen=True)
class SRConfig:
    """Sizes of SR-Net."""

    width: int = 16
    blocks: int = 6
    growth: int = 32


@dataclass(frozen=True)
class ModelConfig:
    """Everything needed to build a model and to read its output.

    Attributes:
        name: of the preset.
        size: voxels along each edge of the canonical grid.
        film_size: pixels along each edge of a standardised film.
        window: name of the HU window.
        extent_mm: edge of the cube.
    """

    name: str
    size: int
    film_size: int
    encoder: EncoderConfig
    coarse: UNetConfig
    fine: UNetConfig
    sr: SRConfig
    bridge: BridgeConfig = field(default_factory=BridgeConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    window: str = "wide"
    extent_mm: float = 360.0

    def __post_init__(self) -> None:
        if self.window not in WINDOWS:
            raise ConfigError(
                "config.window", f"Unknown HU window {self.window!r}.", f"Use one of {', '.join(WINDOWS)}."
            )
        if self.film_size % self.size:
            raise ConfigError(
                "config.film-size",
                f"Films of {self.film_size} pixels for a volume of {self.size}.",
                "The film size must be a multiple of the volume size.",
            )

    @property
    def grid(self) -> CanonicalGrid:
        """The cube on which the networks work, centred on the isocentre."""
        return CanonicalGrid(self.size, self.extent_mm)

    @property
    def hu_window(self) -> HuWindow:
        """HU <-> [-1, 1]."""
        return WINDOWS[self.window]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)


def from_dict(cls: type[T], values: dict[str, Any], where: str = "config") -> T:
    """Build a (nested) dataclass from plain values; unknown or missing keys are ConfigErrors that name them."""
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ConfigError("config.unknown-key", f"{where}: unknown key {unknown[0]!r}.", f"Known: {', '.join(fields)}.")
    required = [
        name
        for name, f in fields.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING and name not in values
    ]
    if required:
        raise ConfigError("config.missing-key", f"{where}: {required[0]!r} is missing.", "Add it.")
    return cls(**{name: _convert(hints[name], value, f"{where}.{name}") for name, value in values.items()})


def _convert(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return from_dict(typing.cast(type, kind), value, where)
    if typing.get_origin(kind) is tuple and isinstance(value, list | tuple):
        return tuple(_convert(typing.get_args(kind)[0], item, where) for item in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = typing.get_origin(kind) or kind
    plain = plain if isinstance(plain, type) and plain is not types.UnionType else object
    if not isinstance(value, plain) or (plain is int and isinstance(value, bool)):
        raise ConfigError("config.type", f"{where}: {value!r} is not of type {kind.__name__}.", "Correct the value.")
    return value


def preset_names() -> list[str]:
    """Names of the presets that ship with the package."""
    return sorted(path.stem for path in (Path(__file__).parent / "presets").glob("*.toml"))


def preset_table(name: str) -> dict[str, Any]:
    """The tables of a shipped preset ("tiny", "small", "base", "paper"), or of a TOML file given by its path."""
    path = Path(name) if name.endswith(".toml") else Path(__file__).parent / "presets" / f"{name}.toml"
    if not path.is_file():
        raise ConfigError("config.preset", f"There is no preset {name!r}.", f"Use one of {', '.join(preset_names())}.")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError("config.toml", f"{path.name} is not valid TOML: {error}.", "Correct the file.") from error


def load_preset(name: str) -> ModelConfig:
    """The model of a preset: its tables without [training] and [baseline], which only those rooms read."""
    values = {key: value for key, value in preset_table(name).items() if key not in ("training", "baseline")}
    return from_dict(ModelConfig, values, name if name.endswith(".toml") else f"{name}.toml")


def parse_seeds(text: str) -> tuple[int, ...]:
    """A count or a list: "3" -> (0, 1, 2), "0,7,42" -> (0, 7, 42), "5," -> (5,)."""
    try:
        if "," in text:
            return tuple(int(part) for part in text.split(",") if part.strip())
        if 1 <= int(text) <= 1000:
            return tuple(range(int(text)))
    except ValueError:
        pass
    raise ConfigError("config.seeds", f"Seeds {text!r} are neither a count nor a list.", "Give 3, or 0,7,42.")
