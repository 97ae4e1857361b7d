using System;

namespace Blastscope
{
    /// <summary>The order of the bytes of a pixel; a fourth byte isn't looked at.</summary>
    public enum PixelFormat
    {
        /// <summary>Red, green, blue.</summary>
        Rgb = 0,
        /// <summary>Blue, green, red.</summary>
        Bgr = 1,
        /// <summary>Red, green, blue, and one byte more.</summary>
        Rgba = 2,
        /// <summary>Blue, green, red, and one byte more.</summary>
        Bgra = 3,
    }

    /// <summary>
    /// Pixels of one cell on black. They stay the caller's and aren't copied: what they hold when a scope takes them counts.
    /// </summary>
    public readonly struct Image
    {
        /// <summary>
        /// Rows that are `rowStride` bytes apart, 0: packed. Where it is negative, the last row of the picture comes first, as in a BMP.
        /// </summary>
        /// <exception cref="ImageException">There are fewer bytes than that takes.</exception>
        public Image(ReadOnlyMemory<byte> pixels, int width, int height, PixelFormat format = PixelFormat.Rgb, long rowStride = 0)
        {
            First(pixels.Length, width, height, format, ref rowStride);
            Pixels = pixels;
            Width = width;
            Height = height;
            Format = format;
            RowStride = rowStride;
        }

        /// <summary>The bytes.</summary>
        public ReadOnlyMemory<byte> Pixels { get; }

        /// <summary>Width in pixels.</summary>
        public int Width { get; }

        /// <summary>Height in pixels.</summary>
        public int Height { get; }

        /// <summary>The order of a pixel's bytes.</summary>
        public PixelFormat Format { get; }

        /// <summary>Bytes from a row to the next one below it.</summary>
        public long RowStride { get; }

        /// <summary>The picture whose bytes begin at `pixels`.</summary>
        internal unsafe NativeImage At(byte* pixels)
        {
            return At(pixels, Pixels.Length, Width, Height, Format, RowStride);
        }

        /// <summary>The picture in `length` bytes at `pixels`, which are checked to hold it.</summary>
        internal static unsafe NativeImage At(byte* pixels, int length, int width, int height, PixelFormat format, long rowStride)
        {
            long first = First(length, width, height, format, ref rowStride);
            return new NativeImage
            {
                Pixels = pixels + first, Width = width, Height = height, RowStride = rowStride, PixelStride = 0, Format = (int)format,
            };
        }

        /// <summary>Where the first row begins; `rowStride` is told where it was 0.</summary>
        private static long First(int length, int width, int height, PixelFormat format, ref long rowStride)
        {
            if (width < 0 || height < 0) throw new ImageException($"an image is {width} x {height} pixels");
            if (format < PixelFormat.Rgb || format > PixelFormat.Bgra) throw new ImageException($"an image has the format {(int)format}");
            long row = (long)width * (format < PixelFormat.Rgba ? 3 : 4);
            if (rowStride == 0) rowStride = row;
            if (rowStride == long.MinValue || Math.Abs(rowStride) < row)
                throw new ImageException($"an image has rows of {row} bytes, {rowStride} apart");
            if (width == 0 || height == 0) return 0;
            long step = Math.Abs(rowStride);
            if (step > (long.MaxValue - row) / height) throw new ImageException($"an image has rows that are {rowStride} bytes apart");
            long needed = step * (height - 1) + row;
            if (needed > length)
                throw new ImageException($"an image of {width} x {height} pixels needs {needed} bytes, and there are {length}");
            return rowStride < 0 ? step * (height - 1) : 0;
        }
    }
}
