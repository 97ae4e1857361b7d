using System;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using System.Linq;
using System.Reflection;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Threading;
using System.Threading.Tasks;
using Blastscope;

/// <summary>
/// What the suite asks of the C# class:
///     rows BUNDLE CACHE LIST   a line of JSON for each picture in LIST, with its crop's digest
///     open CACHE LIST          what opening each line of LIST comes to: "PATH[TAB]option=value..."
///     hold BUNDLE CACHE CELL   checks by name, one a line
/// </summary>
internal static class Checks
{
    private static void Main(string[] arguments)
    {
        switch (arguments[0])
        {
            case "rows": Rows(arguments[1], arguments[2], arguments[3]); break;
            case "open": Open(arguments[1], arguments[2]); break;
            default: Hold(arguments[1], arguments[2], arguments[3]); break;
        }
    }

    // ---- rows

    private static void Rows(string bundle, string cache, string list)
    {
        using (var scope = new Scope(bundle, new Options { Precision = "fp32", Execution = "f32", CacheDir = cache }))
        {
            int side = scope.CropSide;
            var crop = new byte[side * side * 3];
            foreach (string path in File.ReadAllLines(list))
            {
                Image image = PictureFile.Read(path);
                Prediction cut = scope.Crop(image.Pixels.Span, image.Width, image.Height, crop, image.Format, image.RowStride);
                Console.WriteLine(Row(scope.Classify(image), cut.Refusal == Refusal.None ? Quoted(Hex(crop)) : "null"));
            }
        }
    }

