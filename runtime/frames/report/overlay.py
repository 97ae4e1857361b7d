"""`draw_overlay`: a frame with outlines, calls, a legend and a scale bar in micrometres."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from blastscope.runtime.frames.report.theme import CALL_STYLES, FAINT, INK, PAPER, caution, rgb, style_of, words_of
from blastscope.runtime.frames.types import FrameCell, FrameReport
from blastscope.runtime.types import Box, ClassName

SCALE_BARS_UM = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)
BAR_SHARE = 0.22  # of the picture's width that the scale bar may take
MOST_WORDS, MOST_NUMBERS = 25, 150  # on a picture with more cells the refused have a number only; with more still nobody has
LEAST_DASH_PX = 5.0
SEEN_PX = 1300  # of a picture's width are seen at once: on a larger one lines are wider and words larger
LEAST_WIDTH_PX = 560  # of the foot, so that its words find room


def draw_overlay(picture: NDArray[np.uint8], report: FrameReport) -> Image.Image:
    """`picture` (H, W, 3) uint8 RGB, the examined frame or a smaller copy of it, with contours, boxes, calls and a foot."""
    canvas = np.ascontiguousarray(picture).copy()
    scale = picture.shape[1] / report.size[0] if report.size else 1.0
    for cell in report.cells:
        draw_cell_lines(canvas, cell, scale=scale, least_px=picture.shape[1] // SEEN_PX)
    image = Image.fromarray(canvas)
    if 0 < len(report.cells) <= MOST_NUMBERS:
        usual = sorted(_side(cell) for cell in report.cells)[len(report.cells) // 2] * scale
        height = max(11, 10 * picture.shape[1] // SEEN_PX, round(min(usual / 6, picture.shape[1] / 50)))
        pen, font = ImageDraw.Draw(image), ImageFont.load_default(height)
        for number, cell in enumerate(report.cells, 1):
            words = f"  {words_of(cell)}" if cell.label or len(report.cells) <= MOST_WORDS else ""
            _label(pen, font, f"{number}{words}", cell, scale=scale)
    return _with_foot(image, report, scale)


def draw_cell_lines(
    canvas: NDArray[np.uint8],
    cell: FrameCell,
    *,
    scale: float = 1.0,
    corner: tuple[float, float] = (0, 0),
    boxed: bool = True,
    least_px: int = 1,
) -> None:
    """Draws the outline of `cell` and the corners of its box into `canvas`, which shows the frame from `corner` at `scale`."""
    style = CALL_STYLES[style_of(cell)]
    width = max(1, least_px, round(_side(cell) * scale / 80))
    lines = [_scaled(cell.found.contour, scale, corner)]
    lines = _dashes(lines[0], max(LEAST_DASH_PX, 4.0 * width)) if style.dashed else [np.concatenate([lines[0], lines[0][:1]])]
    if boxed:
        lines += [_scaled(side, scale, corner) for side in _corners(cell)]
    for colour, thickness in (((255, 255, 255), width + 2), (rgb(style.colour), width)):  # a light rim shows on any stain
        cv2.polylines(canvas, lines, isClosed=False, color=colour, thickness=thickness, lineType=cv2.LINE_AA)


def draw_box_lines(canvas: NDArray[np.uint8], box: Box, label: ClassName, *, scale: float, corner: tuple[float, float]) -> None:
    """Draws a box that an expert has drawn and labelled, in its class' colour."""
    x0, y0, x1, y1 = box
    (left, top), (right, bottom) = _scaled(np.array([(x0, y0), (x1 - 1, y1 - 1)], np.int32), scale, corner).tolist()
    for colour, thickness in (((255, 255, 255), 3), (rgb(CALL_STYLES[label].colour), 1)):
        cv2.rectangle(canvas, (left, top), (right, bottom), colour, thickness)


def _scaled(points: NDArray[np.int32], scale: float, corner: tuple[float, float]) -> NDArray[np.int32]:
    return np.asarray(np.rint((points - np.asarray(corner)) * scale), np.int32)


def _side(cell: FrameCell) -> int:
    x0, y0, x1, y1 = cell.box
    return max(x1 - x0, y1 - y0)


