#!/usr/bin/env bash
# Adds the classes for Java and C# and the ImageJ plugin to a package: sources and pages, and compiled where a compiler is here:
#     bindings.sh FOLDER
set -euo pipefail
native=$(realpath "$(dirname "$0")/..")
for part in java csharp imagej; do
    rm -rf "${1:?}/$part"
    cp -r "$native/$part" "$1/$part"
done
if command -v javac > /dev/null && [ -e "${JNA_JAR:-/usr/share/java/jna.jar}" ]; then "$native/java/build.sh" "$1/java"; fi
if command -v mcs > /dev/null; then "$native/csharp/build.sh" "$1/csharp"; fi
