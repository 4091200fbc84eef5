#!/bin/sh
# bundle-corpus.sh: real images as runtime bundles, started by runc.
# py-data: what numpy computes in it, and what of the image was fetched for that. py-web-v1: gunicorn answers HTTP, by the command of
# docs/how-to/run-with-runc.md alone.
set -eu
corpus=${COLDPRESS_CORPUS:?the corpus of real images}
programs=${PROGRAMS:-target/release}
work=$(realpath "$(mktemp -d "${COLDPRESS_BENCH_DIR:-target}/bundle.XXXXXX")")
reader= container=
end() {
    if [ -n "$container" ]; then runc --root "$work/runc" kill "bundle-$$" KILL 2>/dev/null || true; wait $container || true; fi
    if [ -n "$reader" ]; then kill $reader 2>/dev/null || true; wait $reader || true; fi
    rm -rf "$work"
}
trap end EXIT
COLDPRESS_KEY=file:$work/key
export COLDPRESS_KEY
"$programs/coldpress" keygen -q -o "$work/key"

# bundle IMAGE OPTIONS: converts it, and returns when its bundle is ready.
bundle() {
    image=$1
    shift
    "$programs/coldpress" convert "oci:$corpus/$image" --no-cache --store "$work/store" -o "$work/image.cpm" -q
    "$programs/coldread" -v bundle "$work/image.cpm" "$work/bundle" "$@" 2>"$work/log" &
    reader=$!
    begun=$(date +%s)
    until grep -q 'is mounted at' "$work/log"; do
        if ! kill -0 $reader 2>/dev/null || [ $(($(date +%s) - begun)) -gt 30 ]; then cat "$work/log" >&2; exit 1; fi
        sleep 0.1
    done
}

ended() {
    umount "$work/bundle/rootfs"
    wait $reader
    reader=
}

bundle py-data -- python3 -c 'import numpy; print(numpy.arange(10).sum())'
first=$(date +%s%N)
said=$(runc --root "$work/runc" run -b "$work/bundle" "bundle-$$")
second=$(date +%s%N)
again=$(runc --root "$work/runc" run -b "$work/bundle" "bundle-$$")
last=$(date +%s%N)
ended
echo "numpy: runc run: $said, $again in $(((second - first) / 1000000)) and $(((last - second) / 1000000)) ms; $(tail -1 "$work/log")"
[ "$said $again" = "45 45" ]

bundle py-web-v1 --network host
first=$(date +%s%N)
runc --root "$work/runc" run -b "$work/bundle" "bundle-$$" >"$work/out" 2>&1 &
container=$!
begun=$(date +%s)
# gunicorn prints where it listens.
until url=$(sed -n 's/.*Listening at: \(http:[^ ]*\).*/\1/p' "$work/out") && [ -n "$url" ] \
    && code=$(curl -s -o "$work/answer" -w '%{http_code}' "$url/healthz"); do
    if ! kill -0 $container 2>/dev/null || [ $(($(date +%s) - begun)) -gt 60 ]; then cat "$work/out" >&2; exit 1; fi
    sleep 0.05
done
last=$(date +%s%N)
echo "gunicorn: $url/healthz answered $code in $(((last - first) / 1000000)) ms: $(head -c 120 "$work/answer" | tr '\n' ' ')"
runc --root "$work/runc" kill "bundle-$$" TERM
wait $container || true
container=
ended
[ "$code" = 200 ]
