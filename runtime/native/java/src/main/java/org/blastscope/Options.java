package org.blastscope;

import java.nio.ByteBuffer;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Objects;

/**
 * How {@link Scope#open} opens a bundle: the defaults, and what is set. What {@code blastscope.h} says of each option holds here.
 *
 * <pre>new Options().workload("throughput").threads(4)</pre>
 */
public final class Options {
    private final Map<Integer, String> texts = new LinkedHashMap<>();  // by their offset in blastscope_options
    private final Map<Integer, Integer> numbers = new LinkedHashMap<>();

    /** "cpu", or "openvino:NAME" for a device of OpenVINO. */
    public Options device(String value) {
        return set(8, value);
    }

    /** "fp32", "fp16" or "int8". */
    public Options precision(String value) {
        return set(16, value);
    }

    /** "f32", "bf16", "f16" or "int8". */
    public Options execution(String value) {
        return set(24, value);
    }

    /** "fused", "side-by-side", "paired" or "staged". */
    public Options layout(String value) {
        return set(32, value);
    }

    /** "latency": one answer soon; "throughput": many answers. */
    public Options workload(String value) {
        return set(40, value);
    }

    /** The folder for compiled engines, shared with Python. */
    public Options cacheDir(Path value) {
        return set(48, value.toString());
    }

    /** Cores to use. */
    public Options threads(int value) {
        return set(4, value);
    }

    /** How many images may wait in {@link Scope#submit}. */
    public Options queue(int value) {
        return set(56, value);
    }

    /** Opens a bundle whose gate was waived, too. Its calls mean nothing. */
    public Options allowUngated(boolean value) {
        return set(60, value ? 1 : 0);
    }

    /** The bundle's first voter may decide alone where it is sure. */
    public Options cascade(boolean value) {
        return set(64, value ? 1 : 0);
    }

    /** Calls cells unlike those of the training, which are refused else. */
    public Options callUnlikeTraining(boolean value) {
        return set(68, value ? 1 : 0);
    }

    /** Whether to measure after the first answer what is fastest here, for the next opening; true by default. */
    public Options measure(boolean value) {
        return set(72, value ? 1 : 0);
    }

    /** Paths of public keys in PEM, one of which must have signed the bundle; "trusted" stands for those of the user. */
    public Options requireSignature(String... keys) {
        for (String key : keys) {
            if (key.indexOf('\n') >= 0) throw new BlastscopeException.UsageError(20, "a key's path with a line break: '" + key + "'");
        }
        return set(80, String.join("\n", keys));
    }

    private Options set(int offset, String value) {
        texts.put(offset, Objects.requireNonNull(value, "an option's value"));
        return this;
    }

    private Options set(int offset, int value) {
        numbers.put(offset, value);
        return this;
    }

    /** The structure `blastscope_options`, with the texts behind it in the same buffer. */
    ByteBuffer filled() {
        int size = Native.OPTIONS_BYTES;
        Map<Integer, byte[]> encoded = new LinkedHashMap<>();
        for (Map.Entry<Integer, String> text : texts.entrySet()) {
            byte[] bytes = Native.encoded(text.getValue());
            encoded.put(text.getKey(), bytes);
            size += bytes.length;
        }
        ByteBuffer record = Native.allocate(size);
        Native.blastscope_options_init(record, Native.OPTIONS_BYTES);
        for (Map.Entry<Integer, Integer> number : numbers.entrySet()) record.putInt(number.getKey(), number.getValue());
        int place = Native.OPTIONS_BYTES;
        for (Map.Entry<Integer, byte[]> text : encoded.entrySet()) {
            record.putLong(text.getKey(), Native.address(record) + place);
            Native.write(record, place, text.getValue());
            place += text.getValue().length;
        }
        return record;
    }

    /** The options that were set, by offset: equal where two open the same way. */
    @Override
    public boolean equals(Object other) {
        return other instanceof Options && texts.equals(((Options) other).texts) && numbers.equals(((Options) other).numbers);
    }

    @Override
    public int hashCode() {
        return texts.hashCode() * 31 + numbers.hashCode();
    }
}
