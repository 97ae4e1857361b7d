import java.io.File;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import javax.imageio.ImageIO;
import org.blastscope.BlastscopeException;
import org.blastscope.Crop;
import org.blastscope.Image;
import org.blastscope.Options;
import org.blastscope.Prediction;
import org.blastscope.Scope;

/**
 * What the suite asks of the Java class:
 *     rows BUNDLE CACHE LIST   a line of JSON for each picture in LIST, with its crop's digest
 *     open CACHE LIST          what opening each line of LIST comes to: "PATH<TAB>option=value..."
 *     hold BUNDLE CACHE CELL   checks by name, one a line
 */
public final class Checks {
    public static void main(String[] arguments) throws Exception {
        switch (arguments[0]) {
            case "rows": rows(Paths.get(arguments[1]), Paths.get(arguments[2]), Paths.get(arguments[3])); break;
            case "open": open(Paths.get(arguments[1]), Paths.get(arguments[2])); break;
            default: hold(Paths.get(arguments[1]), Paths.get(arguments[2]), new File(arguments[3]));
        }
    }

    // ---- rows

    private static void rows(Path bundle, Path cache, Path list) throws Exception {
        try (Scope scope = Scope.open(bundle, new Options().precision("fp32").execution("f32").cacheDir(cache))) {
            for (String path : Files.readAllLines(list, StandardCharsets.UTF_8)) {
                Image image = Image.of(ImageIO.read(new File(path)));
                Crop crop = scope.crop(image);
                String digest = crop.pixels() == null ? "null" : quoted(hex(crop.pixels()));
                System.out.println(row(scope.classify(image), digest));
            }
        }
    }

    private static String row(Prediction one, String crop) {
        List<String> voters = new ArrayList<>();
        for (Prediction.Voter voter : Prediction.Voter.values()) {
            float hem = one.probability(voter, Prediction.Label.HEM);
            float all = one.probability(voter, Prediction.Label.ALL);
            voters.add(quoted(voter) + ":" + (Float.isNaN(hem) ? "null" : "{\"hem\":" + hem + ",\"all\":" + all + "}"));
        }
        List<String> classes = new ArrayList<>();
        if (one.set() != null) one.set().forEach(label -> classes.add(quoted(label)));
        return "{\"label\":" + quoted(one.label()) + ",\"probability\":" + number(one.probability()) + ",\"voter\":" + quoted(one.voter())
                + ",\"probabilities\":" + (one.called() ? "{" + String.join(",", voters) + "}" : "null")
                + ",\"decided_early\":" + one.decidedEarly() + ",\"novelty\":" + number(one.novelty())
                + ",\"set\":" + (one.set() == null ? "null" : classes) + ",\"box\":" + one.box()
                + ",\"refusal\":" + quoted(one.refusal() == null ? null : one.refusal().code()) + ",\"score\":" + number(one.score())
                + ",\"detail\":" + quoted(one.detail().isEmpty() ? null : one.detail()) + ",\"crop\":" + crop + "}";
    }

    private static String number(float value) {
        return Float.isNaN(value) ? "null" : Float.toString(value);
    }

    private static String quoted(Object text) {
        return text == null ? "null" : "\"" + text.toString().replace("\\", "\\\\").replace("\"", "\\\"") + "\"";
    }

    private static String hex(byte[] bytes) throws Exception {
        StringBuilder text = new StringBuilder();
        for (byte one : MessageDigest.getInstance("SHA-256").digest(bytes)) text.append(String.format("%02x", one));
        return text.toString();
    }

    // ---- open

    private static void open(Path cache, Path list) throws IOException {
        for (String line : Files.readAllLines(list, StandardCharsets.UTF_8)) {
            String[] words = line.split("\t");
            Options options = new Options().cacheDir(cache);
            for (String word : Arrays.asList(words).subList(1, words.length)) {
                String value = word.substring(word.indexOf('=') + 1);
                switch (word.substring(0, word.indexOf('='))) {
                    case "device": options.device(value); break;
                    case "precision": options.precision(value); break;
                    case "execution": options.execution(value); break;
                    case "layout": options.layout(value); break;
                    case "workload": options.workload(value); break;
                    case "threads": options.threads(Integer.parseInt(value)); break;
                    case "queue": options.queue(Integer.parseInt(value)); break;
                    case "allow_ungated": options.allowUngated(value.equals("1")); break;
                    case "require_signature": options.requireSignature(value.split(",")); break;
                    default: throw new IllegalArgumentException(word);
                }
            }
            try (Scope scope = Scope.open(Paths.get(words[0]), options)) {
                System.out.println("opened " + scope.bundleName());
            } catch (BlastscopeException error) {
                System.out.println(error.getClass().getSimpleName() + "\t" + error.status() + "\t" + error.getMessage());
            }
        }
    }

