using System;
using System.IO;
using Blastscope;

/// <summary>
/// Reads what every tool can write, without another library: BMP of 24 or 32 bits, uncompressed, and binary PPM (P6). For other formats take
/// what your program has: each library that gives 8-bit pixels and their stride will do.
/// </summary>
internal static class PictureFile
{
    private const int LargestSide = 8192;

    internal static Image Read(string path)
    {
        byte[] file = File.ReadAllBytes(path);
        if (file.Length > 54 && file[0] == 'B' && file[1] == 'M') return Bmp(file, path);
        if (file.Length > 2 && file[0] == 'P' && file[1] == '6') return Ppm(file, path);
        throw new InvalidDataException($"'{path}' is neither BMP nor binary PPM");
    }

    private static Image Bmp(byte[] file, string path)
    {
        int start = BitConverter.ToInt32(file, 10);
        int width = BitConverter.ToInt32(file, 18);
        int height = BitConverter.ToInt32(file, 22);
        int bits = BitConverter.ToInt16(file, 28);
        int compression = BitConverter.ToInt32(file, 30);
        bool known = (bits == 24 || bits == 32) && compression == 0 && start >= 54 && start <= file.Length;
        if (!known || width < 1 || width > LargestSide || height == 0 || height < -LargestSide || height > LargestSide)
            throw new InvalidDataException($"'{path}' is no BMP of 24 or 32 bits without compression");
        long stride = ((long)width * bits / 8 + 3) / 4 * 4; // rows are padded to four bytes
        var pixels = new ReadOnlyMemory<byte>(file, start, file.Length - start);
        // the last row of the picture comes first, but where the height is negative
        return new Image(pixels, width, Math.Abs(height), bits == 24 ? PixelFormat.Bgr : PixelFormat.Bgra, height > 0 ? -stride : stride);
    }

    private static Image Ppm(byte[] file, string path)
    {
        int place = 2;
        int width = Number(file, ref place), height = Number(file, ref place), most = Number(file, ref place);
        if (width < 1 || height < 1 || most != 255 || place >= file.Length)
            throw new InvalidDataException($"'{path}' is no binary PPM of 8 bits");
        return new Image(new ReadOnlyMemory<byte>(file, place + 1, file.Length - place - 1), width, height);
    }

    /// <summary>The next number of the header, behind white space and comments; -1 for none.</summary>
    private static int Number(byte[] file, ref int place)
    {
        while (place < file.Length && (file[place] <= ' ' || file[place] == '#'))
        {
            if (file[place] == '#') while (place < file.Length && file[place] != '\n') place++;
            else place++;
        }
        int value = -1;
        for (; place < file.Length && file[place] >= '0' && file[place] <= '9'; place++)
        {
            value = Math.Max(value, 0) * 10 + file[place] - '0';
            if (value > LargestSide) return -1;
        }
        return value;
    }
}
