#!/usr/bin/env bash
# Writes a folder with libblastscope and all that it needs, which runs on a Debian without Python:
#     package.sh BUILD OPENVINO_PACKAGE SHIPPED_BUNDLE FOLDER
set -euo pipefail
here=$(realpath "$(dirname "$0")")
build=$(realpath "$1") openvino=$(realpath "$2") bundle=$(realpath "$3") folder=$(realpath -m "$4")
rm -rf "$folder.new"
cmake --install "$build" --prefix "$folder.new" --strip > /dev/null
cd "$folder.new"
# of OpenVINO: the runtime, the reader of ONNX and of its own format, the CPU, and the threads that they work with
for part in libopenvino.so libopenvino_onnx_frontend.so libopenvino_ir_frontend.so libopenvino_intel_cpu_plugin.so libtbb.so \
    libtbbmalloc.so libhwloc.so libtbbbind_2_5.so; do
    cp -L "$openvino"/libs/$part* lib/
done
protobuf=$(ldd lib/libblastscope.so | sed -n 's/.*=> \(.*libprotobuf-lite[^ ]*\) .*/\1/p')
[ -z "$protobuf" ] || cp -L "$protobuf" "lib/$(basename "$protobuf")"
cp -r "$bundle" shipped
mkdir licences
cp -r "$openvino"/../openvino-[0-9]*.dist-info/licenses/. licences/
cp "$here/../../../LICENSE" "$here/../../../NOTICE" licences/
for package in nlohmann-json3-dev libminizip-dev zlib1g-dev libssl-dev libprotobuf-lite32; do
    if [ -e "/usr/share/doc/$package/copyright" ]; then cp -L "/usr/share/doc/$package/copyright" "licences/$package"; fi
done
cd - > /dev/null
rm -rf "$folder"
mv "$folder.new" "$folder"
du -sh "$folder"
