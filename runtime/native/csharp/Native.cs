using System;
using System.Runtime.InteropServices;
using System.Text;

namespace Blastscope
{
#pragma warning disable 649 // fields that C fills, and those that stay 0
    /// <summary>blastscope_image.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal unsafe struct NativeImage
    {
        internal byte* Pixels;
        internal int Width, Height;
        internal long RowStride, PixelStride;
        internal int Format, Reserved;
    }

    /// <summary>blastscope_prediction.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal unsafe struct NativePrediction
    {
        internal int Label, Voter, Refusal, Status;
        internal float Probability, Score;
        internal fixed float Probabilities[6];
        internal float Novelty;
        internal int Set, DecidedEarly, HasBox;
        internal fixed int Box[4];
        internal fixed byte Detail[256];
        internal fixed int Reserved[12];
    }

    /// <summary>blastscope_options.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct NativeOptions
    {
        internal uint StructSize;
        internal int Threads;
        internal IntPtr Device, Precision, Execution, Layout, Workload, CacheDir;
        internal int Queue, AllowUngated, Cascade, CallUnlikeTraining, Measure, Reserved;
        internal IntPtr RequireSignature;
    }
#pragma warning restore 649

    /// <summary>blastscope_callback.</summary>
    [UnmanagedFunctionPointer(CallingConvention.Cdecl)]
    internal unsafe delegate void NativeCallback(IntPtr user, ulong ticket, int status, NativePrediction* prediction, byte* message);

    /// <summary>The functions of blastscope.h. Handles are numbers there, so that a call with a closed one is safe.</summary>
    internal static unsafe class Native
    {
        private const string Library = "blastscope";
        private static volatile bool ready;

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        internal static extern byte* blastscope_version();

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        internal static extern byte* blastscope_last_error();

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        internal static extern byte* blastscope_refusal_name(int refusal);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        internal static extern void blastscope_options_init(NativeOptions* options, uint size);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        internal static extern int blastscope_open(byte* path, NativeOptions* options, ulong* handle);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        internal static extern int blastscope_close(ulong handle);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        internal static extern byte* blastscope_describe(ulong handle, int text);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        internal static extern int blastscope_crop(
            ulong handle, NativeImage* image, byte* crop, UIntPtr size, int* side, NativePrediction* prediction);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        internal static extern int blastscope_classify(ulong handle, NativeImage* image, NativePrediction* prediction);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        internal static extern int blastscope_classify_many(
            ulong handle, NativeImage* images, UIntPtr count, NativePrediction* predictions);

        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]
        internal static extern int blastscope_submit(
            ulong handle, NativeImage* image, NativeCallback callback, IntPtr user, ulong* ticket);

        /// <summary>Finds the library, or says what to do. A later call may find it.</summary>
        internal static void Ready()
        {
            if (ready) return;
            if (IntPtr.Size != 8) throw new MissingLibraryException("libblastscope is for 64-bit machines: run a 64-bit process");
            try
            {
                blastscope_version();
            }
            catch (Exception error) when (error is DllNotFoundException || error is EntryPointNotFoundException
                                          || error is BadImageFormatException)
            {
                throw new MissingLibraryException(
                    "libblastscope isn't found: lay it beside the program, or name its folder in LD_LIBRARY_PATH (PATH on Windows); "
                    + error.Message, error);
            }
            ready = true;
        }

        /// <summary>Raises the exception for what isn't OK.</summary>
        internal static void Check(int status)
        {
            if (status != 0) throw BlastscopeException.Of(status, Text(blastscope_last_error()));
        }

        /// <summary>A text of C's, in UTF-8; "" for none.</summary>
        internal static string Text(byte* text, int most = int.MaxValue)
        {
            if (text == null) return "";
            int length = 0;
            while (length < most && text[length] != 0) length++;
            return Encoding.UTF8.GetString(text, length);
        }

        /// <summary>A text as C has it, in UTF-8 with a 0 behind it.</summary>
        internal static byte[] Encoded(string text)
        {
            if (text.IndexOf('\0') >= 0) throw new UsageException(20, "a text with a NUL character: '" + text + "'");
            return Encoding.UTF8.GetBytes(text + "\0");
        }
    }
}
