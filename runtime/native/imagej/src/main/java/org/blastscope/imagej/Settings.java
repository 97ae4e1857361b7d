package org.blastscope.imagej;

import ij.Macro;
import ij.Prefs;
import ij.gui.GenericDialog;

/**
 * What a person chose in the dialog, which the recorder writes into a macro, or what a macro says. A macro's options are read without a
 * dialog, so that they do where there is no screen.
 */
final class Settings {
    static final String SELECTION = "selection";
    static final String ALL = "all ROIs";
    private static final String CELLS = "Cells";
    private static final String BUNDLE = "Bundle";
    private static final String LIBRARY = "Library";
    private static final String UNLIKE = "Call_cells unlike those of the training";

    final String bundle;
    final String library;
    final boolean all;
    final boolean callUnlike;

    private Settings(String bundle, String library, String cells, boolean callUnlike) {
        this.bundle = bundle.trim();
        this.library = library.trim();
        this.all = cells.equals(ALL);
        this.callUnlike = callUnlike;
        if (!all && !cells.equals(SELECTION)) {
            throw new IllegalArgumentException("cells=[" + cells + "] is neither '" + SELECTION + "' nor '" + ALL + "'");
        }
        if (this.bundle.isEmpty()) throw new IllegalArgumentException("no bundle was named: its folder, or its zip file");
    }

    /** The choices; null where the person cancelled. */
    static Settings choose(boolean thereAreRois) {
        String options = Macro.getOptions();
        if (options != null) {
            return new Settings(
                    Macro.getValue(options, key(BUNDLE), ""), Macro.getValue(options, key(LIBRARY), ""),
                    Macro.getValue(options, key(CELLS), thereAreRois ? ALL : SELECTION), says(options, key(UNLIKE)));
        }
        GenericDialog dialog = new GenericDialog("Classify Cells");
        dialog.addFileField(BUNDLE, Prefs.get("blastscope.bundle", ""), 40);
        dialog.addFileField(LIBRARY, Prefs.get("blastscope.library", ""), 40);
        dialog.addChoice(CELLS, new String[] {SELECTION, ALL}, thereAreRois ? ALL : SELECTION);
        dialog.addCheckbox(UNLIKE, false);
        dialog.addMessage("Bundle: a folder or zip file. Library: libblastscope.so, or empty where it lies in\n"
                + "../lib of the bundle. Outline cells; a rectangle is for a cell that lies on black.\n"
                + "For research use, not a medical device.");
        dialog.showDialog();
        if (dialog.wasCanceled()) return null;
        Settings chosen = new Settings(
                dialog.getNextString(), dialog.getNextString(), dialog.getNextChoice(), dialog.getNextBoolean());
        Prefs.set("blastscope.bundle", chosen.bundle);
        Prefs.set("blastscope.library", chosen.library);
        return chosen;
    }

    /** The name of an option in macros: the label's first word, as the dialog has it. */
    private static String key(String label) {
        return Macro.trimKey(label);
    }

    /** Whether a macro's options have a checkbox's name, outside of what stands in brackets. */
    private static boolean says(String options, String key) {
        for (String word : options.replaceAll("\\[[^\\]]*\\]", "").split("\\s+")) {
            if (word.equals(key)) return true;
        }
        return false;
    }
}
