package org.blastscope;

import java.awt.image.BufferedImage;
import java.awt.image.ColorModel;
import java.awt.image.IndexColorModel;
import java.awt.image.Raster;
import java.nio.ByteBuffer;
import java.util.Objects;

/**
 * Pixels of one cell on black, which stay the caller's and aren't copied here: what they hold when a scope takes them counts.
 * Pixels in a direct buffer are read where they lie; those in an array are copied once in each call.
 */
public final class Image {
    /** The order of the bytes of a pixel; a fourth byte isn't looked at. */
    public enum Format {
        RGB(3),
        BGR(3),
        RGBA(4),
        BGRA(4);

        final int bytes;

        Format(int bytes) {
            this.bytes = bytes;
        }
    }

    private static final int[] SHIFTS = {16, 8, 0, 24}; // of red, green, blue and alpha in ARGB

    private final ByteBuffer pixels;
    private final int width;
    private final int height;
    private final Format format;
    private final long rowStride;
    private final long first;

    private Image(ByteBuffer pixels, int width, int height, Format format, long rowStride) {
        this.pixels = pixels;
        this.width = width;
        this.height = height;
        this.format = Objects.requireNonNull(format, "format");
        if (width < 0 || height < 0) throw refused("is " + width + " x " + height + " pixels");
        long row = (long) width * format.bytes;
        this.rowStride = rowStride == 0 ? row : rowStride;
        long step = Math.abs(this.rowStride);
        if (this.rowStride == Long.MIN_VALUE || step < row) throw refused("has rows of " + row + " bytes, " + rowStride + " apart");
        boolean empty = width == 0 || height == 0;
        if (!empty && step > (Long.MAX_VALUE - row) / height) throw refused("has rows that are " + rowStride + " bytes apart");
        long needed = empty ? 0 : step * (height - 1) + row;
        if (needed > pixels.remaining()) {
            throw refused("of " + width + " x " + height + " pixels needs " + needed + " bytes, and there are " + pixels.remaining());
        }
        first = this.rowStride < 0 && !empty ? step * (height - 1) : 0;
    }

    /** Packed rows, the first at the top. Raises {@link BlastscopeException.ImageError} where there are fewer bytes than that takes. */
    public static Image of(byte[] pixels, int width, int height, Format format) {
        return of(pixels, width, height, format, 0);
    }

    /** Rows that are `rowStride` bytes apart; where it is negative, the last row of the picture comes first. */
    public static Image of(byte[] pixels, int width, int height, Format format, long rowStride) {
        return new Image(ByteBuffer.wrap(pixels), width, height, format, rowStride);
    }

    /** Packed rows from the buffer's position on; its position stays. */
    public static Image of(ByteBuffer pixels, int width, int height, Format format) {
        return of(pixels, width, height, format, 0);
    }

    /** Rows that are `rowStride` bytes apart, from the buffer's position on. */
    public static Image of(ByteBuffer pixels, int width, int height, Format format, long rowStride) {
        return new Image(pixels.slice(), width, height, format, rowStride);
    }

    /**
     * A picture as ImageIO reads it, copied. What is transparent is laid on black. Colour profiles are left alone, as in Python.
     * Raises {@link BlastscopeException.ImageError} for gray pictures and those of other than 8 bits.
     */
    public static Image of(BufferedImage picture) {
        int width = picture.getWidth();
        int height = picture.getHeight();
        ColorModel model = picture.getColorModel();
        boolean indexed = model instanceof IndexColorModel;
        for (int i = 0; i < 3 && !indexed; i++) {
            if (model.getNumColorComponents() != 3 || model.getComponentSize(i) != 8) throw refused("isn't 8-bit RGB: " + model);
        }
        Raster raster = picture.getRaster();
        int bands = indexed ? 4 : raster.getNumBands();
        boolean scaled = model.hasAlpha() && !model.isAlphaPremultiplied();
        byte[] rgb = new byte[Math.multiplyExact(Math.multiplyExact(width, height), 3)];
        int[] row = new int[width * bands];
        for (int y = 0, place = 0; y < height; y++) {
            if (indexed) expand(picture, y, row);
            else raster.getPixels(raster.getMinX(), raster.getMinY() + y, width, 1, row);
            for (int x = 0; x < width; x++) {
                for (int band = 0; band < 3; band++) {
                    int value = row[bands * x + band];
                    rgb[place++] = (byte) (scaled ? (value * row[bands * x + 3] + 127) / 255 : value);
                }
            }
        }
        return of(rgb, width, height, Format.RGB);
    }

    private static void expand(BufferedImage picture, int y, int[] row) {
        for (int x = 0; x < picture.getWidth(); x++) {
            int argb = picture.getRGB(x, y);
            for (int band = 0; band < 4; band++) row[4 * x + band] = argb >>> SHIFTS[band] & 255;
        }
    }

    private static BlastscopeException refused(String why) {
        return new BlastscopeException.ImageError("an image " + why);
    }

    /** The width in pixels. */
    public int width() {
        return width;
    }

    /** The height in pixels. */
    public int height() {
        return height;
    }

    /** How many bytes a call copies out of Java's heap. */
    long copied() {
        return pixels.isDirect() ? 0 : pixels.remaining();
    }

    /** Fills a `blastscope_image`; what must be copied goes to `block` at `place`. */
    void fill(ByteBuffer record, int offset, ByteBuffer block, int place) {
        long address;
        if (pixels.isDirect()) {
            address = pixels.capacity() == 0 ? Native.address(block) : Native.address(pixels);
        } else {
            ByteBuffer room = block.duplicate();
            room.position(place);
            room.put(pixels.duplicate());
            address = Native.address(block) + place;
        }
        record.putLong(offset, address + first);
        record.putInt(offset + 8, width);
        record.putInt(offset + 12, height);
        record.putLong(offset + 16, rowStride);
        record.putLong(offset + 24, 0);
        record.putInt(offset + 32, format.ordinal());
        record.putInt(offset + 36, 0);
    }

    /** Holds the pixels until a call is done with them. */
    void keepUntilHere() {
        Native.keepUntilHere(pixels);
    }
}
