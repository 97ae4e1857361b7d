import ij.Executer;
import ij.IJ;
import ij.ImageJ;
import ij.ImagePlus;
import ij.Macro;
import ij.gui.GenericDialog;
import ij.gui.Overlay;
import ij.gui.Roi;
import ij.measure.ResultsTable;
import ij.plugin.filter.ThresholdToSelection;
import ij.plugin.frame.Recorder;
import ij.plugin.frame.RoiManager;
import ij.process.ImageProcessor;
import java.awt.AWTEvent;
import java.awt.Button;
import java.awt.TextField;
import java.awt.Toolkit;
import java.awt.event.ActionEvent;
import java.awt.event.WindowEvent;
import java.util.ArrayList;
import java.util.List;

/**
 * Runs the plugin on a picture, once for each value of a picture of labels as a ROI:
 *     headless PICTURE LABELS BUNDLE LIBRARY RESULTS.csv    without a screen, by the overlay
 *     screen PICTURE LABELS BUNDLE LIBRARY RESULTS.csv      with the ROI manager, the menu, the dialog and the recorder
 * Prints each ROI's name, group and colour, and on a screen what the recorder wrote.
 */
public final class ImageJChecks {
    public static void main(String[] arguments) {
        ImagePlus picture = IJ.openImage(arguments[1]);
        List<Roi> rois = rois(IJ.openImage(arguments[2]).getProcessor());
        String options = "bundle=[" + arguments[3] + "] library=[" + arguments[4] + "] cells=[all ROIs]";
        if (arguments[0].equals("headless")) headless(picture, rois, options);
        else screen(picture, rois, arguments[3], arguments[4]);
        ResultsTable.getResultsTable().save(arguments[5]);
        System.exit(0);
    }

    /** The exact outline of each label, and a rectangle around the whole picture. */
    private static List<Roi> rois(ImageProcessor labels) {
        List<Roi> found = new ArrayList<>();
        for (int label = 1; label <= (int) labels.getStats().max; label++) {
            labels.setThreshold(label, label, ImageProcessor.NO_LUT_UPDATE);
            Roi roi = ThresholdToSelection.run(new ImagePlus("labels", labels));
            roi.setName("cell " + label);
            found.add(roi);
        }
        Roi all = new Roi(0, 0, labels.getWidth(), labels.getHeight());
        all.setName("everything");
        found.add(all);
        return found;
    }

    private static void headless(ImagePlus picture, List<Roi> rois, String options) {
        Overlay overlay = new Overlay();
        for (Roi roi : rois) overlay.add(roi);
        picture.setOverlay(overlay);
        Thread.currentThread().setName("Run$_cells"); // what ImageJ names threads that a macro's options are for
        Macro.setOptions(options);
        IJ.runPlugIn(picture, "org.blastscope.imagej.ClassifyCells", "");
        for (Roi roi : picture.getOverlay().toArray()) tell(roi);
    }

    private static void screen(ImagePlus picture, List<Roi> rois, String bundle, String library) {
        new ImageJ();
        picture.show();
        RoiManager manager = RoiManager.getRoiManager();
        for (Roi roi : rois) manager.addRoi(roi);
        Recorder recorder = new Recorder();
        Toolkit.getDefaultToolkit().addAWTEventListener(event -> answer(event, bundle, library), AWTEvent.WINDOW_EVENT_MASK);
        new Executer("Classify Cells...").run(); // in this thread
        for (Roi roi : manager.getRoisAsArray()) tell(roi);
        System.out.println("recorded\t" + recorder.getText().replace("\n", " "));
        ResultsTable.getResultsTable().reset();
        manager.reset();
        for (Roi roi : rois) manager.addRoi(roi);
        IJ.runMacro(recorder.getText()); // what was recorded does the same again
        for (Roi roi : manager.getRoisAsArray()) tell(roi);
    }

    /** Fills in the dialog as a person does. */
    private static void answer(AWTEvent event, String bundle, String library) {
        if (event.getID() != WindowEvent.WINDOW_OPENED || !(event.getSource() instanceof GenericDialog)) return;
        GenericDialog dialog = (GenericDialog) event.getSource();
        ((TextField) dialog.getStringFields().get(0)).setText(bundle);
        ((TextField) dialog.getStringFields().get(1)).setText(library);
        Button ok = dialog.getButtons()[0];
        ok.dispatchEvent(new ActionEvent(ok, ActionEvent.ACTION_PERFORMED, ok.getLabel()));
    }

    private static void tell(Roi roi) {
        String colour = String.format("#%06x", roi.getStrokeColor().getRGB() & 0xffffff);
        System.out.println("roi\t" + roi.getName() + "\t" + roi.getGroup() + "\t" + Roi.getGroupName(roi.getGroup()) + "\t" + colour);
    }
}
