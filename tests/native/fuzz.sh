#!/usr/bin/env bash
# Feeds libFuzzer's inputs to manifest, graph, zip and image of libblastscope: FUZZ_SECONDS each, 600 by default. Inputs that reach
# new code are kept in tests/native/seeds/, merged to the fewest; a crash ends it, and its input lies in .cache/native-fuzz.
#     fuzz.sh OPENVINO_CMAKE SHIPPED_BUNDLE
set -euo pipefail
cd "$(dirname "$0")/../.."
clang=$(command -v clang++ clang++-19 | head -1) || { echo "clang is missing: apt-get install clang-19 libclang-rt-19-dev" >&2; exit 1; }
folder=.cache/native-fuzz
cmake -S runtime/native -B "$folder" -DOpenVINO_DIR="$1" -DCMAKE_CXX_COMPILER="$clang" -DCMAKE_C_COMPILER="${clang/++/}" \
    -DBLASTSCOPE_FUZZ=ON -DBLASTSCOPE_SANITIZE=address,undefined,fuzzer-no-link -DCMAKE_BUILD_TYPE=RelWithDebInfo
cmake --build "$folder" --parallel
for entry in manifest graph zip image; do
    seeds=tests/native/seeds/$entry
    corpus=$folder/corpus/$entry
    mkdir -p "$seeds" "$corpus"
    [ "$entry" = manifest ] && cp "$2/manifest.json" "$corpus/shipped"
    "$folder/fuzz_$entry" -max_total_time="${FUZZ_SECONDS:-600}" -max_len=$([ "$entry" = manifest ] && echo 16384 || echo 4096) \
        -timeout=30 -rss_limit_mb=4096 -print_final_stats=1 -artifact_prefix="$folder/" "$corpus" "$seeds"
    "$folder/fuzz_$entry" -merge=1 "$seeds" "$corpus"
done
