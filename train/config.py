"""`TrainConfig`: everything that a training run may choose, with the paper's values (train/paper.toml) as defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, model_validator

from blastscope.runtime.crop.specification import CropSpecification
from blastscope.runtime.io.strict_model import NotBool, StrictModel

PAPER = Path(__file__).with_name("paper.toml")
SHIPPED = Path(__file__).with_name("shipped.toml")

Beta = Annotated[float, Field(ge=0, lt=1)]
ClassWeight = Annotated[float, Field(gt=0)]  # a class of weight 0 would never be learnt


class DataConfig(StrictModel):
    """Which cells train and which validate.

    Attributes
    ----------
    split : {'patient', 'image', 'none'}
        The paper splits by image, which leaks patients; 'none': no validation.
    validation_share : float
        Share of the patients, or images, that validate, 0 to 1.
    folds : int
        Parts of a cross validation.
    fold : int, tuple of int or None
        This fold validates, or these, the others train, whole patients each; None: `validation_share` counts.
    seed : int
        Seed of the split alone, so that other seeds train on the same patients.
    """

    split: Literal["patient", "image", "none"] = "patient"
    validation_share: float = Field(default=0.3, gt=0, lt=1)
    folds: int = Field(default=3, ge=2)
    fold: NonNegativeInt | tuple[NonNegativeInt, ...] | None = None
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _fold_is_one_of_them(self) -> Self:
        if self.fold is not None and self.split != "patient":
            raise ValueError("folds are over patients: split = 'patient'")
        chosen = set(self.validating_folds)
        if self.fold is not None and not (chosen and chosen < set(range(self.folds))):
            raise ValueError(f"fold must be below folds = {self.folds}; at least one fold must validate, and one train")
        return self

    @property
    def validating_folds(self) -> tuple[int, ...]:
        """The folds that validate; none where `validation_share` counts."""
        return self.fold if isinstance(self.fold, tuple) else () if self.fold is None else (self.fold,)


class NetworkConfig(StrictModel):
    """One voter's architecture; A and B share it.

    Attributes
    ----------
    backbone : str
        Any name that timm knows.
    weights : str
        'imagenet', 'none', or the path of a safetensors file in timm's names.
    dropout : float
        Before a voter's FC 2.
    drop_path : float
        Stochastic depth, for backbones that have it.
    views : {1, 2, 4, 8}
        Orientations of a crop whose logits are averaged at inference.
    colour : {'none', 'standardise'}
        'standardise': each cell's channels to one mean and spread, black left out.
    """

    backbone: str = "inception_resnet_v2"  # any name that timm knows
    weights: str = "imagenet"  # or "none", or the path of a safetensors file in timm's names
    dropout: float = Field(default=0.0, ge=0, lt=1)
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    views: Annotated[Literal[1, 2, 4, 8], NotBool] = 1
    colour: Literal["none", "standardise"] = "none"  # standardise: each cell's channels to one mean and spread, black left out


class AugmentConfig(StrictModel):
    """Magnitudes of the augmentations; zero or false turns one off. The paper names them and gives no magnitudes.

    Attributes
    ----------
    mode : {'paper', 'all'}
        'paper': the bag's augmented half; 'all': every image.
    choose : {'some', 'every'}
        'some': one or several at random; 'every': all that are on, flips half the time.
    rotation_deg : float
        Largest angle in degrees; a cell has no upright.
    flip_horizontal : bool
        Flips left and right.
    flip_vertical : bool
        Flips top and bottom.
    noise : float
        Largest standard deviation, of a range of 1.
    contrast : float
        Factor 1 - c to 1 + c about the cell's mean.
    channel : float
        Factor for each colour channel.
    scale : float
        Size, factor 1 - s to 1 + s; from here on beyond the paper.
    shift : float
        Share of the side, along x and y.
    brightness : float
        Factor 1 - b to 1 + b.
    saturation : float
        Factor 1 - s to 1 + s.
    hue_deg : float
        Largest turn of the hue in degrees.
    offset : float
        Added to each colour channel, of a range of 1.
    stain : float
        Chance that channel means and spreads go some way to a stranger's.
    gray : float
        Chance of losing its colour.
    gamma : float
        Exponent 1 - g to 1 + g.
    blur : float
        Largest blend with the image smoothed 3 x 3.
    cutout : float
        Side of a square set to black, as a share of the side.
    texture_chance : float
        Chance of noise, blur and cutout each, where they are drawn.
    """

    mode: Literal["paper", "all"] = "paper"  # paper: the bag's augmented half; all: every image
    choose: Literal["some", "every"] = "some"  # some: one or several at random; every: all that are on, flips half the time
    rotation_deg: float = Field(default=180.0, ge=0, le=180)
    flip_horizontal: bool = True
    flip_vertical: bool = True
    noise: float = Field(default=0.03, ge=0, le=1)
    contrast: float = Field(default=0.2, ge=0, lt=1)
    channel: float = Field(default=0.1, ge=0, lt=1)
    scale: float = Field(default=0.0, ge=0, lt=1)
    shift: float = Field(default=0.0, ge=0, lt=1)
    brightness: float = Field(default=0.0, ge=0, lt=1)
    saturation: float = Field(default=0.0, ge=0, le=1)
    hue_deg: float = Field(default=0.0, ge=0, le=180)
    offset: float = Field(default=0.0, ge=0, le=1)
    stain: float = Field(default=0.0, ge=0, le=1)
    gray: float = Field(default=0.0, ge=0, le=1)
    gamma: float = Field(default=0.0, ge=0, lt=1)
    blur: float = Field(default=0.0, ge=0, le=1)
    cutout: float = Field(default=0.0, ge=0, lt=1)
    texture_chance: float = Field(default=1.0, gt=0, le=1)


class ScheduleConfig(StrictModel):
    """How one network is trained: optimiser, schedule, loss, sampling.

    Attributes
    ----------
    optimiser : {'rmsprop', 'adamw'}
        RMSprop as the paper's, or AdamW.
    lr : float
        Learning rate; Keras's default, as the paper says.
    rho : float
        RMSprop's smoothing; Keras's default.
    epsilon : float
        RMSprop's smallest divisor; Keras's default.
    betas : (Beta, Beta)
        AdamW's.
    weight_decay : float
        Weights only, no biases, no normalisation.
    backbone_lr_factor : float
        Below 1: pretrained layers move slower than new ones.
    clip_norm : float or None
        Longest gradient; None: any.
    batch_size : int
        Keras's default; the paper gives none.
    epochs : int
        At most.
    schedule : {'plateau', 'cosine', 'one-cycle', 'constant'}
        Schedule of the learning rate; only 'plateau' stops early.
    warmup_epochs : float
        One-cycle: its rising part.
    watch : {'error', 'loss'}
        'error': share of wrong calls on the validation part; 'loss': its loss.
    reduce_after : int
        Epochs without a better value before the learning rate falls, counted as Keras counts patience.
    reduce_factor : float
        What the learning rate is then multiplied by.
    stop_after : int
        Epochs without a better value before the training ends.
    keep : {'best', 'last'}
        Which epoch's weights the network ends with.
    class_weights : (ClassWeight, ClassWeight)
        Weights of hem and all in the loss.
    label_smoothing : float
        Share of the label that goes to both classes alike.
    ema_decay : float
        Decay of averaged weights; above 0 these are validated and kept.
    images_per_epoch : int or None
        Images in an epoch; None: every image of the bag once.
    balance_patients : float
        A cell is drawn by (its patient's cells) ^ -this; 1: patients alike.
    all_share : float or None
        Share of ALL among the drawn; None: as the bag has it.
    all_logit_shift : float
        Added to ALL's bias after training, for a share of ALL at work that differs from the drawn one.
    frozen_batch_norm : bool
        Keep the running statistics that training starts from.
    frozen : tuple of str
        Layers of the backbone that don't move, by the beginnings of their names, as "blocks.0".
    """

    optimiser: Literal["rmsprop", "adamw"] = "rmsprop"
    lr: float = Field(default=1e-3, gt=0)
    rho: float = Field(default=0.9, gt=0, lt=1)
    epsilon: float = Field(default=1e-7, gt=0)
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    weight_decay: float = Field(default=0.0, ge=0)
    backbone_lr_factor: float = Field(default=1.0, ge=0)
    clip_norm: float | None = Field(default=None, gt=0)
    batch_size: int = Field(default=32, ge=2)
    epochs: int = Field(default=50, ge=1)
    schedule: Literal["plateau", "cosine", "one-cycle", "constant"] = "plateau"  # only plateau stops early
    warmup_epochs: float = Field(default=0.0, ge=0)
    watch: Literal["error", "loss"] = "error"  # "validation error": the share of wrong calls
    reduce_after: int = Field(default=6, ge=1)
    reduce_factor: float = Field(default=0.1, gt=0, le=1)
    stop_after: int = Field(default=12, ge=1)
    keep: Literal["best", "last"] = "best"  # which epoch's weights the network ends with
    class_weights: tuple[ClassWeight, ClassWeight] = (1.0, 1.0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    ema_decay: float = Field(default=0.0, ge=0, lt=1)
    images_per_epoch: int | None = Field(default=None, ge=2)
    balance_patients: float = Field(default=0.0, ge=0, le=1)
    all_share: float | None = Field(default=None, gt=0, lt=1)
    all_logit_shift: float = 0.0
    frozen_batch_norm: bool = False
    frozen: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _warming_up_ends(self) -> Self:
        if self.warmup_epochs and self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs must be below epochs = {self.epochs}")
        return self


class Stage1Config(ScheduleConfig):
    """Models A and B, each on its bag."""


class Stage2Config(ScheduleConfig):
    """The combined model on the features of A and B. It has the attributes of `ScheduleConfig`, too.

    Attributes
    ----------
    stages : int
        0: it reads A's and B's pooled vectors, as in the paper. Above: mean and spread of the maps of so many stages before
        the last.
    hidden, dropout : int, float
        Width of its hidden layer, and the share of it that is dropped.
    augmented_copies : int
        Of each cell, drawn once; their features are cached beside the cell's own.
    fine_tune : bool
        Moves the backbones too, on crops augmented as in stage 1: four passes at inference.
    """

    class_weights: tuple[ClassWeight, ClassWeight] = (1.0, 2.5)
    stages: int = Field(default=0, ge=0, le=8)
    hidden: int = Field(default=1024, ge=1)
    dropout: float = Field(default=0.6, ge=0, lt=1)
    augmented_copies: int = Field(default=0, ge=0)
    fine_tune: bool = False

    @model_validator(mode="after")
    def _only_moving_layers_are_frozen(self) -> Self:
        if self.frozen and not self.fine_tune:
            raise ValueError("frozen names layers of the backbones, which move with fine_tune = true alone")
        return self


class TrunkConfig(StrictModel):
    """One frozen backbone for all voters, and the small heads on it (train/trunk.py). Not in the paper.

    Attributes
    ----------
    stages : tuple of int or tuple of str
        Whose maps are read: numbers are timm's stages, from 0; names are layers, such as 'blocks.3', where a backbone
        is to end within a stage.
    covariances : tuple of int or tuple of str
        Those of `stages` of which the combined model reads the maps' covariances too.
    hidden : int
        Units of a head's hidden layer.
    input_dropout : float
        Dropout of the features.
    dropout : float
        Dropout of the hidden layer.
    limit : float
        Standardised features are cut off here.
    members : int
        Networks in a head, whose logits are averaged.
    directions : int
        Directions of the features on which `novelty` is measured.
    augmented_copies : int
        Augmented copies of each cell, drawn once, among which the bags' augmented images are drawn.
    match_sizes : float
        How far HEM cells are drawn by the sizes of the ALL cells; 1: sizes tell nothing. They differ between persons, too.
    stain_penalty : float
        Weight in the loss of the squared covariance of margin and mean lightness within a class: stain is no sign either.
    """

    stages: tuple[int, ...] | tuple[str, ...] = Field(default=(1, 2, 3), min_length=1)
    covariances: tuple[int, ...] | tuple[str, ...] = (1, 2)
    hidden: int = Field(default=64, ge=1)
    input_dropout: float = Field(default=0.2, ge=0, lt=1)
    dropout: float = Field(default=0.5, ge=0, lt=1)
    limit: float = Field(default=6.0, gt=0)
    members: int = Field(default=3, ge=1)
    directions: int = Field(default=96, ge=1)
    augmented_copies: int = Field(default=1, ge=1)
    match_sizes: float = Field(default=0.0, ge=0, le=1)
    stain_penalty: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _covariances_are_of_stages(self) -> Self:
        if len(set(self.stages)) != len(self.stages) or any(isinstance(stage, int) and stage < 0 for stage in self.stages):
            raise ValueError("stages are different numbers from 0, or different names of layers")
        if not set(self.covariances) <= set(self.stages):
            raise ValueError("covariances must be among the stages")
        return self


class ComputeConfig(StrictModel):
    """How the machine is used. Nothing here is meant to change the result beyond the rounding of floating point.

    Attributes
    ----------
    precision : {'auto', 'bf16', 'fp16', 'fp32'}
        'auto': bf16 where the device has it, fp16 on older GPUs.
    device : {'auto', 'cpu', 'cuda'}
        'auto': a GPU, where there is one.
    devices : int or None
        How many; None: every GPU, or one CPU.
    channels_last : bool
        Keeps the channels of each pixel together in memory.
    batch : int
        Images in a pass without gradients.
    workers : int
        Threads that decode and crop; 0: one a core.
    """

    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"  # auto: bf16 where the device has it, fp16 on older GPUs
    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int | None = Field(default=None, ge=1)
    channels_last: bool = True
    batch: int = Field(default=64, ge=1)
    workers: int = Field(default=0, ge=0)


class TrainConfig(StrictModel):
    """One training run. The defaults are the paper's.

    Attributes
    ----------
    seed : int
        The same seed gives the same training.
    data : DataConfig
        Which cells train and which validate.
    crop : CropSpecification
        How cells are cropped.
    network : NetworkConfig
        The voters' architecture.
    augment : AugmentConfig
        The augmentations.
    stage1 : Stage1Config
        How A and B are trained.
    stage2 : Stage2Config
        How the combined model is trained.
    trunk : TrunkConfig or None
        Where set, A, B and the combined model are heads on one frozen backbone.
    compute : ComputeConfig
        How the machine is used.
    """

    seed: int = Field(default=0, ge=0)
    data: DataConfig = DataConfig()
    crop: CropSpecification = CropSpecification()
    network: NetworkConfig = NetworkConfig()
    augment: AugmentConfig = AugmentConfig()
    stage1: Stage1Config = Stage1Config()
    stage2: Stage2Config = Stage2Config()
    trunk: TrunkConfig | None = None
    compute: ComputeConfig = ComputeConfig()

    @model_validator(mode="after")
    def _trunk_is_frozen(self) -> Self:
        if self.trunk and (self.network.views > 1 or self.stage2.fine_tune or self.stage2.stages):
            raise ValueError("with [trunk]: views = 1, and neither stage2.fine_tune nor stage2.stages")
        if self.trunk and (self.network.drop_path or self.stage1.frozen):
            raise ValueError("with [trunk] nothing of the backbone moves: neither network.drop_path nor stage1.frozen")
        return self
