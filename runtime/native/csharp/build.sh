#!/usr/bin/env bash
# Compiles the C# class and its example with Mono's compiler; Blastscope.csproj is for .NET's:
#     build.sh FOLDER            writes FOLDER/Blastscope.dll and FOLDER/Classify.exe
set -euo pipefail
here=$(realpath "$(dirname "$0")")
command -v mcs > /dev/null || { echo "mcs is missing: apt-get install mono-mcs" >&2; exit 1; }
mkdir -p "$1"
mcs="mcs -langversion:latest -warnaserror -warn:4 -optimize"
$mcs -unsafe -target:library -out:"$1/Blastscope.dll" "$here"/*.cs
$mcs -r:"$1/Blastscope.dll" -out:"$1/Classify.exe" "$here"/examples/*.cs
