import java.awt.image.BufferedImage;
import java.io.File;
import java.io.IOException;
import java.nio.file.Paths;
import javax.imageio.ImageIO;
import org.blastscope.BlastscopeException;
import org.blastscope.Image;
import org.blastscope.Prediction;
import org.blastscope.Scope;

/**
 * Classifies pictures of one cell on black each, in a format that ImageIO reads: PNG, JPEG, BMP, GIF, TIFF.
 *
 *     java -cp blastscope.jar:jna.jar -Dblastscope.library=libblastscope.so Classify.java BUNDLE PICTURE...
 *
 * Prints the path, the label and the deciding voter's probability, or why there is no label.
 */
public final class Classify {
    public static void main(String[] arguments) throws IOException {
        if (arguments.length < 2) {
            System.err.println("usage: Classify BUNDLE PICTURE...");
            System.exit(2);
        }
        try (Scope scope = Scope.open(Paths.get(arguments[0]))) {
            for (int i = 1; i < arguments.length; i++) {
                BufferedImage picture = ImageIO.read(new File(arguments[i]));
                if (picture == null) throw new IOException("'" + arguments[i] + "' is no picture that ImageIO reads");
                Prediction prediction = scope.classify(Image.of(picture));
                System.out.println(arguments[i] + "\t" + prediction);
            }
        } catch (BlastscopeException error) {
            System.err.println(error.getMessage());
            System.exit(error.status() / 10);
        }
    }
}
