#!/bin/sh
# demo.sh PROGRAMS WORK: the main job on a sample image made here, with a key and a store made here. Needs no root.
set -eu
programs=$(cd "$1" && pwd)
rm -rf "$2" && mkdir -p "$2" && cd "$2"
PATH=$programs:$PATH
say() { printf '\n$ %s\n' "$*"; "$@"; }

# A root file system of this machine's own files, as a container's would be: programs, libraries, documents.
mkdir -p root/etc root/bin root/usr/share
cp /bin/sh root/bin/sh
cp -R /usr/share/common-licenses root/usr/share/ 2>/dev/null || cp "$0" root/usr/share/
ln -s ../bin/sh root/etc/shell
echo 'coldpress: read lazily, trusted never' >root/etc/motd
tar -C root -cf app.tar .

say coldpress keygen -o coldpress.key
say coldpress convert tar:app.tar --store ./store --key file:coldpress.key -o app.cpm
say coldpress verify app.cpm --store ./store
say coldpress verify app.cpm --source tar:app.tar
say coldpress inspect app.cpm
say coldread ls -l app.cpm /etc
say coldread cat -v app.cpm /etc/motd
[ "$(coldread cat app.cpm /etc/motd)" = 'coldpress: read lazily, trusted never' ]
printf '\nThe demo is in %s. As root, mount it: coldread mount app.cpm DIR\n' "$PWD"
