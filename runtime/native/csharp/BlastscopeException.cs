using System;

namespace Blastscope
{
    /// <summary>
    /// Any error of the library, one class per thing that a program would do differently; <see cref="Status"/> is the number in
    /// blastscope.h. The classes bear the names of Python's exceptions.
    /// </summary>
    /// <remarks><code>
    /// BlastscopeException                10  none of those below
    /// ├── MemoryException                11
    /// ├── ClosedException                12  the scope was closed
    /// ├── UsageException                 20  an argument is wrong
    /// │   ├── ImageException             21  not an image at all
    /// │   └── DataException              22  a file of the caller's, such as a key, can't be used
    /// ├── BundleException                30  the bundle can't be used: get a good copy
    /// │   ├── DigestMismatchException    31  a file of it differs from what the manifest says
    /// │   ├── FormatTooNewException      32  written for a later version: upgrade
    /// │   ├── GoldenMismatchException    33  this engine answers differently from the networks that were trained
    /// │   ├── UngatedBundleException     34  a benchmark bundle, whose answers mean nothing
    /// │   └── SignatureException         35  it isn't signed by a key that was required: ask its maker
    /// └── UnavailableException           40  this machine lacks something
    ///     ├── MissingLibraryException    41  libblastscope, or what it needs, wasn't found
    ///     ├── DeviceException            42  no such device
    ///     └── EngineException            43  the inference library refused or broke off
    /// </code></remarks>
    public class BlastscopeException : Exception
    {
        internal BlastscopeException(int status, string message, Exception cause = null) : base(message, cause)
        {
            Status = status;
        }

        /// <summary>The status of blastscope.h, such as 31.</summary>
        public int Status { get; }

        /// <summary>The exception for a status; the closest known one for a number that this version doesn't know.</summary>
        internal static BlastscopeException Of(int status, string message)
        {
            switch (status)
            {
                case 11: return new MemoryException(message);
                case 12: return new ClosedException(message);
                case 21: return new ImageException(message);
                case 22: return new DataException(message);
                case 31: return new DigestMismatchException(message);
                case 32: return new FormatTooNewException(message);
                case 33: return new GoldenMismatchException(message);
                case 34: return new UngatedBundleException(message);
                case 35: return new SignatureException(message);
                case 41: return new MissingLibraryException(message);
                case 42: return new DeviceException(message);
                case 43: return new EngineException(message);
            }
            switch (status / 10)
            {
                case 2: return new UsageException(status, message);
                case 3: return new BundleException(status, message);
                case 4: return new UnavailableException(status, message);
                default: return new BlastscopeException(status, message);
            }
        }
    }

    /// <summary>The machine's memory doesn't suffice.</summary>
    public sealed class MemoryException : BlastscopeException
    {
        internal MemoryException(string message) : base(11, message) { }
    }

    /// <summary>The scope was closed: open the bundle again.</summary>
    public sealed class ClosedException : BlastscopeException
    {
        internal ClosedException(string message) : base(12, message) { }
    }

    /// <summary>An argument is wrong.</summary>
    public class UsageException : BlastscopeException
    {
        internal UsageException(int status, string message) : base(status, message) { }
    }

    /// <summary>Not an image at all: fewer bytes than its size needs, strides that can't be.</summary>
    public sealed class ImageException : UsageException
    {
        internal ImageException(string message) : base(21, message) { }
    }

    /// <summary>A file of the caller's, such as a key, can't be used.</summary>
    public sealed class DataException : UsageException
    {
        internal DataException(string message) : base(22, message) { }
    }

    /// <summary>The bundle can't be used: get a good copy.</summary>
    public class BundleException : BlastscopeException
    {
        internal BundleException(int status, string message) : base(status, message) { }
    }

    /// <summary>A file of the bundle differs from what its manifest says.</summary>
    public sealed class DigestMismatchException : BundleException
    {
        internal DigestMismatchException(string message) : base(31, message) { }
    }

    /// <summary>The bundle was written for a later version: upgrade.</summary>
    public sealed class FormatTooNewException : BundleException
    {
        internal FormatTooNewException(string message) : base(32, message) { }
    }

    /// <summary>This engine answers differently from the networks that were trained.</summary>
    public sealed class GoldenMismatchException : BundleException
    {
        internal GoldenMismatchException(string message) : base(33, message) { }
    }

    /// <summary>A benchmark bundle, whose answers mean nothing.</summary>
    public sealed class UngatedBundleException : BundleException
    {
        internal UngatedBundleException(string message) : base(34, message) { }
    }

    /// <summary>The bundle isn't signed by a key that was required: ask its maker.</summary>
    public sealed class SignatureException : BundleException
    {
        internal SignatureException(string message) : base(35, message) { }
    }

    /// <summary>This machine lacks something.</summary>
    public class UnavailableException : BlastscopeException
    {
        internal UnavailableException(int status, string message, Exception cause = null) : base(status, message, cause) { }
    }

    /// <summary>libblastscope, or a library that it needs, wasn't found.</summary>
    public sealed class MissingLibraryException : UnavailableException
    {
        internal MissingLibraryException(string message, Exception cause = null) : base(41, message, cause) { }
    }

    /// <summary>No such device, or one that doesn't compute in what was asked for.</summary>
    public sealed class DeviceException : UnavailableException
    {
        internal DeviceException(string message) : base(42, message) { }
    }

    /// <summary>The inference library refused or broke off.</summary>
    public sealed class EngineException : UnavailableException
    {
        internal EngineException(string message) : base(43, message) { }
    }
}