    private static string Row(Prediction one, string crop)
    {
        var voters = new List<string>();
        foreach (Voter voter in new[] { Voter.A, Voter.B, Voter.Combined })
        {
            float hem = one.ProbabilityOf(voter, Label.Hem), all = one.ProbabilityOf(voter, Label.All);
            voters.Add(Quoted(voter) + ":" + (float.IsNaN(hem) ? "null" : $"{{\"hem\":{Number(hem)},\"all\":{Number(all)}}}"));
        }
        string set = "null";
        if (one.Set.HasValue)
        {
            IEnumerable<LabelSet> told = new[] { LabelSet.Hem, LabelSet.All }.Where(label => (one.Set.Value & label) != 0);
            set = "[" + string.Join(",", told.Select(label => Quoted(label))) + "]";
        }
        return $"{{\"label\":{Quoted(one.Label)},\"probability\":{Number(one.Probability)},\"voter\":{Quoted(one.Voter)},"
            + $"\"probabilities\":{(one.Label == null ? "null" : "{" + string.Join(",", voters) + "}")},"
            + $"\"decided_early\":{(one.DecidedEarly ? "true" : "false")},\"novelty\":{Number(one.Novelty)},\"set\":{set},"
            + $"\"box\":{(one.Box.HasValue ? one.Box.Value.ToString() : "null")},"
            + $"\"refusal\":{(one.RefusalCode == "" ? "null" : "\"" + one.RefusalCode + "\"")},\"score\":{Number(one.Score)},"
            + $"\"detail\":{(one.Detail == "" ? "null" : "\"" + one.Detail + "\"")},\"crop\":{crop}}}";
    }

    private static string Number(float value)
    {
        return float.IsNaN(value) ? "null" : value.ToString("R", CultureInfo.InvariantCulture);
    }

    private static string Quoted(object text)
    {
        return text == null ? "null" : "\"" + text.ToString().ToLowerInvariant() + "\"";
    }

    private static string Hex(byte[] bytes)
    {
        using (var sha = SHA256.Create()) return string.Concat(sha.ComputeHash(bytes).Select(one => one.ToString("x2")));
    }

    // ---- open

    private static void Open(string cache, string list)
    {
        foreach (string line in File.ReadAllLines(list))
        {
            string[] words = line.Split('\t');
            var options = new Options { CacheDir = cache };
            foreach (string word in words.Skip(1))
            {
                string value = word.Substring(word.IndexOf('=') + 1);
                switch (word.Substring(0, word.IndexOf('=')))
                {
                    case "device": options.Device = value; break;
                    case "precision": options.Precision = value; break;
                    case "execution": options.Execution = value; break;
                    case "layout": options.Layout = value; break;
                    case "workload": options.Workload = value; break;
                    case "threads": options.Threads = int.Parse(value); break;
                    case "queue": options.Queue = int.Parse(value); break;
                    case "allow_ungated": options.AllowUngated = value == "1"; break;
                    case "require_signature": options.RequireSignature = value.Split(','); break;
                    default: throw new ArgumentException(word);
                }
            }
            try
            {
                using (var scope = new Scope(words[0], options)) Console.WriteLine("opened " + scope.BundleName);
            }
            catch (BlastscopeException error)
            {
                Console.WriteLine(error.GetType().Name + "\t" + error.Status + "\t" + error.Message);
            }
        }
    }

    // ---- hold

    private static void Hold(string bundle, string cache, string cell)
    {
        var options = new Options { CacheDir = cache, CallUnlikeTraining = true, Measure = false };
        byte[] rgb = Packed(PictureFile.Read(cell), out int width, out int height);
        var image = new Image(rgb, width, height);
        var checks = new Dictionary<string, Action<Scope>>
        {
            ["every order of bytes and stride gives one call"] = scope => Layouts(scope, rgb, width, height),
            ["bad images raise ImageException"] = BadImages,
            ["every member of a closed scope raises ClosedException"] = scope => AfterClosing(scope, image),
            ["what is submitted is answered"] = scope => Submitted(scope, image),
            ["what awaits may use and close the scope"] = scope => Awaiting(scope, image).Wait(),
            ["sixteen threads get one thread's calls"] = scope => Threads(scope, image),
            ["closing while others call ends in ClosedException alone"] = scope => Closing(scope, image),
        };
        foreach (KeyValuePair<string, Action<Scope>> check in checks)
        {
            try
            {
                using (var scope = new Scope(bundle, options)) check.Value(scope);
                Console.WriteLine("ok\t" + check.Key);
            }
            catch (Exception error) // whatever it is, the line says so
            {
                Console.WriteLine("failed\t" + check.Key);
                Console.Error.WriteLine(error);
            }
        }
        Collected(bundle, options);
    }

    private static void Layouts(Scope scope, byte[] rgb, int width, int height)
    {
        string wanted = Row(scope.Classify(rgb, width, height), "");
        Same(wanted.Contains("\"label\":null"), false);
        foreach (PixelFormat format in new[] { PixelFormat.Rgb, PixelFormat.Bgr, PixelFormat.Rgba, PixelFormat.Bgra })
        {
            int step = format < PixelFormat.Rgba ? 3 : 4, stride = step * width + 5;
            byte[] down = new byte[stride * height + 7], up = new byte[stride * height];
            for (int y = 0; y < height; y++)
                for (int x = 0; x < width; x++)
                    for (int band = 0; band < 3; band++)
                    {
                        byte value = rgb[3 * (y * width + x) + band];
                        int place = step * x + (format == PixelFormat.Rgb || format == PixelFormat.Rgba ? band : 2 - band);
                        down[7 + stride * y + place] = value;
                        up[stride * (height - 1 - y) + place] = value;
                    }
            Same(Row(scope.Classify(down.AsSpan(7), width, height, format, stride), ""), wanted);
            Same(Row(scope.Classify(up, width, height, format, -stride), ""), wanted);
            var both = new[] { new Image(down.AsMemory(7), width, height, format, stride), new Image(up, width, height, format, -stride) };
            foreach (Prediction one in scope.ClassifyMany(both)) Same(Row(one, ""), wanted);
            foreach (Image one in both) Same(Row(scope.ClassifyAsync(one).Result, ""), wanted);
        }
    }

    private static void BadImages(Scope scope)
    {
        var few = new byte[299];
        Raises<ImageException>(() => scope.Classify(few, 10, 10));
        Raises<ImageException>(() => scope.ClassifyAsync(few, 10, 10));
        Raises<ImageException>(() => new Image(few, 10, 10));
        Raises<ImageException>(() => new Image(few, -1, 10));
        Raises<ImageException>(() => new Image(few, 10, 5, PixelFormat.Rgb, 7));
        Raises<ImageException>(() => new Image(few, 10, 5, (PixelFormat)9));
        Raises<ImageException>(() => new Image(few, 10, 5, PixelFormat.Rgb, long.MinValue));
        Raises<ImageException>(() => new Image(few, 1, int.MaxValue, PixelFormat.Rgb, long.MaxValue));
        Raises<ImageException>(() => new Image(few, int.MaxValue, int.MaxValue, PixelFormat.Rgba));
        Raises<ImageException>(() => scope.Crop(few, 10, 10, new byte[scope.CropSide * scope.CropSide * 3]));
        Raises<UsageException>(() => scope.Crop(new byte[300], 10, 10, new byte[10]));
        Raises<UsageException>(() => scope.Crop(new byte[300], 10, 10, Span<byte>.Empty));
        Raises<UsageException>(() => new Scope("x", new Options { Device = "a\0b" }));
        Raises<UsageException>(() => new Scope("a\0b"));
        Same(scope.Classify(ReadOnlySpan<byte>.Empty, 0, 5).Refusal, Refusal.Empty);
        Same(scope.Classify(default(Image)).Refusal, Refusal.Empty);
        Same(scope.ClassifyMany(new[] { default(Image) })[0].Refusal, Refusal.Empty);
        Same(scope.Classify(new byte[300], 10, 10).Refusal, Refusal.Empty);
        Same(scope.ClassifyMany(new Image[0]).Count, 0);
    }

    private static void AfterClosing(Scope scope, Image image)
    {
        scope.Dispose();
        scope.Dispose();
        Raises<ClosedException>(() => scope.Classify(image));
        Raises<ClosedException>(() => scope.ClassifyMany(new[] { image }));
        Raises<ClosedException>(() => scope.ClassifyAsync(image));
        Raises<ClosedException>(() => scope.CropSide.ToString());
        Raises<ClosedException>(() => scope.Crop(image.Pixels.Span, image.Width, image.Height, new byte[10]));
        Raises<ClosedException>(() => scope.Audit.ToString());
        Raises<ClosedException>(() => scope.Notes.ToString());
        Raises<ClosedException>(() => scope.BundleName.ToString());
    }

    private static void Submitted(Scope scope, Image image)
    {
        string wanted = Row(scope.Classify(image), "");
        foreach (Task<Prediction> one in Enumerable.Range(0, 100).Select(_ => scope.ClassifyAsync(image)).ToList())
            Same(Row(one.Result, ""), wanted);
        GC.Collect(); // it stops the library's threads, too, that the answers came by
        List<Task<Prediction>> several = Enumerable.Range(0, 20).Select(_ => scope.ClassifyAsync(image)).ToList();
        scope.Dispose(); // answers what was submitted
        foreach (Task<Prediction> one in several) Same(Row(one.Result, ""), wanted);
    }

    private static async Task Awaiting(Scope scope, Image image)
    {
        string wanted = Row(scope.Classify(image), "");
        await scope.ClassifyAsync(image);
        Same(Row(scope.ClassifyAsync(image).Result, ""), wanted);
        await scope.ClassifyAsync(image);
        scope.Dispose();
        Raises<ClosedException>(() => scope.Classify(image));
    }

    private static void Threads(Scope scope, Image image)
    {
        string wanted = Row(scope.Classify(image), "");
        Task.WaitAll(Enumerable.Range(0, 16).Select(number => OnThread(() =>
        {
            for (int turn = 0; turn < 10; turn++) Same(Row(Called(scope, image, number % 4), ""), wanted);
        })).ToArray());
    }

    private static Task OnThread(Action work)
    {
        return Task.Factory.StartNew(work, CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default);
    }

    private static Prediction Called(Scope scope, Image image, int kind)
    {
        if (kind == 1) return scope.ClassifyMany(new[] { image, image })[1];
        if (kind == 2) return scope.ClassifyAsync(image).GetAwaiter().GetResult();
        if (kind == 3) scope.Audit.ToString();
        return scope.Classify(image);
    }

    private static void Closing(Scope scope, Image image)
    {
        using (var begun = new ManualResetEventSlim())
        {
            Task[] all = Enumerable.Range(0, 8).Select(number => OnThread(() => Raises<ClosedException>(() =>
            {
                while (true)
                {
                    Called(scope, image, number % 4);
                    begun.Set();
                }
            }))).ToArray();
            begun.Wait();
            scope.Dispose();
            Task.WaitAll(all);
        }
    }

    [DllImport("blastscope", CallingConvention = CallingConvention.Cdecl)]
    private static extern int blastscope_close(ulong handle);

    /// <summary>A scope that nobody closed is closed by the finalizer.</summary>
    private static void Collected(string bundle, Options options)
    {
        ulong number = 0;
        WeakReference lost = null;
        var thread = new Thread(() => lost = Lost(bundle, options, out number)); // its stack goes with it
        thread.Start();
        thread.Join();
        for (int i = 0; i < 10; i++)
        {
            GC.Collect();
            GC.WaitForPendingFinalizers();
        }
        bool closed = number != 0 && !lost.IsAlive && blastscope_close(number) == 12;
        Console.WriteLine((closed ? "ok" : "failed") + "\ta scope that was lost is closed by the finalizer");
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static WeakReference Lost(string bundle, Options options, out ulong number)
    {
        var scope = new Scope(bundle, options);
        FieldInfo field = typeof(Scope).GetField("handle", BindingFlags.NonPublic | BindingFlags.Instance);
        number = (ulong)(long)((SafeHandle)field.GetValue(scope)).DangerousGetHandle();
        return new WeakReference(scope);
    }

    private static byte[] Packed(Image image, out int width, out int height)
    {
        width = image.Width;
        height = image.Height;
        var rgb = new byte[3 * width * height];
        Same(image.Format, PixelFormat.Bgr);
        ReadOnlySpan<byte> pixels = image.Pixels.Span;
        int stride = (int)Math.Abs(image.RowStride);
        for (int y = 0; y < height; y++)
            for (int x = 0; x < width; x++)
                for (int band = 0; band < 3; band++)
                    rgb[3 * (y * width + x) + band] = pixels[stride * (image.RowStride < 0 ? height - 1 - y : y) + 3 * x + 2 - band];
        return rgb;
    }

    private static void Same(object found, object wanted)
    {
        if (!wanted.Equals(found)) throw new InvalidOperationException($"{found} isn't {wanted}");
    }

    private static void Raises<T>(Action call) where T : BlastscopeException
    {
        try
        {
            call();
        }
        catch (BlastscopeException error)
        {
            Same(error.GetType(), typeof(T));
            Same(error.Message == "", false);
            return;
        }
        throw new InvalidOperationException($"no {typeof(T).Name}");
    }
}
