package org.blastscope.imagej;

import ij.CompositeImage;
import ij.ImagePlus;
import ij.ImageStack;
import ij.gui.Roi;
import ij.process.ImageProcessor;
import java.awt.Rectangle;
import org.blastscope.Image;

/**
 * Cuts cells out of a picture of ImageJ's, as the networks know them: one cell on black. A rectangle, or the whole picture, is taken as it
 * is: the cell lies on black there. Of any other area the pixels inside are the cell.
 */
final class CellCutter {
    /** Black around a cell that was outlined, pixels. */
    static final int MARGIN = 12;

    private final ImagePlus picture;

    CellCutter(ImagePlus picture) {
        if (!isColour(picture)) {
            throw new IllegalArgumentException(
                    "'" + picture.getTitle() + "' is no colour picture of 8 bits a channel: Image > Type > RGB Color makes one");
        }
        this.picture = picture;
    }

    private static boolean isColour(ImagePlus picture) {
        boolean bytes = picture.getBytesPerPixel() == 1;
        return picture.getType() == ImagePlus.COLOR_RGB
                || picture.getType() == ImagePlus.COLOR_256
                || picture instanceof CompositeImage && bytes && picture.getNChannels() == 3;
    }

    /** The cell in `roi`, null for the whole picture. */
    Image cut(Roi roi) {
        Rectangle all = new Rectangle(picture.getWidth(), picture.getHeight());
        Rectangle bounds = roi == null ? all : roi.getBounds().intersection(all);
        if (roi != null && !roi.isArea()) throw new IllegalArgumentException(name(roi) + " encloses no area: outline the cell");
        if (bounds.isEmpty()) throw new IllegalArgumentException(name(roi) + " lies outside of '" + picture.getTitle() + "'");
        ImageProcessor mask = roi == null ? null : roi.getMask();
        int margin = mask == null ? 0 : MARGIN;
        // none where the picture's edge cuts the cell: the runtime sees it touch the border, and refuses it
        int left = bounds.x == 0 ? 0 : margin;
        int top = bounds.y == 0 ? 0 : margin;
        int width = bounds.width + left + (bounds.x + bounds.width == all.width ? 0 : margin);
        int height = bounds.height + top + (bounds.y + bounds.height == all.height ? 0 : margin);
        byte[] rgb = new byte[Math.multiplyExact(Math.multiplyExact(width, height), 3)];
        ImageProcessor[] channels = channels(roi);
        for (int y = 0; y < bounds.height; y++) {
            for (int x = 0; x < bounds.width; x++) {
                int pixel = pixel(channels, bounds.x + x, bounds.y + y);
                if (mask != null) {
                    Rectangle whole = roi.getBounds();
                    if (mask.get(bounds.x + x - whole.x, bounds.y + y - whole.y) == 0) continue;
                }
                int place = 3 * ((y + top) * width + x + left);
                for (int band = 0; band < 3; band++) {
                    int value = pixel >> 16 - 8 * band & 255;
                    rgb[place + band] = (byte) (mask == null ? value : Math.max(value, 1)); // black is what isn't the cell
                }
            }
        }
        return Image.of(rgb, width, height, Image.Format.RGB);
    }

    private static String name(Roi roi) {
        return roi.getName() == null ? "the selection" : "'" + roi.getName() + "'";
    }

    /** One processor that knows RGB, or one for each channel, of the slice that the ROI lies on. */
    private ImageProcessor[] channels(Roi roi) {
        ImageStack stack = picture.getStack();
        int slice = picture.getZ();
        int frame = picture.getT();
        if (roi != null && roi.hasHyperStackPosition()) {
            slice = roi.getZPosition() > 0 ? roi.getZPosition() : slice;
            frame = roi.getTPosition() > 0 ? roi.getTPosition() : frame;
        } else if (roi != null && roi.getPosition() > 0 && roi.getPosition() <= picture.getStackSize()) {
            int[] place = picture.convertIndexToPosition(roi.getPosition());
            slice = place[1];
            frame = place[2];
        }
        if (picture.getType() == ImagePlus.COLOR_256 && picture.getStackSize() == 1) {
            return new ImageProcessor[] {picture.getProcessor().convertToRGB()};
        }
        if (picture.getBytesPerPixel() != 1 || picture.getNChannels() != 3) {
            return new ImageProcessor[] {stack.getProcessor(picture.getStackIndex(1, slice, frame)).convertToRGB()};
        }
        ImageProcessor[] three = new ImageProcessor[3];
        for (int i = 0; i < 3; i++) three[i] = stack.getProcessor(picture.getStackIndex(i + 1, slice, frame));
        return three;
    }

    private static int pixel(ImageProcessor[] channels, int x, int y) {
        if (channels.length == 1) return channels[0].get(x, y);
        return channels[0].get(x, y) << 16 | channels[1].get(x, y) << 8 | channels[2].get(x, y);
    }
}
