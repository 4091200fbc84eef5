#!/bin/sh
# instructions.sh [--accept]: how many instructions the conversion of a small made image takes, against those of the last
# release in testdata/instructions.txt. Clocks here are noisy, counts are not. Ends with 1 where one rose by over 3 %.
# --accept writes the counts down: for a release, with its reason in CHANGELOG.md. Needs valgrind.
set -eu
accepted=testdata/instructions.txt
coldpress=target/release/coldpress
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 - "$work/layer.tar" <<'END'
import hashlib, io, sys, tarfile
with tarfile.open(sys.argv[1], "w", format=tarfile.GNU_FORMAT) as tar:
    def add(name, data):
        info = tarfile.TarInfo(name)
        info.size, info.mtime = len(data), 1_700_000_000
        tar.addfile(info, io.BytesIO(data))
    # Text, which compresses, and noise, which does not.
    for number in range(2000):
        add(f"small/{number % 40:02}/{number:04}", b"line %d of a small file\n" % number * 20)
    for number in range(6):
        noise = b"".join(hashlib.sha256(b"%d %d" % (number, block)).digest() for block in range(32768))
        add(f"large/{number}", noise)
END
gzip -n -k "$work/layer.tar"
"$coldpress" keygen -q -o "$work/key"

# count NAME IMAGE CODEC
count() {
    valgrind --quiet --tool=callgrind --callgrind-out-file="$work/out" "$coldpress" convert -q --no-cache --dry-run --threads 1 \
        --key "file:$work/key" --compression "$3" "tar:$work/$2" 2>/dev/null
    echo "$1 $(sed -n 's/^summary: //p; s/^totals: //p' "$work/out" | head -n 1)"
}

{
    count plain-none layer.tar none
    count gzip-none layer.tar.gz none
    count gzip-zstd:1 layer.tar.gz zstd:1
} >"$work/now"
if [ "${1:-}" = --accept ]; then
    cp "$work/now" "$accepted"
    cat "$accepted"
    exit
fi
awk 'NR == FNR { then[$1] = $2; next }
    { change = 100 * ($2 / then[$1] - 1); more = (change > 3); bad = (bad || more)
      printf("%-12s %12d instructions, %+.2f %%%s\n", $1, $2, change, (more ? "  TOO MANY" : "")) }
    END { exit bad }' "$accepted" "$work/now"
