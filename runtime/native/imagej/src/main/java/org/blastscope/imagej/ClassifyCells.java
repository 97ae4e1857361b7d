package org.blastscope.imagej;

import ij.IJ;
import ij.ImagePlus;
import ij.Macro;
import ij.gui.Overlay;
import ij.gui.Roi;
import ij.measure.ResultsTable;
import ij.plugin.PlugIn;
import ij.plugin.frame.RoiManager;
import java.awt.Color;
import java.awt.GraphicsEnvironment;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import org.blastscope.BlastscopeException;
import org.blastscope.Image;
import org.blastscope.Prediction;
import org.blastscope.Scope;

/**
 * Plugins &gt; Blastscope &gt; Classify Cells...: calls the selected cell, or every cell in the ROI manager. ROIs get a name, a colour and
 * a group by their call; the results table gets a row for each. Without a screen, where ImageJ has no manager, the picture's overlay
 * holds the ROIs.
 */
public final class ClassifyCells implements PlugIn {
    private static final int AT_ONCE = 64;
    private static final String[] GROUPS = {"hem", "all", "refused"};
    private static final Color[] COLOURS = {new Color(0x0072b2), new Color(0xd55e00), new Color(0x808080)};
    private static final String[] FRACTIONS = {"Probability", "Score", "All_by_a", "All_by_b", "All_by_combined", "Novelty"};
    private static final String MARK = " | "; // between a ROI's own name and the call

    @Override
    public void run(String argument) {
        String failure;
        try {
            ImagePlus picture = IJ.getImage();
            Settings settings = Settings.choose(rois(picture).length > 0);
            if (settings != null) classify(picture, settings);
            return;
        } catch (BlastscopeException | IllegalArgumentException error) {
            failure = error.getMessage();
        } catch (NoClassDefFoundError error) {
            if (!String.valueOf(error.getMessage()).startsWith("com/sun/jna")) throw error;
            failure = "JNA is missing: put jna.jar into ImageJ's folder plugins/jars";
        }
        if (GraphicsEnvironment.isHeadless()) System.err.println("Blastscope: " + failure);
        else IJ.error("Blastscope", failure);
        if (Macro.getOptions() != null) throw new RuntimeException(Macro.MACRO_CANCELED); // how ImageJ ends a macro
    }

    private static RoiManager manager(boolean create) {
        if (GraphicsEnvironment.isHeadless()) return null;
        return create ? RoiManager.getRoiManager() : RoiManager.getInstance2();
    }

    private static Roi[] rois(ImagePlus picture) {
        RoiManager manager = manager(false);
        if (manager != null) return manager.getRoisAsArray();
        Overlay overlay = picture.getOverlay();
        return overlay == null || !GraphicsEnvironment.isHeadless() ? new Roi[0] : overlay.toArray();
    }

    private static void classify(ImagePlus picture, Settings settings) {
        Roi[] all = rois(picture);
        if (settings.all && all.length == 0) throw new IllegalArgumentException("there are no ROIs: outline cells and press T for each");
        Roi[] cells = settings.all ? all : new Roi[] {picture.getRoi()};
        CellCutter cutter = new CellCutter(picture);
        Scope scope = OpenScope.of(settings);
        ResultsTable table = ResultsTable.getResultsTable();
        int done = 0;
        while (done < cells.length && !IJ.escapePressed()) {
            List<Image> images = new ArrayList<>();
            for (int i = done; i < Math.min(done + AT_ONCE, cells.length); i++) images.add(cutter.cut(cells[i]));
            for (Prediction prediction : scope.classifyMany(images)) {
                Roi cell = cells[done] != null ? cells[done] : new Roi(0, 0, picture.getWidth(), picture.getHeight());
                String name = ownName(cell, done + 1);
                mark(cell, name, prediction);
                tabulate(table, picture, name, cell, prediction);
                if (settings.all) renamed(done, cell);
                else show(picture, cell);
                done++;
            }
            IJ.showProgress(done, cells.length);
        }
        IJ.resetEscape();
        if (picture.getWindow() != null) picture.updateAndRepaintWindow();
        table.show("Results");
        IJ.showStatus("Blastscope: " + done + " of " + cells.length + " cells");
    }

    /** A ROI's name without the call that an earlier run put behind it. */
    private static String ownName(Roi roi, int number) {
        String name = roi.getName() == null ? String.valueOf(number) : roi.getName();
        int mark = name.lastIndexOf(MARK);
        return mark < 0 ? name : name.substring(0, mark);
    }

    private static void mark(Roi roi, String name, Prediction prediction) {
        int group = prediction.called() ? prediction.label().ordinal() : 2;
        if (Roi.getGroupName(group + 1) == null) Roi.setGroupName(group + 1, GROUPS[group]);
        roi.setGroup(group + 1);
        roi.setStrokeColor(COLOURS[group]);
        roi.setName(name + MARK + (prediction.called() ? prediction.toString() : "refused as " + prediction.refusal().code()));
        roi.setProperty("blastscope", prediction.toString());
    }

    private static void tabulate(ResultsTable table, ImagePlus picture, String name, Roi cell, Prediction prediction) {
        table.incrementCounter();
        table.addLabel(picture.getTitle() + ":" + name);
        table.addValue("Call", prediction.called() ? prediction.label().toString() : "refused");
        table.addValue("Probability", prediction.probability());
        table.addValue("Score", prediction.score());
        table.addValue("Voter", prediction.called() ? prediction.voter().toString() : "");
        for (Prediction.Voter voter : Prediction.Voter.values()) {
            table.addValue("All_by_" + voter, prediction.probability(voter, Prediction.Label.ALL));
        }
        table.addValue("Novelty", prediction.novelty());
        for (String column : FRACTIONS) table.setDecimalPlaces(table.getColumnIndex(column), 6);
        List<String> set = new ArrayList<>();
        for (Prediction.Label label : prediction.set() == null ? Collections.<Prediction.Label>emptySet() : prediction.set()) {
            set.add(label.toString());
        }
        table.addValue("Set", String.join(" ", set));
        table.addValue("X", cell.getBounds().x);
        table.addValue("Y", cell.getBounds().y);
        table.addValue("Width", cell.getBounds().width);
        table.addValue("Height", cell.getBounds().height);
        table.addValue("Refusal", prediction.called() ? "" : prediction.refusal().code());
        table.addValue("Detail", prediction.detail());
    }

    private static void renamed(int index, Roi roi) {
        RoiManager manager = manager(false);
        if (manager != null) manager.rename(index, roi.getName());
    }

    /** The selection joins the ROIs that were called. */
    private static void show(ImagePlus picture, Roi roi) {
        RoiManager manager = manager(true);
        if (manager != null) {
            manager.addRoi((Roi) roi.clone());
            return;
        }
        Overlay overlay = picture.getOverlay() == null ? new Overlay() : picture.getOverlay();
        overlay.add((Roi) roi.clone());
        picture.setOverlay(overlay);
    }
}
