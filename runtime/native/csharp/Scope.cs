using System;
using System.Buffers;
using System.Collections.Generic;
using System.Runtime.InteropServices;
using System.Threading.Tasks;

namespace Blastscope
{
    /// <summary>
    /// An open bundle, for any number of threads at once. Dispose of it: what it holds lies outside of the managed heap.
    /// </summary>
    /// <remarks>
    /// A member of a scope that was closed raises <see cref="ClosedException"/>. What an image itself is to blame for is no exception
    /// but a <see cref="Prediction.Refusal"/>.
    /// </remarks>
    public sealed unsafe class Scope : IDisposable
    {
        private const int Closed = 12;
        private static readonly string[] AuditNames = { "bundle", "engine", "backend", "device", "precision", "execution", "layout" };
        private static readonly NativeCallback Answer = Answered; // held here as long as C may call it

        private readonly Handle handle;

        /// <summary>
        /// Opens a bundle, a folder or a zip: verifies all of its files, loads a network and holds it to the bundle's golden set, which
        /// takes a second or more.
        /// </summary>
        /// <exception cref="BundleException">The bundle can't be used.</exception>
        /// <exception cref="UsageException">An option that doesn't exist.</exception>
        /// <exception cref="UnavailableException">This machine lacks something.</exception>
        public Scope(string bundle, Options options = null)
        {
            if (bundle == null) throw new ArgumentNullException(nameof(bundle));
            Native.Ready();
            handle = new Handle((options ?? new Options()).Open(bundle));
        }

        /// <summary>The library's version, such as "0.1.0".</summary>
        public static string Version
        {
            get
            {
                Native.Ready();
                return Native.Text(Native.blastscope_version());
            }
        }

        /// <summary>The call on one image, in pixels that are read where they lie.</summary>
        public Prediction Classify(
            ReadOnlySpan<byte> pixels, int width, int height, PixelFormat format = PixelFormat.Rgb, long rowStride = 0)
        {
            fixed (byte* first = pixels) return Classify(Image.At(first, pixels.Length, width, height, format, rowStride));
        }

        /// <summary>The call on one image.</summary>
        public Prediction Classify(Image image)
        {
            using (MemoryHandle pinned = image.Pixels.Pin()) return Classify(image.At((byte*)pinned.Pointer));
        }

        private Prediction Classify(NativeImage image)
        {
            NativePrediction prediction;
            using (Lease lease = handle.Take())
            {
                byte nothing;
                if (image.Pixels == null) image.Pixels = &nothing; // an empty span has no address
                Native.Check(Native.blastscope_classify(lease.Number, &image, &prediction));
            }
            return new Prediction(&prediction);
        }

        /// <summary>
        /// The calls on several images, in their order, spread over the bundle's lanes. Where an engine breaks off the first error is raised.
        /// </summary>
        public IReadOnlyList<Prediction> ClassifyMany(IReadOnlyList<Image> images)
        {
            var pinned = new MemoryHandle[images.Count];
            var records = new NativeImage[images.Count + 1]; // never of no length, which would have no address
            var predictions = new NativePrediction[images.Count + 1];
            var found = new Prediction[images.Count];
            try
            {
                fixed (NativeImage* firstImage = records)
                fixed (NativePrediction* firstPrediction = predictions)
                {
                    for (int i = 0; i < found.Length; i++)
                    {
                        pinned[i] = images[i].Pixels.Pin();
                        records[i] = images[i].At((byte*)pinned[i].Pointer);
                        if (records[i].Pixels == null) records[i].Pixels = (byte*)firstImage;
                    }
                    using (Lease lease = handle.Take())
                    {
                        Native.Check(Native.blastscope_classify_many(
                            lease.Number, firstImage, (UIntPtr)(uint)found.Length, firstPrediction));
                    }
                    for (int i = 0; i < found.Length; i++) found[i] = new Prediction(firstPrediction + i);
                }
            }
            finally
            {
                foreach (MemoryHandle one in pinned) one.Dispose();
            }
            return found;
        }

        /// <summary>
        /// The call to come. The image is cropped before this returns, so that its pixels may be used again; it waits while the line is
        /// full. What awaits the task goes on in a thread of .NET's, where it may do all that a scope can.
        /// </summary>
        public Task<Prediction> ClassifyAsync(
            ReadOnlySpan<byte> pixels, int width, int height, PixelFormat format = PixelFormat.Rgb, long rowStride = 0)
        {
            fixed (byte* first = pixels) return Submit(Image.At(first, pixels.Length, width, height, format, rowStride));
        }

        /// <summary>The call to come.</summary>
        public Task<Prediction> ClassifyAsync(Image image)
        {
            using (MemoryHandle pinned = image.Pixels.Pin()) return Submit(image.At((byte*)pinned.Pointer));
        }