    // ---- hold

    private interface Check {
        void run(Scope scope) throws Exception;
    }

    private static void hold(Path bundle, Path cache, File cell) throws Exception {
        Options options = new Options().cacheDir(cache).callUnlikeTraining(true).measure(false);
        byte[] rgb = bytes(ImageIO.read(cell));
        int width = ImageIO.read(cell).getWidth();
        int height = rgb.length / 3 / width;
        Image image = Image.of(rgb, width, height, Image.Format.RGB);
        check("every order of bytes, stride and buffer gives one call", bundle, options, scope -> layouts(scope, rgb, width, height));
        check("bad images raise ImageError", bundle, options, scope -> badImages(scope));
        check("every method of a closed scope raises Closed", bundle, options, scope -> closed(scope, image));
        check("what is submitted is answered", bundle, options, scope -> submitted(scope, image));
        check("futures may use and close the scope", bundle, options, scope -> chained(scope, image));
        check("sixteen threads get one thread's calls", bundle, options, scope -> threads(scope, image));
        check("closing while others call ends in Closed alone", bundle, options, scope -> closing(scope, image));
        check("direct buffers that are garbage soon are read whole", bundle, options, scope -> garbage(scope, rgb, width, height));
    }

    private static void check(String name, Path bundle, Options options, Check check) {
        try (Scope scope = Scope.open(bundle, options)) {
            check.run(scope);
            System.out.println("ok\t" + name);
        } catch (Throwable error) { // whatever it is, the line says so
            System.out.println("failed\t" + name);
            error.printStackTrace();
        }
    }

    private static void layouts(Scope scope, byte[] rgb, int width, int height) {
        String wanted = row(scope.classify(Image.of(rgb, width, height, Image.Format.RGB)), "");
        same(wanted.contains("\"label\":null"), false);
        for (Image.Format format : Image.Format.values()) {
            int step = format.name().length();
            int stride = step * width + 5;
            byte[] down = new byte[stride * height];
            byte[] up = new byte[stride * height];
            for (int y = 0; y < height; y++) {
                for (int x = 0; x < width; x++) {
                    for (int band = 0; band < 3; band++) {
                        byte value = rgb[3 * (y * width + x) + band];
                        int place = step * x + (format.name().startsWith("RGB") ? band : 2 - band);
                        down[stride * y + place] = value;
                        up[stride * (height - 1 - y) + place] = value;
                    }
                }
            }
            ByteBuffer direct = ByteBuffer.allocateDirect(down.length + 7);
            direct.position(7);
            direct.put(down).position(7);
            for (Image image : new Image[] {
                Image.of(down, width, height, format, stride), Image.of(up, width, height, format, -stride),
                Image.of(direct, width, height, format, stride), Image.of(direct.asReadOnlyBuffer(), width, height, format, stride),
                Image.of(ByteBuffer.wrap(down).asReadOnlyBuffer(), width, height, format, stride)
            }) {
                same(row(scope.classify(image), ""), wanted);
                same(row(scope.classifyMany(Collections.singletonList(image)).get(0), ""), wanted);
            }
            same(direct.position(), 7);
        }
    }

    private static void badImages(Scope scope) {
        byte[] few = new byte[299];
        raises(BlastscopeException.ImageError.class, () -> Image.of(few, 10, 10, Image.Format.RGB));
        raises(BlastscopeException.ImageError.class, () -> Image.of(ByteBuffer.allocateDirect(299), 10, 10, Image.Format.RGB));
        raises(BlastscopeException.ImageError.class, () -> Image.of(few, -1, 10, Image.Format.RGB));
        raises(BlastscopeException.ImageError.class, () -> Image.of(few, 10, 5, Image.Format.RGB, 7));
        raises(BlastscopeException.ImageError.class, () -> Image.of(few, 10, 5, Image.Format.RGB, Long.MIN_VALUE));
        raises(BlastscopeException.ImageError.class, () -> Image.of(few, 1, Integer.MAX_VALUE, Image.Format.RGB, Long.MAX_VALUE));
        raises(BlastscopeException.ImageError.class, () -> Image.of(few, Integer.MAX_VALUE, Integer.MAX_VALUE, Image.Format.RGBA));
        int gray = java.awt.image.BufferedImage.TYPE_BYTE_GRAY;
        raises(BlastscopeException.ImageError.class, () -> Image.of(new java.awt.image.BufferedImage(9, 9, gray)));
        raises(BlastscopeException.UsageError.class, () -> Scope.open(Paths.get("x"), new Options().device("a\0b")));
        same(scope.classify(Image.of(new byte[0], 0, 0, Image.Format.RGB)).refusal(), Prediction.Refusal.EMPTY);
        same(scope.classify(Image.of(ByteBuffer.allocateDirect(0), 0, 5, Image.Format.BGR)).refusal(), Prediction.Refusal.EMPTY);
        same(scope.classify(Image.of(new byte[300], 10, 10, Image.Format.RGB)).refusal(), Prediction.Refusal.EMPTY);
        same(scope.classifyMany(Collections.emptyList()).size(), 0);
    }

