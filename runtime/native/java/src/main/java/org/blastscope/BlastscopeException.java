package org.blastscope;

/**
 * Any error of the library, one class per thing that a program would do differently. The classes bear the names of Python's
 * exceptions, and {@link #status} is the number in {@code blastscope.h}.
 *
 * <pre>
 * BlastscopeException            10  none of those below
 * ├── MemoryError                11
 * ├── Closed                     12  the scope was closed
 * ├── UsageError                 20  an argument is wrong
 * │   ├── ImageError             21  not an image at all
 * │   └── DataError              22  a file of the caller's, such as a key, can't be used
 * ├── BundleError                30  the bundle can't be used: get a good copy
 * │   ├── DigestMismatch         31  a file of it differs from what the manifest says
 * │   ├── FormatTooNew           32  written for a later version: upgrade
 * │   ├── GoldenMismatch         33  this engine answers differently from the networks that were trained
 * │   ├── UngatedBundle          34  a benchmark bundle, whose answers mean nothing
 * │   └── SignatureError         35  it isn't signed by a key that was required: ask its maker
 * └── UnavailableError           40  this machine lacks something
 *     ├── MissingLibrary         41  libblastscope, or what it needs, wasn't found
 *     ├── DeviceError            42  no such device
 *     └── EngineError            43  the inference library refused or broke off
 * </pre>
 */
public class BlastscopeException extends RuntimeException {
    private static final long serialVersionUID = 1;

    private final int status;

    BlastscopeException(int status, String message) {
        super(message);
        this.status = status;
    }

    /** The status of {@code blastscope.h}, such as 31. */
    public int status() {
        return status;
    }

    /** The exception for a status; the closest known one for a number that this version doesn't know. */
    static BlastscopeException of(int status, String message) {
        switch (status) {
            case 11: return new MemoryError(message);
            case 12: return new Closed(message);
            case 21: return new ImageError(message);
            case 22: return new DataError(message);
            case 31: return new DigestMismatch(message);
            case 32: return new FormatTooNew(message);
            case 33: return new GoldenMismatch(message);
            case 34: return new UngatedBundle(message);
            case 35: return new SignatureError(message);
            case 41: return new MissingLibrary(message);
            case 42: return new DeviceError(message);
            case 43: return new EngineError(message);
            default:
        }
        switch (status / 10) {
            case 2: return new UsageError(status, message);
            case 3: return new BundleError(status, message);
            case 4: return new UnavailableError(status, message);
            default: return new BlastscopeException(status, message);
        }
    }

    /** The machine's memory doesn't suffice. */
    public static final class MemoryError extends BlastscopeException {
        private static final long serialVersionUID = 1;

        MemoryError(String message) {
            super(11, message);
        }
    }

    /** The scope was closed: open the bundle again. */
    public static final class Closed extends BlastscopeException {
        private static final long serialVersionUID = 1;

        Closed(String message) {
            super(12, message);
        }
    }

    /** An argument is wrong. */
    public static class UsageError extends BlastscopeException {
        private static final long serialVersionUID = 1;

        UsageError(int status, String message) {
            super(status, message);
        }
    }

    /** Not an image at all: fewer bytes than its size needs, strides that can't be. */
    public static final class ImageError extends UsageError {
        private static final long serialVersionUID = 1;

        ImageError(String message) {
            super(21, message);
        }
    }

    /** A file of the caller's, such as a key, can't be used. */
    public static final class DataError extends UsageError {
        private static final long serialVersionUID = 1;

        DataError(String message) {
            super(22, message);
        }
    }

    /** The bundle can't be used: get a good copy. */
    public static class BundleError extends BlastscopeException {
        private static final long serialVersionUID = 1;

        BundleError(int status, String message) {
            super(status, message);
        }
    }

    /** A file of the bundle differs from what its manifest says. */
    public static final class DigestMismatch extends BundleError {
        private static final long serialVersionUID = 1;

        DigestMismatch(String message) {
            super(31, message);
        }
    }

    /** The bundle was written for a later version: upgrade. */
    public static final class FormatTooNew extends BundleError {
        private static final long serialVersionUID = 1;

        FormatTooNew(String message) {
            super(32, message);
        }
    }

    /** This engine answers differently from the networks that were trained. */
    public static final class GoldenMismatch extends BundleError {
        private static final long serialVersionUID = 1;

        GoldenMismatch(String message) {
            super(33, message);
        }
    }

    /** A benchmark bundle, whose answers mean nothing. */
    public static final class UngatedBundle extends BundleError {
        private static final long serialVersionUID = 1;

        UngatedBundle(String message) {
            super(34, message);
        }
    }

    /** The bundle isn't signed by a key that was required: ask its maker. */
    public static final class SignatureError extends BundleError {
        private static final long serialVersionUID = 1;

        SignatureError(String message) {
            super(35, message);
        }
    }

    /** This machine lacks something. */
    public static class UnavailableError extends BlastscopeException {
        private static final long serialVersionUID = 1;

        UnavailableError(int status, String message) {
            super(status, message);
        }
    }

    /** libblastscope, or a library that it needs, wasn't found. */
    public static final class MissingLibrary extends UnavailableError {
        private static final long serialVersionUID = 1;

        MissingLibrary(String message) {
            super(41, message);
        }
    }

    /** No such device, or one that doesn't compute in what was asked for. */
    public static final class DeviceError extends UnavailableError {
        private static final long serialVersionUID = 1;

        DeviceError(String message) {
            super(42, message);
        }
    }

    /** The inference library refused or broke off. */
    public static final class EngineError extends UnavailableError {
        private static final long serialVersionUID = 1;

        EngineError(String message) {
            super(43, message);
        }
    }
}
