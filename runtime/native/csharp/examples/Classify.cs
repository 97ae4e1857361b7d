using System;
using System.IO;
using Blastscope;

/// <summary>
/// Classifies pictures of one cell on black each, from BMP or PPM files:
///     mono Classify.exe BUNDLE PICTURE...
/// Prints the path, the label and the deciding voter's probability, or why there is no label.
/// </summary>
internal static class Classify
{
    private static int Main(string[] arguments)
    {
        if (arguments.Length < 2)
        {
            Console.Error.WriteLine("usage: Classify BUNDLE PICTURE...");
            return 2;
        }
        try
        {
            using (var scope = new Scope(arguments[0]))
            {
                for (int i = 1; i < arguments.Length; i++)
                    Console.WriteLine(arguments[i] + "\t" + scope.Classify(PictureFile.Read(arguments[i])));
            }
            return 0;
        }
        catch (BlastscopeException error)
        {
            Console.Error.WriteLine(error.Message);
            return error.Status / 10;
        }
        catch (Exception error) when (error is IOException || error is InvalidDataException || error is UnauthorizedAccessException)
        {
            Console.Error.WriteLine(error.Message);
            return 2;
        }
    }
}
