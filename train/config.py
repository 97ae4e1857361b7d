"""`TrainConfig`: everything that a training run may choose, with the paper's values as defaults (train/paper.toml spells them).

Where the paper is silent, the comment beside a field says what was chosen and why.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from blastscope.runtime.crop.specification import CropSpecification
from blastscope.runtime.io.strict_model import NotBool, StrictModel

PAPER = Path(__file__).with_name("paper.toml")
SHIPPED = Path(__file__).with_name("shipped.toml")

Beta = Annotated[float, Field(ge=0, lt=1)]
ClassWeight = Annotated[float, Field(gt=0)]  # a class of weight 0 would never be learnt


class DataConfig(StrictModel):
    """Which cells train and which validate."""

    split: Literal["patient", "image", "none"] = (
        "patient"  # the paper splits by image, which leaks patients; none: no validation
    )
    validation_share: float = Field(default=0.3, gt=0, lt=1)
    folds: int = Field(default=3, ge=2)
    fold: int | None = Field(default=None, ge=0)  # a number: this fold validates, the others train, whole patients each
    seed: int = Field(default=0, ge=0)  # of the split alone, so that other seeds train on the same patients

    @model_validator(mode="after")
    def _fold_is_one_of_them(self) -> Self:
        if self.fold is not None and self.fold >= self.folds:
            raise ValueError(f"fold must be below folds = {self.folds}")
        if self.fold is not None and self.split != "patient":
            raise ValueError("folds are over patients: split = 'patient'")
        return self


class NetworkConfig(StrictModel):
    """One voter's architecture; A and B share it."""

    backbone: str = "inception_resnet_v2"  # any name that timm knows
    weights: str = "imagenet"  # or "none", or the path of a safetensors file in timm's names
    dropout: float = Field(default=0.0, ge=0, lt=1)  # before a voter's FC 2
    drop_path: float = Field(default=0.0, ge=0, lt=1)  # stochastic depth, for backbones that have it
    views: Annotated[Literal[1, 2, 4, 8], NotBool] = 1  # orientations of a crop whose logits are averaged at inference
    colour: Literal["none", "standardise"] = "none"  # standardise: each cell's channels to one mean and spread, black left out


class AugmentConfig(StrictModel):
    """Magnitudes of the augmentations; zero or false turns one off. The paper names them and gives no magnitudes."""

    mode: Literal["paper", "all"] = "paper"  # paper: the bag's augmented half; all: every image
    choose: Literal["some", "every"] = "some"  # some: one or several at random; every: all that are on, flips half the time
    rotation_deg: float = Field(default=180.0, ge=0, le=180)  # a cell has no upright
    flip_horizontal: bool = True
    flip_vertical: bool = True
    noise: float = Field(default=0.03, ge=0, le=1)  # largest standard deviation, of a range of 1
    contrast: float = Field(default=0.2, ge=0, lt=1)  # factor 1 - c to 1 + c about the cell's mean
    channel: float = Field(default=0.1, ge=0, lt=1)  # factor for each colour channel
    scale: float = Field(default=0.0, ge=0, lt=1)  # from here on beyond the paper: size, 1 - s to 1 + s
    shift: float = Field(default=0.0, ge=0, lt=1)  # of the side, along x and y
    brightness: float = Field(default=0.0, ge=0, lt=1)
    saturation: float = Field(default=0.0, ge=0, le=1)
    hue_deg: float = Field(default=0.0, ge=0, le=180)
    offset: float = Field(default=0.0, ge=0, le=1)  # added to each colour channel, of a range of 1
    stain: float = Field(default=0.0, ge=0, le=1)  # chance that channel means and spreads go some way to a stranger's
    gray: float = Field(default=0.0, ge=0, le=1)  # chance of losing its colour
    gamma: float = Field(default=0.0, ge=0, lt=1)  # exponent 1 - g to 1 + g
    blur: float = Field(default=0.0, ge=0, le=1)  # largest blend with the image smoothed 3 x 3
    cutout: float = Field(default=0.0, ge=0, lt=1)  # side of a square set to black, of the side
    texture_chance: float = Field(default=1.0, gt=0, le=1)  # of noise, blur and cutout each, where they are drawn


class ScheduleConfig(StrictModel):
    """How one network is trained: optimiser, schedule, loss, sampling."""

    optimiser: Literal["rmsprop", "adamw"] = "rmsprop"
    lr: float = Field(default=1e-3, gt=0)  # Keras's defaults, as the paper says
    rho: float = Field(default=0.9, gt=0, lt=1)
    epsilon: float = Field(default=1e-7, gt=0)
    betas: tuple[Beta, Beta] = (0.9, 0.999)  # adamw
    weight_decay: float = Field(default=0.0, ge=0)  # weights only, no biases, no normalisation
    backbone_lr_factor: float = Field(default=1.0, ge=0)  # below 1: pretrained layers move slower than new ones
    clip_norm: float | None = Field(default=None, gt=0)
    batch_size: int = Field(default=32, ge=2)  # Keras's default; the paper gives none
    epochs: int = Field(default=50, ge=1)
    schedule: Literal["plateau", "cosine", "one-cycle", "constant"] = "plateau"  # only plateau stops early
    warmup_epochs: float = Field(default=0.0, ge=0)  # one-cycle: its rising part
    watch: Literal["error", "loss"] = "error"  # "validation error": the share of wrong calls
    reduce_after: int = Field(default=6, ge=1)  # at the 6th epoch without a better value, as Keras counts patience
    reduce_factor: float = Field(default=0.1, gt=0, le=1)
    stop_after: int = Field(default=12, ge=1)
    keep: Literal["best", "last"] = "best"  # which epoch's weights the network ends with
    class_weights: tuple[ClassWeight, ClassWeight] = (1.0, 1.0)  # hem, all
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    ema_decay: float = Field(default=0.0, ge=0, lt=1)  # above 0: the averaged weights are validated and kept
    images_per_epoch: int | None = Field(default=None, ge=2)  # None: every image of the bag once
    balance_patients: float = Field(
        default=0.0, ge=0, le=1
    )  # a cell is drawn by (its patient's cells) ^ -this; 1: patients alike
    all_share: float | None = Field(default=None, gt=0, lt=1)  # share of ALL among the drawn; None: as the bag has it
    all_logit_shift: float = (
        0.0  # added to ALL's bias after training, for a share of ALL at work that differs from the drawn one
    )
    frozen_batch_norm: bool = False  # keep the running statistics that training starts from
    frozen: tuple[str, ...] = ()  # layers of the backbone that don't move, by the beginnings of their names, as "blocks.0"

    @model_validator(mode="after")
    def _warming_up_ends(self) -> Self:
        if self.warmup_epochs and self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs must be below epochs = {self.epochs}")
        return self


