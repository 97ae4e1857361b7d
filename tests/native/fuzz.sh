#!/usr/bin/env bash
# Feeds libFuzzer's inputs to manifest, golden set, graph, zip, image and signature of libblastscope, all at once: FUZZ_SECONDS, 600 by
# default. It begins with the inputs in runtime/native/fuzz/seeds/; those that reached new code lie in .cache/native-fuzz/corpus/
# and are begun with the next time. A crash, a hang or a leak ends it with its input's path. FUZZ_KEEP=1 merges the corpus into
# the seeds, as few inputs as reach the same code.
#     fuzz.sh OPENVINO_CMAKE SHIPPED_BUNDLE
set -euo pipefail
cd "$(dirname "$0")/../.."
clang=$(command -v clang++ clang++-19 | head -1) || { echo "clang is missing: apt-get install clang-19 libclang-rt-19-dev" >&2; exit 1; }
folder=.cache/native-fuzz seeds=runtime/native/fuzz/seeds entries="manifest golden graph zip image signature"
cmake -S runtime/native -B "$folder" -DOpenVINO_DIR="$1" -DCMAKE_CXX_COMPILER="$clang" -DCMAKE_C_COMPILER="${clang/++/}" \
    -DBLASTSCOPE_FUZZ=ON -DBLASTSCOPE_SANITIZE=address,undefined,fuzzer-no-link -DCMAKE_BUILD_TYPE=RelWithDebInfo > /dev/null
for entry in $entries; do cmake --build "$folder" --parallel "$(nproc)" --target "fuzz_$entry"; done
declare -A running
for entry in $entries; do
    corpus=$folder/corpus/$entry
    mkdir -p "$corpus"
    if [ "$entry" = manifest ]; then cp "$2/manifest.json" "$corpus/shipped"; fi
    "$folder/fuzz_$entry" -max_total_time="${FUZZ_SECONDS:-600}" -max_len=65536 -timeout=60 -rss_limit_mb=4096 -print_final_stats=1 \
        -artifact_prefix="$folder/$entry-" "$corpus" "$seeds/$entry" > "$folder/$entry.log" 2>&1 &
    running[$entry]=$!
done
failed=0
for entry in $entries; do
    if wait "${running[$entry]}"; then
        echo "$entry: $(sed -n 's/^stat::number_of_executed_units: *//p' "$folder/$entry.log") inputs, no fault"
    else
        failed=1
        echo "$entry: a fault, see $folder/$entry.log" >&2
        tail -n 40 "$folder/$entry.log" >&2
    fi
done
if [ "$failed" = 0 ] && [ -n "${FUZZ_KEEP:-}" ]; then
    for entry in $entries; do
        rm -rf "$folder/merged" && mkdir "$folder/merged"
        "$folder/fuzz_$entry" -merge=1 "$folder/merged" "$seeds/$entry" "$folder/corpus/$entry" 2> /dev/null
        rm -rf "${seeds:?}/$entry" && mv "$folder/merged" "$seeds/$entry"
    done
fi
exit "$failed"