def _dashes(outline: NDArray[np.int32], length: float) -> list[NDArray[np.int32]]:
    """Every other stretch of the closed `outline`, by its length."""
    closed = np.concatenate([outline, outline[:1]])
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(closed, axis=0).T))])
    number = (along // length).astype(np.int64)
    return [closed[number == one] for one in range(0, int(number[-1]) + 1, 2) if np.count_nonzero(number == one) > 1]


def _corners(cell: FrameCell) -> list[NDArray[np.int32]]:
    """The four corners of the box as angles: a whole rectangle would hide neighbours."""
    x0, y0, x1, y1 = cell.box
    arm = max(min(x1 - x0, y1 - y0) // 6, 1)
    angles = (
        ((x0, y0 + arm), (x0, y0), (x0 + arm, y0)),
        ((x1 - arm, y0), (x1, y0), (x1, y0 + arm)),
        ((x1, y1 - arm), (x1, y1), (x1 - arm, y1)),
        ((x0 + arm, y1), (x0, y1), (x0, y1 - arm)),
    )
    return [np.array(angle, np.int32) for angle in angles]


def _label(
    pen: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, text: str, cell: FrameCell, *, scale: float
) -> None:
    """The words on a light plate above the cell, or below where there is no room above."""
    x0, y0, _, y1 = (value * scale for value in cell.box)
    left, top, right, bottom = pen.textbbox((0, 0), text, font)
    width, height = right - left + 8, bottom - top + 6
    image_width, image_height = pen.im.size
    x = min(max(x0, 0), max(image_width - width, 0))
    y = y0 - height - 3 if y0 - height - 3 >= 0 else min(y1 + 3, image_height - height)
    pen.rectangle((x, y, x + width, y + height), fill=PAPER, outline=CALL_STYLES[style_of(cell)].colour)
    pen.text((x + 4 - left, y + 3 - top), text, CALL_STYLES[style_of(cell)].colour, font)


def _with_foot(image: Image.Image, report: FrameReport, scale: float) -> Image.Image:
    """`image` above a white foot with the legend, the scale bar and the words of caution."""
    width = max(image.width, LEAST_WIDTH_PX)
    size = max(13, round(width / 58))
    line = round(1.7 * size)
    fonts = ImageFont.load_default(size), ImageFont.load_default(max(13, round(0.85 * size)))  # smaller ones run together
    lines = _wrapped(caution(validated=report.validated), fonts[1], width - 2 * line)
    foot = round(2.9 * line) + len(lines) * round(1.25 * size)
    whole = Image.new("RGB", (width, image.height + foot), PAPER)
    whole.paste(image, (0, 0))
    pen = ImageDraw.Draw(whole)
    counts, x, y = report.counts, float(line), image.height + 0.7 * line
    for kind, style in CALL_STYLES.items():
        middle = y + 0.5 * size
        for start in (0, 0.62) if style.dashed else (0,):
            end = start + 0.38 if style.dashed else 1
            pen.line((x + start * line, middle, x + end * line, middle), style.colour, max(3, size // 5))
        text = f"{style.name}  {counts[kind]}"
        pen.text((x + 1.35 * line, y), text, style.colour, fonts[0])
        x += 1.35 * line + pen.textlength(text, fonts[0]) + 1.4 * line
    _scale_bar(pen, report, (width - line, round(y), scale), fonts[0])
    for number, text in enumerate(lines):
        pen.text((line, y + 1.6 * line + number * 1.25 * size), text, FAINT, fonts[1])
    return whole


def _scale_bar(
    pen: ImageDraw.ImageDraw,
    report: FrameReport,
    place: tuple[int, int, float],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    """A bar of a round length that ends at the right, and how the scale is known."""
    if report.parameters is None:
        return
    right, y, scale = place
    px_per_um = scale / report.parameters.pixel_um
    length_um = next((bar for bar in reversed(SCALE_BARS_UM) if bar * px_per_um <= BAR_SHARE * right), SCALE_BARS_UM[0])
    source = {"given": "", "red-cells": " (scale by red cells)", "assumed": " (scale assumed)"}[report.parameters.scale_source]
    text = f"{length_um}  micrometres{source}"  # a single space is lost in small letters
    bar = length_um * px_per_um
    pen.text((right - pen.textlength(text, font), y), text, INK, font)
    bottom = y + 1.55 * font.getbbox("0")[3]
    pen.rectangle((right - bar, bottom, right, bottom + 4), fill=INK)


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
