using System;
using System.Collections.Generic;
using System.Runtime.InteropServices;

namespace Blastscope
{
    /// <summary>How <see cref="Scope"/> opens a bundle. A text that is null is "auto", as is each number's 0.</summary>
    public sealed class Options
    {
        /// <summary>"cpu", or "openvino:NAME" for a device of OpenVINO.</summary>
        public string Device { get; set; }

        /// <summary>"fp32", "fp16" or "int8".</summary>
        public string Precision { get; set; }

        /// <summary>"f32", "bf16", "f16" or "int8".</summary>
        public string Execution { get; set; }

        /// <summary>"fused", "side-by-side", "paired" or "staged".</summary>
        public string Layout { get; set; }

        /// <summary>"latency": one answer soon; "throughput": many answers.</summary>
        public string Workload { get; set; }

        /// <summary>The folder for compiled engines, shared with Python.</summary>
        public string CacheDir { get; set; }

        /// <summary>Cores to use.</summary>
        public int Threads { get; set; }

        /// <summary>How many images may wait in <see cref="Scope.ClassifyAsync(Image)"/>.</summary>
        public int Queue { get; set; }

        /// <summary>Opens a bundle whose gate was waived, too. Its calls mean nothing.</summary>
        public bool AllowUngated { get; set; }

        /// <summary>The bundle's first voter may decide alone where it is sure.</summary>
        public bool Cascade { get; set; }

        /// <summary>Calls cells unlike those of the training, which are refused else.</summary>
        public bool CallUnlikeTraining { get; set; }

        /// <summary>Whether to measure after the first answer what is fastest here, for the next opening.</summary>
        public bool Measure { get; set; } = true;

        /// <summary>
        /// Paths of public keys in PEM, one of which must have signed the bundle; "trusted" stands for those of the user. Null: none need have.
        /// </summary>
        public IReadOnlyCollection<string> RequireSignature { get; set; }

        /// <summary>Opens `path` with these, and gives the handle.</summary>
        internal unsafe ulong Open(string path)
        {
            var pinned = new List<GCHandle>();
            try
            {
                NativeOptions record;
                Native.blastscope_options_init(&record, (uint)sizeof(NativeOptions));
                record.Device = Pin(pinned, Device);
                record.Precision = Pin(pinned, Precision);
                record.Execution = Pin(pinned, Execution);
                record.Layout = Pin(pinned, Layout);
                record.Workload = Pin(pinned, Workload);
                record.CacheDir = Pin(pinned, CacheDir);
                record.RequireSignature = Pin(pinned, Lines(RequireSignature));
                record.Threads = Threads;
                record.Queue = Queue;
                record.AllowUngated = AllowUngated ? 1 : 0;
                record.Cascade = Cascade ? 1 : 0;
                record.CallUnlikeTraining = CallUnlikeTraining ? 1 : 0;
                record.Measure = Measure ? 1 : 0;
                ulong handle;
                Native.Check(Native.blastscope_open((byte*)Pin(pinned, path), &record, &handle));
                return handle;
            }
            finally
            {
                foreach (GCHandle one in pinned) one.Free();
            }
        }

        private static string Lines(IReadOnlyCollection<string> keys)
        {
            if (keys == null) return null;
            foreach (string key in keys)
                if (key.IndexOf('\n') >= 0) throw new UsageException(20, "a key's path with a line break: '" + key + "'");
            return string.Join("\n", keys);
        }

        private static IntPtr Pin(List<GCHandle> pinned, string text)
        {
            if (text == null) return IntPtr.Zero;
            GCHandle handle = GCHandle.Alloc(Native.Encoded(text), GCHandleType.Pinned);
            pinned.Add(handle);
            return handle.AddrOfPinnedObject();
        }
    }
}
