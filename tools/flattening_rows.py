"""The rows of the table in docs/design.md ("Flattening"), each with layers that show it and what containerd makes of them."""
import re

from layer_tar import *

N = NO_ID
EQUAL, BOTH_REFUSE, CONTAINERD_REFUSES, COLDPRESS_REFUSES = "equal", "both refuse", "containerd refuses", "coldpress refuses"

# Refusals in which the table says that the two differ: what coldpress says, or what containerd says.
NAMED_OURS = [
    "the root can only be a directory",
    "an extended header precedes it",
    "its owner does not fit 32 bits",
    "its group does not fit 32 bits",
    "no device number",
    "is past ext4's",
    "is a whiteout and cannot have entries",
    "more than 40 symlinks",
    "malformed extended attribute",
]
NAMED_THEIRS = [r"unhandled tar header type (55|83)\b", "header field too long"]


def is_named(ours, theirs):
    """Whether the table names that one refuses what the other takes."""
    if ours is not None:
        return any(words in ours for words in NAMED_OURS)
    return any(re.search(words, theirs) for words in NAMED_THEIRS)


class Row:
    """`want` is one of the words above, or the (path, fact) pairs that differ. `judge` must agree with coldpress."""

    def __init__(self, name, layers, want=EQUAL, *, words="", judge=None, has=()):
        self.name, self.layers, self.want, self.words, self.judge, self.has = name, layers, want, words, judge, has

    def wrong(self, bench, at, layout, ours, theirs, differences):
        (seen, our_refusal), (unpacked, their_refusal) = ours, theirs
        for path in self.has:
            if seen is not None and path not in seen:
                return f"{path!r} is not in what coldpress made"
        if self.want in (BOTH_REFUSE, COLDPRESS_REFUSES, CONTAINERD_REFUSES):
            want = (self.want != CONTAINERD_REFUSES, self.want != COLDPRESS_REFUSES)
            if (seen is None, unpacked is None) != want:
                return f"wanted: {self.want}; coldpress: {our_refusal or 'takes it'}; containerd: {their_refusal or 'takes it'}"
            refusals = (our_refusal or "") + (their_refusal or "")
            if self.words not in refusals:
                return f"wanted `{self.words}` in: {refusals}"
        elif seen is None or unpacked is None:
            return f"coldpress: {our_refusal or 'takes it'}; containerd: {their_refusal or 'takes it'}"
        else:
            found = differences(seen, unpacked)
            want = set() if self.want == EQUAL else set(self.want)
            if {(path, key) for path, key, _, _ in found} != want:
                return f"wanted {want}; found {found}"
        if self.judge and seen is not None:
            try:
                judged = bench.umoci(layout, at) if self.judge == "umoci" else bench.bsdtar(self.layers, at)
            except Exception as error:
                return f"{self.judge}: {error}"
            found = [d for d in differences(seen, judged) if d[1] != "mtime" or d[0] not in self.implied(seen)]
            if found:
                return f"{self.judge} differs: {found}"
        return None

    @staticmethod
    def implied(seen):
        """Directories of time 0: no entry describes them, and a judge gives them the time of unpacking."""
        return {path for path, facts in seen.items() if facts["mtime"] == 0}


base = tar(file(b"base"))
lower_x = tar(directory(b"x", mode=0o700), file(b"x/lower"))
list_of = lambda mask: acl((1, 7, N), (2, 7, 1000), (4, 5, N), (16, mask, N), (32, 0, N))
one_default = [xattr(b"system.posix_acl_default", acl((1, 7, N), (2, 7, 5), (4, 5, N), (16, 7, N), (32, 0, N)))]
gnu_map = [(386, b"00000000000\0" + b"00000000004\0" + b"00000010000\0" + b"00000000004\0"), (483, b"00000010004\0")]
linked = lambda count: [symlink(b"0", b"d")] + [symlink(b"%d" % i, b"%d" % (i - 1)) for i in range(1, count)]
long_record = [(b"comment", b"c" * (1 << 20))]