    private static void closed(Scope scope, Image image) {
        scope.close();
        scope.close();
        List<Runnable> all = Arrays.asList(
                () -> scope.classify(image), () -> scope.classifyMany(Collections.singletonList(image)), () -> scope.submit(image),
                () -> scope.crop(image), scope::audit, scope::notes, scope::bundleName);
        for (Runnable one : all) raises(BlastscopeException.Closed.class, one);
    }

    private static void submitted(Scope scope, Image image) {
        String wanted = row(scope.classify(image), "");
        List<CompletableFuture<Prediction>> several = new ArrayList<>();
        for (int i = 0; i < 100; i++) several.add(scope.submit(image));
        for (CompletableFuture<Prediction> one : several) same(row(one.join(), ""), wanted);
        several.clear();
        for (int i = 0; i < 20; i++) several.add(scope.submit(image));
        scope.close(); // answers what was submitted
        for (CompletableFuture<Prediction> one : several) same(row(one.join(), ""), wanted);
    }

    private static void chained(Scope scope, Image image) {
        String wanted = row(scope.classify(image), "");
        Prediction later = scope.submit(image).thenApply(ignored -> scope.submit(image).join()).join();
        same(row(later, ""), wanted);
        scope.submit(image).thenRun(scope::close).join();
        raises(BlastscopeException.Closed.class, () -> scope.classify(image));
    }

    private static void threads(Scope scope, Image image) throws Exception {
        String wanted = row(scope.classify(image), "");
        ExecutorService pool = Executors.newFixedThreadPool(16);
        List<Callable<Void>> work = new ArrayList<>();
        for (int i = 0; i < 16; i++) {
            int kind = i % 4;
            work.add(() -> {
                for (int turn = 0; turn < 10; turn++) same(row(called(scope, image, kind), ""), wanted);
                return null;
            });
        }
        for (Future<Void> one : pool.invokeAll(work)) one.get();
        pool.shutdown();
    }

    private static Prediction called(Scope scope, Image image, int kind) {
        if (kind == 1) return scope.classifyMany(Arrays.asList(image, image)).get(1);
        if (kind == 2) return scope.submit(image).join();
        if (kind == 3) scope.audit();
        return scope.classify(image);
    }

    private static void closing(Scope scope, Image image) throws Exception {
        ExecutorService pool = Executors.newFixedThreadPool(8);
        List<Future<Boolean>> all = new ArrayList<>();
        CompletableFuture<Void> begun = new CompletableFuture<>();
        for (int i = 0; i < 8; i++) {
            int kind = i % 4;
            all.add(pool.submit(() -> {
                try {
                    while (true) {
                        called(scope, image, kind);
                        begun.complete(null);
                    }
                } catch (CompletionException error) {
                    return error.getCause() instanceof BlastscopeException.Closed;
                } catch (BlastscopeException.Closed error) {
                    return true;
                }
            }));
        }
        begun.join();
        scope.close();
        for (Future<Boolean> one : all) same(one.get(), true);
        pool.shutdown();
    }

    private static void garbage(Scope scope, byte[] rgb, int width, int height) {
        String wanted = row(scope.classify(Image.of(rgb, width, height, Image.Format.RGB)), "");
        for (int i = 0; i < 50; i++) {
            ByteBuffer direct = ByteBuffer.allocateDirect(rgb.length);
            direct.put(rgb).flip();
            same(row(scope.classify(Image.of(direct, width, height, Image.Format.RGB)), ""), wanted);
            if (i % 10 == 0) System.gc();
        }
    }

    private static byte[] bytes(java.awt.image.BufferedImage picture) {
        byte[] rgb = new byte[picture.getWidth() * picture.getHeight() * 3];
        for (int y = 0, place = 0; y < picture.getHeight(); y++) {
            for (int x = 0; x < picture.getWidth(); x++) {
                for (int shift = 16; shift >= 0; shift -= 8) rgb[place++] = (byte) (picture.getRGB(x, y) >> shift);
            }
        }
        return rgb;
    }

    private static void same(Object found, Object wanted) {
        if (!wanted.equals(found)) throw new AssertionError(found + " isn't " + wanted);
    }

    private static void raises(Class<? extends BlastscopeException> wanted, Runnable call) {
        try {
            call.run();
        } catch (BlastscopeException error) {
            same(error.getClass(), wanted);
            if (error.getMessage().isEmpty()) throw new AssertionError("no message");
            return;
        }
        throw new AssertionError("no " + wanted.getSimpleName());
    }
}
