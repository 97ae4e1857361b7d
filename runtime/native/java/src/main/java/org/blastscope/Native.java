package org.blastscope;

import com.sun.jna.Callback;
import com.sun.jna.CallbackThreadInitializer;
import com.sun.jna.NativeLibrary;
import com.sun.jna.Pointer;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;

/**
 * The functions of {@code blastscope.h}, and how its structures lie in memory. Structures are buffers outside of Java's heap: the
 * header promises that they stay as they are, so their offsets are numbers here, and the library's tests compare them with C's.
 */
final class Native {
    static final int IMAGE_BYTES = 40;
    static final int PREDICTION_BYTES = 384;
    static final int OPTIONS_BYTES = 88;
    /** Where {@link Scope#load} or the property {@code blastscope.library} says that the library lies; else a name to look for. */
    private static String wanted = System.getProperty("blastscope.library", "blastscope");
    private static boolean registered;

    private static final ThreadLocal<ByteBuffer> SCRATCH = new ThreadLocal<>();
    private static volatile int touched;

    private Native() {}

    static native String blastscope_version();

    static native Pointer blastscope_last_error();

    static native String blastscope_status_name(int status);

    static native String blastscope_refusal_name(int refusal);

    static native void blastscope_options_init(ByteBuffer options, int size);

    static native int blastscope_open(ByteBuffer path, ByteBuffer options, ByteBuffer handle);

    static native int blastscope_close(long handle);

    static native Pointer blastscope_describe(long handle, int text);

    static native int blastscope_crop(long handle, ByteBuffer image, ByteBuffer crop, long size, ByteBuffer side, ByteBuffer prediction);

    static native int blastscope_classify(long handle, ByteBuffer image, ByteBuffer prediction);

    static native int blastscope_classify_many(long handle, ByteBuffer images, long count, ByteBuffer predictions);

    static native int blastscope_submit(long handle, ByteBuffer image, Answer callback, Pointer user, ByteBuffer ticket);

    /** `blastscope_callback`. */
    interface Answer extends Callback {
        void answered(Pointer user, long ticket, int status, Pointer prediction, Pointer message);
    }

    /** Finds the library where it isn't found yet. A later call may find it elsewhere. */
    static synchronized void ready() {
        if (registered) return;
        if (com.sun.jna.Native.POINTER_SIZE != 8) {
            throw new BlastscopeException.MissingLibrary("libblastscope is for 64-bit machines: take a 64-bit Java");
        }
        try {
            com.sun.jna.Native.register(Native.class, NativeLibrary.getInstance(wanted));
            registered = true;
        } catch (UnsatisfiedLinkError error) {
            throw new BlastscopeException.MissingLibrary(
                    "libblastscope isn't found as '" + wanted + "': name the file with Scope.load or -Dblastscope.library=, or its"
                            + " folder with -Djna.library.path= (" + firstLine(error.getMessage()) + ")");
        }
    }

    /** Says where the library lies, as long as none was found. */
    static synchronized void load(String path) {
        if (!registered) {
            wanted = path;
            ready();
        }
    }

    /** Keeps a library's thread attached to Java while it lives: attaching costs more than an answer's way. */
    static Answer attached(Answer answer) {
        com.sun.jna.Native.setCallbackThreadInitializer(answer, new CallbackThreadInitializer(true, false, "blastscope"));
        return answer;
    }

    /** Raises the exception for what isn't OK. */
    static void check(int status) {
        if (status != 0) throw BlastscopeException.of(status, lastError());
    }

    static String lastError() {
        return text(blastscope_last_error());
    }

    /** A text of C's, in UTF-8; "" for none. */
    static String text(Pointer place) {
        return place == null ? "" : place.getString(0, "UTF-8");
    }

    /** A zeroed buffer outside of Java's heap, in the machine's order of bytes. */
    static ByteBuffer allocate(long size) {
        if (size > Integer.MAX_VALUE - 8) {
            throw new BlastscopeException.UsageError(20, "images of more than 2 GiB in one call: pass fewer, or in direct buffers");
        }
        return ByteBuffer.allocateDirect((int) size).order(ByteOrder.nativeOrder());
    }

    /** This thread's own buffer of at least that size: for arguments of one call, which nothing keeps. */
    static ByteBuffer scratch(long size) {
        ByteBuffer found = SCRATCH.get();
        if (found == null || found.capacity() < size) {
            found = allocate(Math.max(size, 1 << 12));
            SCRATCH.set(found);
        }
        return found;
    }

    /** A part of a buffer as one of its own, whose first byte it begins with. */
    static ByteBuffer part(ByteBuffer whole, int offset, int size) {
        ByteBuffer view = whole.duplicate();
        view.limit(offset + size).position(offset);
        return view.slice().order(ByteOrder.nativeOrder());
    }

    static void write(ByteBuffer into, int offset, byte[] bytes) {
        ByteBuffer view = into.duplicate();
        view.position(offset);
        view.put(bytes);
    }

    /** A text as C has it, in UTF-8 with a 0 behind it. */
    static byte[] encoded(String text) {
        if (text.indexOf('\0') >= 0) throw new BlastscopeException.UsageError(20, "a text with a NUL character: '" + text + "'");
        return (text + '\0').getBytes(StandardCharsets.UTF_8);
    }

    /** Where a direct buffer's first byte lies, whatever its position. */
    static long address(ByteBuffer direct) {
        return Pointer.nativeValue(com.sun.jna.Native.getDirectBufferPointer(direct));
    }

    /** Holds a buffer until here, whose address alone a call was given: the collector would free it as soon as Java is done with it. */
    static void keepUntilHere(ByteBuffer buffer) {
        touched = buffer.limit();
    }

    private static String firstLine(String text) {
        return text == null ? "" : text.split("\n", 2)[0];
    }
}