ROWS = [
    Row("upper lib/foo over lower lib -> usr/lib", [tar(directory(b"usr"), directory(b"usr/lib", mode=0o700), symlink(b"lib", b"usr/lib")), tar(file(b"lib/foo"))], {(b"lib", "mode")}, has=[b"lib/foo"]),
    Row("... whose directory another layer has", [tar(directory(b"usr/lib", mode=0o700)), tar(symlink(b"lib", b"usr/lib")), tar(file(b"lib/foo"))], has=[b"lib/foo"]),
    Row("a symlink of the same layer is followed", [tar(directory(b"usr"), symlink(b"lib", b"usr/lib"), file(b"lib/foo"), symlink(b"up", b"../../.."), file(b"up/a"), symlink(b"abs", b"/etc"), file(b"abs/b"))], has=[b"usr/lib/foo", b"a", b"etc/b"]),
    Row("`..` behind a symlink in a followed one's target", [tar(directory(b"d"), symlink(b"d/s", b"/usr/lib"), symlink(b"d/a", b"s/../b"), directory(b"usr"), directory(b"usr/lib"), file(b"d/a/f"))], {(p, "only in ours") for p in (b"usr/b", b"usr/b/f")} | {(p, "only in theirs") for p in (b"d/b", b"d/b/f")}),
    Row("40 symlinks in a path", [tar(*linked(40), file(b"39/f"))], has=[b"d/f"]),
    Row("41 symlinks in a path", [tar(*linked(41), file(b"40/f"))], COLDPRESS_REFUSES, words="more than 40 symlinks"),
    Row("whiteout x before x/ of the same layer", [lower_x, tar(whiteout(b"x"), directory(b"x"), file(b"x/own"))], {(b"x/lower", "only in theirs")}),
    Row("whiteout x before a file x of the same layer", [lower_x, tar(whiteout(b"x"), file(b"x"))], judge="umoci"),
    Row("whiteout x behind x/ of the same layer", [lower_x, tar(directory(b"x"), file(b"x/own"), whiteout(b"x"))], CONTAINERD_REFUSES, words="file exists", has=[b"x/own"]),
    Row("whiteout x and an implied x/", [lower_x, tar(whiteout(b"x"), file(b"x/own"))], CONTAINERD_REFUSES, words="not a directory", has=[b"x/own"]),
    Row("the same whiteout twice", [lower_x, tar(whiteout(b"x"), whiteout(b"x"))], CONTAINERD_REFUSES, words="file exists", judge="umoci"),
    Row("an opaque whiteout first in its layer", [lower_x, tar(opaque(b"x"), directory(b"x"), file(b"x/own"))], judge="umoci"),
    Row("an opaque whiteout last in its layer", [lower_x, tar(directory(b"x"), file(b"x/own"), opaque(b"x"))], judge="umoci"),
    Row("an opaque whiteout at the root", [lower_x, tar(opaque(b""), file(b"own"))], {(b"x", "only in theirs"), (b"x/lower", "only in theirs")}, judge="umoci"),
    Row("hard link to a lower layer's file", [tar(file(b"a")), tar(hard_link(b"b", b"a"))], CONTAINERD_REFUSES, words="no such file or directory", has=[b"b"], judge="umoci"),
    Row("hard link with metadata of its own", [base, tar(file(b"a", uid=1, gid=2, records=[xattr(b"user.x", b"1"), xattr(b"security.capability", struct.pack("<IIIII", 0x02000001, 0x400, 0, 0, 0))]), hard_link(b"b", b"a", uid=9, gid=N, mode=0o4755, mtime=77, records=[xattr(b"user.y", b"2")]))]),
    Row("hard link to a symlink, with metadata", [base, tar(symlink(b"a", b"to"), hard_link(b"b", b"a", uid=9, mode=0o600, mtime=77))]),
    Row("hard link that narrows an access list", [base, tar(file(b"a", mode=0o770, records=[xattr(b"system.posix_acl_access", list_of(7))]), hard_link(b"b", b"a", mode=0o640))]),
    Row("hard link to a later entry", [base, tar(hard_link(b"a", b"b"), file(b"b"))], BOTH_REFUSE),
    Row("hard link to a directory", [base, tar(directory(b"d"), hard_link(b"a", b"d"))], BOTH_REFUSE),
    Row("hard link to nothing", [base, tar(hard_link(b"a", b"nothing"))], BOTH_REFUSE),
    Row("hard link to what its own layer hid", [lower_x, tar(whiteout(b"x/lower"), hard_link(b"a", b"x/lower"))], COLDPRESS_REFUSES, words="which its own layer hides"),
    Row("hard link to itself", [base, tar(file(b"a"), hard_link(b"a", b"a"))], BOTH_REFUSE),
    Row("hard link through a symlink of its layer", [base, tar(directory(b"d"), file(b"d/a"), symlink(b"s", b"d"), hard_link(b"b", b"s/a"))]),
    Row("whiteout in a directory that is nowhere", [base, tar(whiteout(b"new/x"))], has=[b"new"]),
    Row("duplicate entries", [base, tar(file(b"a"), symlink(b"a", b"b"), file(b"c", b"1"), file(b"c", b"2", mode=0o600))]),
    Row("a directory, then a file of that name", [base, tar(directory(b"d", mtime=5), file(b"d", mtime=7))], {(b"d", "mtime")}),
    Row("a directory that is described twice", [base, tar(directory(b"d", uid=3, records=[xattr(b"user.a", b"1")]), directory(b"d", uid=N, records=[xattr(b"user.b", b"2")]))]),
    Row("... and the first time implied, over a lower one with attributes", [tar(directory(b"d", records=[xattr(b"user.a", b"1")])), tar(file(b"d/f"), directory(b"d"))], {(b"d", "xattrs")}),
    Row("upper x/y over a lower file x", [tar(file(b"x")), tar(file(b"x/y"))], has=[b"x/y"]),
    Row("x/y where the same layer made x a file", [base, tar(file(b"x"), file(b"x/y"))], BOTH_REFUSE),
    Row("implied parent directories", [tar(directory(b"d", mode=0o710, uid=3, records=[xattr(b"user.a", b"1")])), tar(file(b"d/f"), file(b"new/f"))]),
    Row("an implied directory below what was a file two layers below", [tar(file(b"x")), tar(directory(b"x")), tar(file(b"x/new/f"))], CONTAINERD_REFUSES, words="not a directory", has=[b"x/new/f"]),
    Row("implied directories below an opaque one", [tar(directory(b"d"), directory(b"d/i", mode=0o700)), tar(opaque(b"d"), file(b"d/i/f"))], {(b"d/i", "mode")}),
    Row("implied directories below one with the setgid bit", [base, tar(directory(b"d", mode=0o2755, gid=7), file(b"d/i/f"))], {(b"d/i", "gid")}),
    Row("what is made in a directory with a default list", [base, tar(directory(b"d", records=one_default), file(b"d/f"))], {(b"d/f", "xattrs")}),
    Row("an opaque directory without an entry of its own", [lower_x, tar(opaque(b"x"))], judge="umoci"),
    Row("character device 0:0", [lower_x, tar(entry(b"x", b"3"))]),
    Row("a type in a whiteout's entry", [lower_x, tar(directory(b".wh.x"))]),
    Row("attributes of an overlay", [base, tar(file(b"a", records=[xattr(b"user.overlay.x", b"1"), xattr(b"trusted.overlay.y", b"1")]))], {(b"a", "xattrs")}),
    Row("attributes of no Linux namespace", [base, tar(file(b"a", records=[xattr(b"com.apple.x", b"1"), xattr(b"system.nfs4_acl", b"1")]))]),
    Row("user.* on a symlink, a pipe, a device", [base, tar(*[entry(b"n" + flag, flag, link=b"to" * (flag == b"2"), device=(1, 3), records=[xattr(b"user.x", b"1"), xattr(b"security.x", b"1")]) for flag in (b"2", b"3", b"4", b"6")])]),
    Row("an access list wider than the mode", [base, tar(file(b"a", mode=0o640, records=[xattr(b"system.posix_acl_access", list_of(7))]))]),
    Row("an access list that is the mode, none, of another version, of a symlink", [base, tar(*[file(b"a%d" % i, records=[xattr(b"system.posix_acl_access", value)]) for i, value in enumerate([acl((1, 7, N), (4, 7, N), (32, 7, N)), acl(), b"", b"\1\0\0\0x"])], symlink(b"s", b"to", records=[xattr(b"system.posix_acl_access", list_of(7))]))]),
    Row("an access list that is none", [base, tar(file(b"a", records=[xattr(b"system.posix_acl_access", acl((1, 7, N), (2, 7, 5), (4, 7, N), (32, 7, N)))]))], BOTH_REFUSE),
    Row("a default list of a file", [base, tar(file(b"a", records=one_default))], BOTH_REFUSE),
    Row("a file capability that is none", [base, tar(file(b"a", records=[xattr(b"security.capability", b"x")]))], BOTH_REFUSE),
    Row("attributes of LIBARCHIVE's form alone", [base, tar(file(b"a", records=[(b"LIBARCHIVE.xattr.user.x", b"AAEC")]))], {(b"a", "xattrs")}, judge="bsdtar"),
    Row("... that are not of that form", [base, tar(file(b"a", records=[(b"LIBARCHIVE.xattr.user.x", b"*")]))], COLDPRESS_REFUSES, words="is not base64"),
    Row("`..` and absolute names", [base, tar(file(b"../../up"), file(b"/etc/abs"), file(b"d/../../e/f"), hard_link(b"link", b"/../up"))], has=[b"up", b"etc/abs", b"e/f"]),
    Row("`.wh.` as a whole name", [base, tar(file(b".wh."))], BOTH_REFUSE),
    Row("`.wh..` as a whole name", [base, tar(file(b".wh.."))], BOTH_REFUSE),
    Row("`.wh...` as a whole name", [base, tar(file(b".wh..."))], BOTH_REFUSE),
    Row("an entry below a whiteout", [base, tar(file(b".wh.x/y"))], COLDPRESS_REFUSES, words="is a whiteout and cannot have entries"),
    Row("what AUFS kept at the root", [base, tar(directory(b".wh..wh.plnk"), file(b".wh..wh.aufs"))]),
    Row("... with entries", [base, tar(directory(b".wh..wh.plnk"), file(b".wh..wh.plnk/1.2"))], {(b".wh..wh.plnk", "only in theirs"), (b".wh..wh.plnk/1.2", "only in theirs")}),
    Row("a symlink's mode", [base, tar(symlink(b"s", b"to", mode=0o600))]),
    Row("a PAX global header", [base, tar(pax([(b"path", b"other"), (b"uid", b"7")], b"g"), file(b"f"))]),
    Row("... of the name of an entry", [base, tar(file(b"PaxHeaders/entry"), pax([(b"comment", b"x")], b"g"))], {(b"PaxHeaders/entry", "only in ours")}),
    Row("... behind an extended header", [base, tar(pax([(b"path", b"lost")]), pax([(b"comment", b"x")], b"g"), file(b"f"))], {(b"PaxHeaders", "only in theirs")}, has=[b"f"]),
    Row("a second PAX header before one entry", [base, tar(pax([(b"path", b"first")]), pax([(b"uid", b"7")]), file(b"f"))], has=[b"f"]),
    Row("an extended header before no entry", [base, tar(file(b"f"), pax([(b"path", b"x")]))], COLDPRESS_REFUSES, words="an extended header precedes it"),
    Row("an extended header of over 1 MiB", [base, tar(file(b"f", records=long_record))], CONTAINERD_REFUSES, words="header field too long"),
    Row("an owner of 4294967295, -1 or -2", [base, tar(file(b"a", uid=N, gid=-1), file(b"b", uid=-2, gid=-2), file(b"c", records=[(b"uid", b"-1"), (b"gid", b"-2")]))], judge="umoci"),
    Row("its owner does not fit 32 bits", [base, tar(file(b"a", uid=1 << 32))], COLDPRESS_REFUSES, words="its owner does not fit 32 bits"),
    Row("a device number past 12 and 20 bits", [base, tar(entry(b"a", b"3", device=(4096, 0)))], COLDPRESS_REFUSES, words="is past ext4's"),
    Row("something else than a directory at the root", [base, tar(file(b"./"))], COLDPRESS_REFUSES, words="the root can only be a directory"),
    Row("a contiguous file", [base, tar(entry(b"a", b"7", b"data"))], CONTAINERD_REFUSES, words="unhandled tar header type", judge="bsdtar"),
    Row("a sparse file of the old GNU form", [base, tar(entry(b"a", b"S", b"headtail", magic=GNU, fields=gnu_map))], CONTAINERD_REFUSES, words="unhandled tar header type", judge="bsdtar"),
    Row("GNU.sparse.name of a file that is not sparse", [base, tar(file(b"innocent", records=[(b"GNU.sparse.name", b"usr/bin/evil")]))], has=[b"innocent"]),
    Row("a prefix in a GNU header", [base, tar(file(b"name", magic=GNU, prefix=b"usr/share", uid=5_000_000))], has=[b"usr/share/name"]),
    Row("a layer that ends behind its last byte", [base, tar(file(b"a"), header(b"f", size=3) + b"abc", end=b"")], has=[b"f"]),
    Row("a layer that ends in the middle of a file", [base, tar(header(b"f", size=3) + b"ab", end=b"")], BOTH_REFUSE),
    Row("times before 1970 and after 2262", [base, tar(file(b"a", records=[(b"mtime", b"-5.5")]), file(b"b", mtime=12_000_000_000))]),
]
