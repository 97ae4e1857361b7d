package org.blastscope.imagej;

import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import org.blastscope.Options;
import org.blastscope.Scope;

/** The bundle that was opened last, kept open for the next command: opening takes a second or more. */
final class OpenScope {
    private static Scope scope;
    private static String opened;

    private OpenScope() {}

    static synchronized Scope of(Settings settings) {
        String wanted = settings.bundle + "\0" + settings.callUnlike;
        if (scope == null || !wanted.equals(opened)) {
            Path bundle = Paths.get(settings.bundle);
            Path library = library(bundle, settings.library);
            if (library != null) Scope.load(library);
            if (scope == null) Runtime.getRuntime().addShutdownHook(new Thread(OpenScope::close, "blastscope"));
            else scope.close();
            scope = null;
            // the same calls on every machine, whatever is fastest there: tables get compared and published
            Options options = new Options().precision("fp32").execution("f32").workload("throughput");
            scope = Scope.open(bundle, options.callUnlikeTraining(settings.callUnlike));
            opened = wanted;
        }
        return scope;
    }

    private static synchronized void close() {
        if (scope != null) scope.close();
    }

    /** The file that was named, or in the folder that was named, or beside the bundle; null: where JNA finds it. */
    private static Path library(Path bundle, String named) {
        String file = System.mapLibraryName("blastscope");
        if (!named.isEmpty()) {
            Path place = Paths.get(named);
            return Files.isDirectory(place) ? place.resolve(file) : place;
        }
        Path beside = bundle.toAbsolutePath().resolveSibling("lib").resolve(file);
        return Files.exists(beside) ? beside : null;
    }
}
