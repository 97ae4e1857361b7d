package org.blastscope;

import com.sun.jna.Pointer;
import java.nio.ByteBuffer;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicLong;

/**
 * An open bundle, for any number of threads at once. Close it: what it holds lies outside of Java's heap.
 *
 * <pre>
 * try (Scope scope = Scope.open(Paths.get("shipped"))) {
 *     Prediction prediction = scope.classify(Image.of(ImageIO.read(new File("cell.png"))));
 *     System.out.println(prediction.called() ? prediction.label() : prediction.detail());
 * }
 * </pre>
 *
 * A method of a scope that was closed raises {@link BlastscopeException.Closed}. What an image itself is to blame for is no
 * exception but a {@link Prediction#refusal}.
 */
public final class Scope implements AutoCloseable {
    private static final int PREDICTION_AT = 64; // in the scratch buffer, behind a `blastscope_image`
    private static final int PIXELS_AT = 512;
    private static final String[] AUDIT = {"bundle", "engine", "backend", "device", "precision", "execution", "layout"};
    private static final int NAME = 7;
    private static final int NOTES = 8;
    private static final ConcurrentHashMap<Long, CompletableFuture<Prediction>> WAITING = new ConcurrentHashMap<>();
    private static final AtomicLong NUMBERS = new AtomicLong();
    private static final Native.Answer ANSWERED = Native.attached(Scope::answered);

    private final long handle;

    private Scope(long handle) {
        this.handle = handle;
    }

    /**
     * Says which file is libblastscope, before the first bundle is opened. Without it the property {@code blastscope.library} names
     * the file, or JNA looks for it ({@code jna.library.path}, then as the system does). Once one was found, it stays.
     */
    public static void load(Path library) {
        Native.load(library.toAbsolutePath().toString());
    }

    /** The library's version, such as "0.1.0". */
    public static String version() {
        Native.ready();
        return Native.blastscope_version();
    }

    /** Opens a bundle, a folder or a zip, with the defaults. */
    public static Scope open(Path bundle) {
        return open(bundle, new Options());
    }

    /**
     * Opens a bundle: verifies all of its files, loads a network and holds it to the bundle's golden set, which takes a second or more.
     * Raises {@link BlastscopeException.BundleError} and its kinds for a bundle that can't be used,
     * {@link BlastscopeException.UsageError} for options that don't exist, and {@link BlastscopeException.UnavailableError} and its
     * kinds for what this machine lacks.
     */
    public static Scope open(Path bundle, Options options) {
        Native.ready();
        byte[] text = Native.encoded(bundle.toString());
        ByteBuffer path = Native.allocate(text.length);
        Native.write(path, 0, text);
        ByteBuffer handle = Native.allocate(8);
        ByteBuffer record = options.filled();
        int status = Native.blastscope_open(path, record, handle);
        Native.keepUntilHere(record);
        Native.check(status);
        return new Scope(handle.getLong(0));
    }

    /** The call on one image. */
    public Prediction classify(Image image) {
        ByteBuffer block = Native.scratch(PIXELS_AT + image.copied());
        image.fill(block, 0, block, PIXELS_AT);
        ByteBuffer prediction = Native.part(block, PREDICTION_AT, Native.PREDICTION_BYTES);
        int status = Native.blastscope_classify(handle, block, prediction);
        image.keepUntilHere();
        Native.check(status);
        return new Prediction(prediction);
    }

    /**
     * The calls on several images, in their order, spread over the bundle's lanes. Where an engine breaks off the first error is raised.
     */
    public List<Prediction> classifyMany(List<Image> images) {
        int count = images.size();
        long size = (long) count * (Native.IMAGE_BYTES + Native.PREDICTION_BYTES);
        long copied = 0;
        for (Image image : images) copied += image.copied();
        ByteBuffer block = Native.allocate(size + copied);
        int place = (int) size;
        for (int i = 0; i < count; i++) {
            images.get(i).fill(block, i * Native.IMAGE_BYTES, block, place);
            place += (int) images.get(i).copied();
        }
        ByteBuffer predictions = Native.part(block, count * Native.IMAGE_BYTES, count * Native.PREDICTION_BYTES);
        int status = Native.blastscope_classify_many(handle, block, count, predictions);
        for (Image image : images) image.keepUntilHere();
        Native.check(status);
        List<Prediction> found = new ArrayList<>(count);
        for (int i = 0; i < count; i++) {
            found.add(new Prediction(Native.part(predictions, i * Native.PREDICTION_BYTES, Native.PREDICTION_BYTES)));
        }
        return found;
    }

