package org.blastscope;

/** The square image that the networks get of a cell, or the reason why they get none. */
public final class Crop {
    private final byte[] pixels;
    private final int side;
    private final Prediction told;

    Crop(byte[] pixels, int side, Prediction told) {
        this.pixels = pixels;
        this.side = side;
        this.told = told;
    }

    /** `side` x `side` RGB without gaps; null where the image was refused. */
    public byte[] pixels() {
        return pixels;
    }

    /** Width and height in pixels. */
    public int side() {
        return side;
    }

    /** Where the cell lies in the image; null where none was found. */
    public Prediction.Box box() {
        return told.box();
    }

    /** Why there is no crop; null where there is one. */
    public Prediction.Refusal refusal() {
        return told.refusal();
    }

    /** What to tell a person about the refusal; "" where there is none. */
    public String detail() {
        return told.detail();
    }
}
