"""A DICOM whole-slide image of given pixels, as a scanner writes it: uncompressed tiles, one instance a resolution."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

TILE_PX = 256
WHOLE_SLIDE_IMAGE = "1.2.840.10008.5.1.4.1.1.77.1.6"


def code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def write_dicom_slide(folder: Path, pixels: NDArray[np.uint8], pixel_um: float, *, levels: int = 2, **changes: object) -> Path:
    """Writes `pixels` (H, W, 3) and smaller copies into `folder`; gives the file of the full resolution.

    `changes` are attributes that all instances get in place of the usual ones; None takes one away.
    """
    folder.mkdir(parents=True, exist_ok=True)
    study, series, frame_of_reference = generate_uid(), generate_uid(), generate_uid()
    for level in range(levels):
        size = (pixels.shape[1] >> level, pixels.shape[0] >> level)
        shown = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
        image = _instance(shown, pixel_um * 2**level, level)
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = study, series, frame_of_reference
        for name, value in changes.items():
            if value is None:
                delattr(image, name)
            else:
                setattr(image, name, value)
        image.save_as(folder / f"level-{level}.dcm", enforce_file_format=True)
    return folder / "level-0.dcm"


def _instance(pixels: NDArray[np.uint8], pixel_um: float, level: int) -> Dataset:
    height, width = pixels.shape[:2]
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = WHOLE_SLIDE_IMAGE
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = generate_uid()
    image.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE" if level == 0 else "RESAMPLED"]
    image.Modality, image.PatientID, image.PatientName, image.PatientBirthDate, image.PatientSex = "SM", "p1", "Doe^J", "", ""
    image.StudyDate = image.ContentDate = "20260101"
    image.StudyTime = image.ContentTime = "120000"
    image.AcquisitionDateTime = "20260101120000"
    image.AccessionNumber = image.StudyID = image.ReferringPhysicianName = ""
    image.SeriesNumber, image.InstanceNumber = 1, level + 1
    image.PositionReferenceIndicator = "SLIDE_CORNER"
    image.Manufacturer, image.ManufacturerModelName, image.DeviceSerialNumber, image.SoftwareVersions = "m", "n", "1", "1"
    image.ContainerIdentifier, image.IssuerOfTheContainerIdentifierSequence = "slide-1", Sequence()
    image.ContainerTypeCodeSequence = Sequence([code("433466003", "SCT", "Microscope slide")])
    specimen = Dataset()
    specimen.SpecimenIdentifier, specimen.SpecimenUID = "s1", generate_uid()
    specimen.IssuerOfTheSpecimenIdentifierSequence, specimen.SpecimenPreparationSequence = Sequence(), Sequence()
    image.SpecimenDescriptionSequence = Sequence([specimen])
    image.AcquisitionContextSequence = Sequence()
    path = Dataset()
    path.OpticalPathIdentifier = "1"
    path.IlluminationTypeCodeSequence = Sequence([code("111744", "DCM", "Brightfield illumination")])
    path.IlluminationColorCodeSequence = Sequence([code("414298005", "SCT", "Full Spectrum")])
    image.OpticalPathSequence = Sequence([path])
    origin = Dataset()
    origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem = "20", "40"
    image.TotalPixelMatrixOriginSequence = Sequence([origin])
    image.ImageOrientationSlide = ["0", "-1", "0", "-1", "0", "0"]
    measures, kind, shared = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [f"{pixel_um / 1000:.9f}"] * 2, "0.004"
    kind.FrameType = image.ImageType
    shared.PixelMeasuresSequence, shared.WholeSlideMicroscopyImageFrameTypeSequence = Sequence([measures]), Sequence([kind])
    used = Dataset()
    used.OpticalPathIdentifier = "1"
    shared.OpticalPathIdentificationSequence = Sequence([used])
    image.SharedFunctionalGroupsSequence = Sequence([shared])
    image.DimensionOrganizationType = "TILED_FULL"
    dimension = Dataset()
    dimension.DimensionOrganizationUID = generate_uid()
    image.DimensionOrganizationSequence = Sequence([dimension])
    image.TotalPixelMatrixColumns, image.TotalPixelMatrixRows, image.TotalPixelMatrixFocalPlanes = width, height, 1
    image.NumberOfOpticalPaths = 1
    image.ImagedVolumeWidth, image.ImagedVolumeHeight, image.ImagedVolumeDepth = (
        width * pixel_um / 1000,
        height * pixel_um / 1000,
        1.0,
    )
    image.VolumetricProperties, image.FocusMethod, image.ExtendedDepthOfField = "VOLUME", "AUTO", "NO"
    image.SpecimenLabelInImage, image.BurnedInAnnotation, image.LossyImageCompression = "NO", "NO", "00"
    image.PresentationLUTShape, image.RescaleIntercept, image.RescaleSlope = "IDENTITY", "0", "1"
    across, down = -(-width // TILE_PX), -(-height // TILE_PX)
    padded = np.full((down * TILE_PX, across * TILE_PX, 3), 255, np.uint8)
    padded[:height, :width] = pixels
    tiles = padded.reshape(down, TILE_PX, across, TILE_PX, 3).swapaxes(1, 2)
    image.Rows = image.Columns = TILE_PX
    image.NumberOfFrames = across * down
    image.SamplesPerPixel, image.PhotometricInterpretation, image.PlanarConfiguration = 3, "RGB", 0
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 8, 8, 7, 0
    image.PixelData = tiles.tobytes()
    return image