    /**
     * The call to come. The image is cropped before this returns, so that its pixels may be used again; it waits while the line is
     * full. The future, and what is chained to it, is completed in Java's common pool, where it may do all that a scope can.
     */
    public CompletableFuture<Prediction> submit(Image image) {
        CompletableFuture<Prediction> future = new CompletableFuture<>();
        long number = NUMBERS.incrementAndGet();
        WAITING.put(number, future);
        int status = -1;
        try {
            ByteBuffer block = Native.scratch(PIXELS_AT + image.copied());
            image.fill(block, 0, block, PIXELS_AT);
            status = Native.blastscope_submit(handle, block, ANSWERED, new Pointer(number), null);
            image.keepUntilHere();
            Native.check(status);
        } finally {
            if (status != 0) WAITING.remove(number);
        }
        return future;
    }

    private static void answered(Pointer user, long ticket, int status, Pointer prediction, Pointer message) {
        CompletableFuture<Prediction> future = WAITING.remove(Pointer.nativeValue(user));
        if (future == null) return;
        if (status == 0) {
            Prediction found = new Prediction(prediction.getByteBuffer(0, Native.PREDICTION_BYTES));
            CompletableFuture.runAsync(() -> future.complete(found));
        } else {
            BlastscopeException error = BlastscopeException.of(status, Native.text(message));
            CompletableFuture.runAsync(() -> future.completeExceptionally(error));
        }
    }

    /** The square that the networks get of an image, or why they get none. */
    public Crop crop(Image image) {
        int side = side();
        ByteBuffer pixels = Native.allocate((long) side * side * 3);
        ByteBuffer block = Native.scratch(PIXELS_AT + image.copied());
        image.fill(block, 0, block, PIXELS_AT);
        ByteBuffer prediction = Native.part(block, PREDICTION_AT, Native.PREDICTION_BYTES);
        ByteBuffer told = Native.part(block, PREDICTION_AT + Native.PREDICTION_BYTES, 4);
        int status = Native.blastscope_crop(handle, block, pixels, pixels.capacity(), told, prediction);
        image.keepUntilHere();
        Native.check(status);
        Prediction found = new Prediction(prediction);
        byte[] rgb = null;
        if (found.refusal() == null) {
            rgb = new byte[pixels.capacity()];
            pixels.get(rgb);
        }
        return new Crop(rgb, side, found);
    }

    private int side() {
        ByteBuffer told = Native.part(Native.scratch(PIXELS_AT), 0, 4);
        Native.check(Native.blastscope_crop(handle, null, null, 0, told, null));
        return told.getInt(0);
    }

    /** What answers, by the names of Python's `Audit`: digests of bundle and engine, backend, device, precision, execution, layout. */
    public Map<String, String> audit() {
        Map<String, String> found = new LinkedHashMap<>();
        for (int i = 0; i < AUDIT.length; i++) found.put(AUDIT[i], describe(i));
        return Collections.unmodifiableMap(found);
    }

    /** The bundle's name. */
    public String bundleName() {
        return describe(NAME);
    }

    /** What opening chose and passed over, and why: a sentence a line. */
    public String notes() {
        return describe(NOTES);
    }

    private String describe(int text) {
        Pointer found = Native.blastscope_describe(handle, text);
        if (found == null) {
            String message = Native.lastError();
            Native.check(Native.blastscope_classify_many(handle, null, 0, null)); // has the status of what is the matter
            throw BlastscopeException.of(10, message);
        }
        return Native.text(found);
    }

    /** Waits for the calls under way, answers what was submitted, and frees the networks. A second time it does nothing. */
    @Override
    public void close() {
        int status = Native.blastscope_close(handle);
        if (status != 12) Native.check(status);
    }
}
