#!/usr/bin/env bash
# Compiles the Java class with a JDK of 9 or later, for Java 8 and later, and the ImageJ plugin where ImageJ is there, without Maven:
#     build.sh FOLDER            writes FOLDER/blastscope.jar and FOLDER/Blastscope_.jar
# JNA_JAR and IJ_JAR name jna.jar and ij.jar; by default those of Debian's libjna-java and imagej.
set -euo pipefail
here=$(realpath "$(dirname "$0")")
jna=${JNA_JAR:-/usr/share/java/jna.jar} ij=${IJ_JAR:-/usr/share/java/ij.jar}
mkdir -p "$1"
out=$(realpath "$1")
[ -e "$jna" ] || { echo "jna.jar is missing: apt-get install libjna-java" >&2; exit 1; }
classes=$(mktemp -d)
trap 'rm -rf "$classes"' EXIT
javac="javac --release 8 -Xlint:all,-options -Werror -encoding UTF-8"
$javac -cp "$jna" -d "$classes" "$here"/src/main/java/org/blastscope/*.java
jar cf "$out/blastscope.jar" -C "$classes" .
if [ -e "$ij" ]; then
    $javac -cp "$classes:$ij" -d "$classes" "$here"/../imagej/src/main/java/org/blastscope/imagej/*.java
    cp "$here"/../imagej/src/main/resources/plugins.config "$classes"
    jar cf "$out/Blastscope_.jar" -C "$classes" .
else
    echo "ij.jar is missing (apt-get install imagej): no plugin was built" >&2
fi
