package org.blastscope;

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.Collections;
import java.util.EnumSet;
import java.util.Locale;
import java.util.Set;

/** The call on one image, or the reason why there is none. */
public final class Prediction {
    /** What a cell is called. */
    public enum Label {
        /** A normal cell. */
        HEM,
        /** A malignant lymphoblast. */
        ALL;

        /** "hem" or "all", as Python says. */
        @Override
        public String toString() {
            return name().toLowerCase(Locale.ROOT);
        }
    }

    /** The networks that vote. */
    public enum Voter {
        A,
        B,
        COMBINED;

        /** "a", "b" or "combined", as Python says. */
        @Override
        public String toString() {
            return name().toLowerCase(Locale.ROOT);
        }
    }

    /** Why an image got no label. Those that {@code blastscope.h} doesn't raise come from Python alone. */
    public enum Refusal {
        UNDECODABLE,
        BOMB,
        NOT_8_BIT_RGB,
        EMPTY,
        NOT_ON_BLACK,
        TOUCHES_BORDER,
        TOO_SMALL,
        TOO_LARGE,
        CLUMPED,
        OUT_OF_FOCUS,
        NOT_LYMPHOID,
        UNLIKE_TRAINING,
        FAILED,
        UNSEGMENTED,
        /** One that a later library knows. */
        OTHER;

        /** The code that Python and the command line use, such as "touches-border". */
        public String code() {
            return name().toLowerCase(Locale.ROOT).replace('_', '-');
        }
    }

    /** The cell's place: pixels of the image, half-open. */
    public static final class Box {
        public final int x0;
        public final int y0;
        public final int x1;
        public final int y1;

        Box(int x0, int y0, int x1, int y1) {
            this.x0 = x0;
            this.y0 = y0;
            this.x1 = x1;
            this.y1 = y1;
        }

        @Override
        public String toString() {
            return "[" + x0 + ", " + y0 + ", " + x1 + ", " + y1 + "]";
        }
    }

    static final int STATUS = 12;

    private final Label label;
    private final Voter voter;
    private final Refusal refusal;
    private final float probability;
    private final float score;
    private final float[] probabilities = new float[6];
    private final float novelty;
    private final Set<Label> set;
    private final boolean decidedEarly;
    private final Box box;
    private final String detail;

    /** Copies a `blastscope_prediction`. */
    Prediction(ByteBuffer record) {
        int told = record.getInt(0);
        label = told < 0 ? null : Label.values()[told];
        int decided = record.getInt(4);
        voter = decided < 0 ? null : Voter.values()[decided];
        int refused = record.getInt(8);
        Refusal[] refusals = Refusal.values();
        refusal = refused == 0 ? null : refusals[Math.min(refused, refusals.length) - 1];
        probability = record.getFloat(16);
        score = record.getFloat(20);
        for (int i = 0; i < 6; i++) probabilities[i] = record.getFloat(24 + 4 * i);
        novelty = record.getFloat(48);
        set = classes(record.getInt(52));
        decidedEarly = record.getInt(56) != 0;
        box = record.getInt(60) == 0
                ? null
                : new Box(record.getInt(64), record.getInt(68), record.getInt(72), record.getInt(76));
        byte[] text = new byte[256];
        int length = 0;
        while (length < text.length && record.get(80 + length) != 0) {
            text[length] = record.get(80 + length);
            length++;
        }
        detail = new String(text, 0, length, StandardCharsets.UTF_8);
    }

    private static Set<Label> classes(int bits) {
        if (bits < 0) return null;
        Set<Label> found = EnumSet.noneOf(Label.class);
        for (Label one : Label.values()) {
            if ((bits >> one.ordinal() & 1) != 0) found.add(one);
        }
        return Collections.unmodifiableSet(found);
    }

    /** Whether there is a label. */
    public boolean called() {
        return label != null;
    }

    /** The label; null where the image was refused. */
    public Label label() {
        return label;
    }

    /** The voter that decided; null where the image was refused. */
    public Voter voter() {
        return voter;
    }

    /** Why there is no label; null where there is one. */
    public Refusal refusal() {
        return refusal;
    }

    /** What to tell a person about the refusal; "" where there is none. */
    public String detail() {
        return detail;
    }

    /** The deciding voter's probability of the label, 0 to 1; NaN where the image was refused. */
    public float probability() {
        return probability;
    }

    /** The deciding voter's probability of ALL, 0 to 1: put thresholds on this. NaN where the image was refused. */
    public float score() {
        return score;
    }

    /** A voter's probability of a class; NaN where the image was refused, or that voter was not run. */
    public float probability(Voter of, Label label) {
        return probabilities[2 * of.ordinal() + label.ordinal()];
    }

    /** The distance from the training's cells, about 1 for one of them; NaN where it isn't measured. */
    public float novelty() {
        return novelty;
    }

    /** The classes that can't be excluded; null where the bundle has no levels for it. */
    public Set<Label> set() {
        return set;
    }

    /** Whether a cascade's first voter decided alone. */
    public boolean decidedEarly() {
        return decidedEarly;
    }

    /** Where the cell lies; null where none was found. */
    public Box box() {
        return box;
    }

    @Override
    public String toString() {
        return label != null
                ? String.format(Locale.ROOT, "%s %.4f", label, probability)
                : "refused as " + refusal.code() + ": " + detail;
    }
}
