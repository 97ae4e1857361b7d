"""`DetectorConfig`: everything that the training of a detector may choose."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from blastscope.runtime.errors import DataError
from blastscope.runtime.io.strict_model import StrictModel

Score = Literal["middle", "overlap"]
SHIPPED = Path(__file__).parents[1] / "detector.toml"


class PoolConfig(StrictModel):
    """How many training pictures are drawn of each source. They are drawn once; the trunk's maps of them are kept.

    Attributes
    ----------
    bccd : int
        Frames of BCCD.
    raabin : int
        Frames of Raabin-WBC.
    pbc : int
        Frames of TXL-PBC.
    pbc_cells : int
        Single cells of the PBC set, whose types are known.
    cnmc : int
        C-NMC's cells on drawn glass with drawn red cells.
    drawn_cells : int
        Laid on like C-NMC's: simulated microscopes show such.
    shard : int
        Pictures that are drawn and kept together.
    """

    bccd: int = Field(default=4000, ge=0)
    raabin: int = Field(default=4000, ge=0)
    pbc: int = Field(default=3000, ge=0)
    pbc_cells: int = Field(default=3000, ge=0)
    cnmc: int = Field(default=4000, ge=0)
    drawn_cells: int = Field(default=0, ge=0)
    shard: int = Field(default=250, ge=1)


class PictureConfig(StrictModel):
    """What a training picture looks like.

    Attributes
    ----------
    side_px : int
        Side of a picture.
    red_cell_px : float
        Diameter of a red cell at the working scale.
    shown_red_cell_px : float
        Diameter of a red cell in what the trunk sees.
    scale : (float, float)
        Factor on the working scale, uniform in its logarithm.
    mosaic : float
        Chance that four frames make up a picture.
    pasted : float
        Chance that C-NMC's cells are laid on a frame.
    restained : float
        Chance that nuclei and red cells get colours of their own.
    recoloured : float
        Chance that the stain is moved as a whole; else it stays.
    white_balance : bool
        Whether the network brings pictures to one light and white balance, at work too.
    """

    side_px: int = Field(default=160, ge=64, multiple_of=16)
    red_cell_px: float = Field(default=28.0, gt=8)
    # and at work: of left-out frames a smaller one shows fewer false cells, and costs less
    shown_red_cell_px: float = Field(default=21.0, gt=8)
    scale: tuple[float, float] = (0.6, 1.7)
    mosaic: float = Field(default=0.35, ge=0, le=1)
    pasted: float = Field(default=0.3, ge=0, le=1)
    restained: float = Field(default=0.45, ge=0, le=1)
    recoloured: float = Field(default=0.4, ge=0, le=1)
    white_balance: bool = True


class HeadConfig(StrictModel):
    """The network on the trunk's maps.

    Attributes
    ----------
    channels : int
        Channels of the convolutions.
    depth : int
        Convolutions of 3 x 3.
    dropout : float
        Dropout of whole channels of the trunk's maps.
    margin : float
        Factor on the sides of white cells' boxes in what the network gives. It isn't learnt: of a stain that training doesn't
        know a box tends to leave out pale cytoplasm, and of one that it knows it fits.
    ensemble_size : int
        How many heads there are, trained on the same maps with the seeds `seed`, `seed` + 1, and so on. The mean of their maps
        counts.
    """

    channels: int = Field(default=64, ge=8)
    depth: int = Field(default=2, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    margin: float = Field(default=1.05, ge=1, le=1.5)
    ensemble_size: int = Field(default=3, ge=1, le=8)


class FitConfig(StrictModel):
    """Optimiser, schedule and losses.

    Attributes
    ----------
    epochs : int
        Passes over all pictures.
    batch_size : int
        Pictures in a step.
    lr : float
        The highest, of one cycle.
    weight_decay : float
        AdamW's weight decay.
    clip_norm : float
        Longest gradient.
    box_weight : float
        Weight of the boxes' loss.
    group_weight : float
        Weight of the groups' loss.
    ema_decay : float
        Decay of the averaged weights, which are kept.
    score : {'middle', 'overlap'}
        What the heat on a cell's middle should be: 1, or the overlap (IoU) of the box that is found there with the cell's,
        as in the quality focal loss (Li et al. 2020), so that a sure cell is one with a good box.
    """

    epochs: int = Field(default=2, ge=1)
    batch_size: int = Field(default=16, ge=1)
    lr: float = Field(default=2e-3, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    clip_norm: float = Field(default=5.0, gt=0)
    box_weight: float = Field(default=2.0, ge=0)
    group_weight: float = Field(default=0.5, ge=0)
    ema_decay: float = Field(default=0.995, ge=0, lt=1)
    score: Score = "middle"


class DetectorConfig(StrictModel):
    """One training run of a detector.

    Attributes
    ----------
    seed : int
        The same seed gives the same result.
    backbone : str
        Timm's name of the trunk.
    pool : PoolConfig
        The training pictures, by source.
    picture : PictureConfig
        What a training picture looks like.
    head : HeadConfig
        The network on the trunk's maps.
    fit : FitConfig
        Optimiser, schedule and losses.
    """

    seed: int = Field(default=0, ge=0)
    backbone: str = "tf_efficientnet_lite0"
    # whose maps are read, an eighth and a sixteenth of the picture's side: timm's stages by number, or layers by name
    stages: tuple[int, int] | tuple[str, str] = (2, 3)
    pool: PoolConfig = PoolConfig()
    picture: PictureConfig = PictureConfig()
    head: HeadConfig = HeadConfig()
    fit: FitConfig = FitConfig()


def check_detector_place(out: Path, *, resume: bool) -> None:
    """Raises `DataError` where a run can't go to the folder `out`, which holds files or is one."""
    if out.is_file():
        raise DataError(out, "is a file: a run needs a folder")
    if not resume and out.is_dir() and any(out.iterdir()):
        raise DataError(out, "holds files: name an empty folder, or say --resume")