        private Task<Prediction> Submit(NativeImage image)
        {
            var source = new TaskCompletionSource<Prediction>(TaskCreationOptions.RunContinuationsAsynchronously);
            GCHandle kept = GCHandle.Alloc(source);
            bool submitted = false;
            try
            {
                byte nothing;
                if (image.Pixels == null) image.Pixels = &nothing;
                using (Lease lease = handle.Take())
                    Native.Check(Native.blastscope_submit(lease.Number, &image, Answer, GCHandle.ToIntPtr(kept), null));
                submitted = true; // the callback frees it from here on
            }
            finally
            {
                if (!submitted) kept.Free();
            }
            return source.Task;
        }

        private static void Answered(IntPtr user, ulong ticket, int status, NativePrediction* prediction, byte* message)
        {
            GCHandle kept = GCHandle.FromIntPtr(user);
            var source = (TaskCompletionSource<Prediction>)kept.Target;
            kept.Free();
            try
            {
                if (status == 0) source.TrySetResult(new Prediction(prediction));
                else source.TrySetException(BlastscopeException.Of(status, Native.Text(message)));
            }
            catch (Exception error) // nothing may leave a callback of C's
            {
                source.TrySetException(error);
            }
        }

        /// <summary>Width and height of the crops, in pixels.</summary>
        public int CropSide
        {
            get
            {
                int side;
                using (Lease lease = handle.Take()) Native.Check(Native.blastscope_crop(lease.Number, null, null, UIntPtr.Zero, &side, null));
                return side;
            }
        }

        /// <summary>
        /// Writes the square that the networks get of an image into `crop`, <see cref="CropSide"/> squared RGB without gaps. The result
        /// tells the box, or the refusal, in which case `crop` is left alone; it has no label.
        /// </summary>
        /// <exception cref="UsageException">`crop` is too small.</exception>
        public Prediction Crop(
            ReadOnlySpan<byte> pixels, int width, int height, Span<byte> crop, PixelFormat format = PixelFormat.Rgb, long rowStride = 0)
        {
            NativePrediction prediction;
            int side;
            byte nothing;
            fixed (byte* first = pixels)
            fixed (byte* into = crop)
            {
                NativeImage image = Image.At(first, pixels.Length, width, height, format, rowStride);
                if (image.Pixels == null) image.Pixels = &nothing;
                byte* room = into == null ? &nothing : into;
                using (Lease lease = handle.Take())
                    Native.Check(Native.blastscope_crop(lease.Number, &image, room, (UIntPtr)(uint)crop.Length, &side, &prediction));
            }
            return new Prediction(&prediction);
        }

        /// <summary>
        /// What answers, by the names of Python's `Audit`: digests of bundle and engine, backend, device, precision, execution, layout.
        /// </summary>
        public IReadOnlyDictionary<string, string> Audit
        {
            get
            {
                var found = new Dictionary<string, string>();
                for (int i = 0; i < AuditNames.Length; i++) found[AuditNames[i]] = Describe(i);
                return found;
            }
        }

        /// <summary>The bundle's name.</summary>
        public string BundleName => Describe(7);

        /// <summary>What opening chose and passed over, and why: a sentence a line.</summary>
        public string Notes => Describe(8);

        private string Describe(int text)
        {
            using (Lease lease = handle.Take())
            {
                byte* found = Native.blastscope_describe(lease.Number, text);
                if (found != null) return Native.Text(found);
                string message = Native.Text(Native.blastscope_last_error());
                Native.Check(Native.blastscope_classify_many(lease.Number, null, UIntPtr.Zero, null)); // has the status of what is the matter
                throw BlastscopeException.Of(10, message);
            }
        }

        /// <summary>Waits for the calls under way, answers what was submitted, and frees the networks. A second time it does nothing.</summary>
        public void Dispose()
        {
            if (handle.IsClosed) return;
            int status = Native.blastscope_close(handle.Number); // here, not in the handle, which would not wait for other threads
            if (status != Closed) Native.Check(status);
            handle.Dispose();
        }

        /// <summary>A call's hold on the handle: while there is one, the finalizer leaves the bundle open.</summary>
        private readonly struct Lease : IDisposable
        {
            private readonly Handle handle;

            internal Lease(Handle handle)
            {
                this.handle = handle;
                bool taken = false;
                try
                {
                    handle.DangerousAddRef(ref taken);
                }
                catch (ObjectDisposedException)
                {
                    throw new ClosedException("the scope is closed: open the bundle again");
                }
            }

            internal ulong Number => handle.Number;

            public void Dispose()
            {
                handle.DangerousRelease();
            }
        }

        private sealed class Handle : SafeHandle
        {
            internal Handle(ulong number) : base(IntPtr.Zero, true)
            {
                SetHandle((IntPtr)(long)number);
            }

            public override bool IsInvalid => handle == IntPtr.Zero;

            internal ulong Number => (ulong)(long)handle;

            internal Lease Take()
            {
                return new Lease(this);
            }

            protected override bool ReleaseHandle()
            {
                int status = Native.blastscope_close(Number);
                return status == 0 || status == Closed;
            }
        }
    }
}