class Stage1Config(ScheduleConfig):
    """Models A and B, each on its bag."""


class Stage2Config(ScheduleConfig):
    """The combined model on the features of A and B."""

    class_weights: tuple[ClassWeight, ClassWeight] = (1.0, 2.5)
    # 0: on A's and B's pooled vectors, as in the paper; above: on mean and spread of the maps of so many stages before the last
    stages: int = Field(default=0, ge=0, le=8)
    hidden: int = Field(default=1024, ge=1)
    dropout: float = Field(default=0.6, ge=0, lt=1)
    augmented_copies: int = Field(default=0, ge=0)  # of each cell, drawn once, whose features are cached beside the cell's own
    fine_tune: bool = False  # move the backbones too, on crops augmented as in stage 1: four passes at inference

    @model_validator(mode="after")
    def _only_moving_layers_are_frozen(self) -> Self:
        if self.frozen and not self.fine_tune:
            raise ValueError("frozen names layers of the backbones, which move with fine_tune = true alone")
        return self


class TrunkConfig(StrictModel):
    """One frozen backbone for all voters, and the small heads on it (train/trunk.py). Not in the paper."""

    # Whose maps are read: numbers are timm's stages, from 0; names are layers, such as "blocks.3", where a backbone is to end
    # within a stage.
    stages: tuple[int, ...] | tuple[str, ...] = Field(default=(1, 2, 3), min_length=1)
    # of `stages`, those of which the combined model reads the maps' covariances too
    covariances: tuple[int, ...] | tuple[str, ...] = (1, 2)
    hidden: int = Field(default=64, ge=1)
    input_dropout: float = Field(default=0.2, ge=0, lt=1)
    dropout: float = Field(default=0.5, ge=0, lt=1)
    limit: float = Field(default=6.0, gt=0)  # standardised features are cut off here
    members: int = Field(default=3, ge=1)  # networks in a head, whose logits are averaged
    directions: int = Field(default=96, ge=1)  # of the features, on which `novelty` is measured
    augmented_copies: int = Field(default=1, ge=1)  # of each cell, drawn once, among which the bags' augmented images are drawn
    # Cells are drawn so that ALL and HEM have like sizes: 0 as they are, 1 wholly. Size differs between persons as much as
    # between classes, and a network takes it for malignancy where it may.
    match_sizes: float = Field(default=0.0, ge=0, le=1)
    # weight of the squared covariance of margin and mean lightness within each class in the loss: stain is no sign either
    stain_penalty: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _covariances_are_of_stages(self) -> Self:
        if len(set(self.stages)) != len(self.stages) or any(isinstance(stage, int) and stage < 0 for stage in self.stages):
            raise ValueError("stages are different numbers from 0, or different names of layers")
        if not set(self.covariances) <= set(self.stages):
            raise ValueError("covariances must be among the stages")
        return self


class ComputeConfig(StrictModel):
    """How the machine is used. Nothing here is meant to change the result beyond the rounding of floating point."""

    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"  # auto: bf16 where the device has it, fp16 on older GPUs
    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int | None = Field(default=None, ge=1)  # None: every GPU, or one CPU
    channels_last: bool = True
    batch: int = Field(default=64, ge=1)  # for passes without gradients
    workers: int = Field(default=0, ge=0)  # threads that decode and crop; 0: one a core


class TrainConfig(StrictModel):
    """One training run. The defaults are the paper's."""

    seed: int = Field(default=0, ge=0)
    data: DataConfig = DataConfig()
    crop: CropSpecification = CropSpecification()
    network: NetworkConfig = NetworkConfig()
    augment: AugmentConfig = AugmentConfig()
    stage1: Stage1Config = Stage1Config()
    stage2: Stage2Config = Stage2Config()
    trunk: TrunkConfig | None = None  # set: A, B and the combined model are heads on one frozen backbone
    compute: ComputeConfig = ComputeConfig()

    @model_validator(mode="after")
    def _trunk_is_frozen(self) -> Self:
        if self.trunk and (self.network.views > 1 or self.stage2.fine_tune or self.stage2.stages):
            raise ValueError("with [trunk]: views = 1, and neither stage2.fine_tune nor stage2.stages")
        if self.trunk and (self.network.drop_path or self.stage1.frozen):
            raise ValueError("with [trunk] nothing of the backbone moves: neither network.drop_path nor stage1.frozen")
        return self
