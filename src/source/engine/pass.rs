//! One stream of an image, in whichever of its forms it comes.
//!
//! Before docker 25 layers are `ID/layer.tar`, since then `blobs/sha256/HEX`, podman writes `HEX.tar`; members come in no order
//! that can be relied on, and `manifest.json`, which says which layer is which, comes last. So a member is known
//! - by its name, where that is the DiffID of a layer: it goes to who reads that layer while it comes;
//! - else by its digest, where that is the DiffID of a layer;
//! - else, where it is compressed, by `manifest.json`.
//!
//! Whoever reads a layer checks it against its DiffID. The last layer ends with the stream, so that a stream which is cut short or
//! has another image in it is noticed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::sync::Arc;

use tempfile::{SpooledData, SpooledTempFile, spooled_tempfile_in};

use super::api::Failure;
use super::members::{Broken, Kind, Member, Members};
use crate::digest::{Sha256, Sha256Hasher, from_hex};
use crate::fs::path::Display;
use crate::printable::size;
use crate::source::ImageConfig;
use crate::source::archive::{MAX_LINKS, clean};
use crate::source::blob::{MAX_DOCUMENT, wrong_digest};
use crate::source::docker_archive::{Item, digest_in_name};
use crate::source::spool::Spool;
use crate::{Error, ErrorKind, Result};

/// Larger members are kept in files until it is known what they are.
const IN_MEMORY: usize = 16 << 10;
/// Most members that are kept so; an image of docker's has at most 127 layers.
const MAX_KEPT: usize = 1_000;
/// Most links.
const MAX_LINKED: usize = 10_000;
/// Bytes that are read at once.
const PIECE: usize = 128 << 10;

/// What one stream is read for.
pub(super) struct Pass<'a> {
    /// Of the image's layers, the base first.
    diff_ids: &'a [Sha256],
    /// The layers that did not come yet.
    wanted: BTreeMap<Sha256, &'a Spool>,
    /// Those of them that came.
    done: BTreeSet<Sha256>,
    temp: &'a Path,
    /// How many bytes may still be kept.
    room: u64,
    /// Members of which nothing is known yet.
    kept: BTreeMap<Vec<u8>, SpooledTempFile>,
    links: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl From<Broken> for Failure {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Malformed(_) => Self::Final(Error::new(ErrorKind::Corrupt, broken.to_string())),
            Broken::Lost(error) => {
                Self::Again(Error::new(ErrorKind::Unavailable, format!("the connection was lost: {error}")))
            }
            Broken::Early | Broken::Said(_) => Self::Again(Error::new(ErrorKind::Unavailable, broken.to_string())),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

impl<'a> Pass<'a> {
    /// For the layers `wanted` of those that the image has.
    pub(super) fn new(
        diff_ids: &'a [Sha256],
        wanted: &'a [(Sha256, Arc<Spool>)],
        temp: &'a Path,
        max_size: u64,
    ) -> Self {
        // Those that came before the connection was lost are done.
        let wanted = wanted.iter().filter(|(_, spool)| !spool.ended()).map(|(diff_id, spool)| (*diff_id, &**spool));
        Self {
            diff_ids,
            wanted: wanted.collect(),
            done: BTreeSet::new(),
            temp,
            room: max_size,
            kept: BTreeMap::new(),
            links: BTreeMap::new(),
        }
    }

    /// Reads the stream to its end; all that was wanted is then written, and the image's config known.
    pub(super) fn read(mut self, stream: impl Read) -> Result<ImageConfig, Failure> {
        let (mut members, mut buf) = (Members::new(stream), vec![0; PIECE]);
        while let Some(Member { name, kind }) = members.next_member()? {
            match kind {
                Kind::File => self.file(name, &mut members, &mut buf)?,
                Kind::Link(target) if self.links.len() < MAX_LINKED => _ = self.links.insert(name, target),
                Kind::Link(_) => return Err(too_many("links").into()),
                Kind::Other => {}
            }
        }
        Ok(self.finish(&mut buf)?)
    }

    fn file(&mut self, name: Vec<u8>, members: &mut Members<impl Read>, buf: &mut [u8]) -> Result<(), Failure> {
        let diff_id = diff_id_in(&name).filter(|digest| self.diff_ids.contains(digest));
        let spool = diff_id.and_then(|diff_id| self.missing(diff_id));
        if !of_use(&name) || (diff_id.is_some() && spool.is_none()) {
            return Ok(());
        }
        self.room = self.room.checked_sub(members.left()).ok_or_else(|| {
            let message = format!("`{}`: the export up to it exceeds --max-size", Display(&name));
            Error::new(ErrorKind::Input, message)
        })?;
        let (Some(diff_id), Some(spool)) = (diff_id, spool) else { return self.keep(name, members, buf) };
        pour(spool, buf, |buf| members.read(buf).map_err(Failure::from))?;
        self.done(diff_id);
        Ok(())
    }

    /// Where the bytes of a layer go, if they are wanted and did not come.
    fn missing(&self, diff_id: Sha256) -> Option<&'a Spool> {
        self.wanted.get(&diff_id).copied().filter(|_| !self.done.contains(&diff_id))
    }

    /// A layer is written. The last one ends with the stream.
    fn done(&mut self, diff_id: Sha256) {
        self.done.insert(diff_id);
        if self.done.len() < self.wanted.len() {
            self.wanted[&diff_id].end(Ok(()));
        }
    }

    /// Keeps a member until its digest or `manifest.json` says what it is.
    fn keep(&mut self, name: Vec<u8>, members: &mut Members<impl Read>, buf: &mut [u8]) -> Result<(), Failure> {
        let fail = |error| Failure::Final(Error::file(self.temp, error));
        let (mut file, mut hasher) = (spooled_tempfile_in(IN_MEMORY, self.temp), Sha256Hasher::new());
        loop {
            match members.read(buf)? {
                0 => break,
                n => {
                    hasher.update(&buf[..n]);
                    file.write_all(&buf[..n]).map_err(fail)?;
                }
            }
        }
        let digest = hasher.finish();
        if self.missing(digest).is_some() {
            return Ok(self.give(digest, file, buf)?);
        }
        if self.diff_ids.contains(&digest) {
            return Ok(());
        }
        if self.kept.len() == MAX_KEPT {
            return Err(too_many("members").into());
        }
        self.kept.insert(name, file);
        Ok(())
    }

    /// A kept member is a layer that is wanted.
    fn give(&mut self, diff_id: Sha256, mut file: SpooledTempFile, buf: &mut [u8]) -> Result<()> {
        let fail = |error| Error::file(self.temp, error);
        let spool = self.wanted[&diff_id];
        file.rewind().map_err(fail)?;
        match file.into_inner() {
            SpooledData::OnDisk(file) if spool.written() == 0 => spool.take(file).map_err(fail)?,
            SpooledData::OnDisk(mut file) => pour(spool, buf, |buf| file.read(buf).map_err(fail))?,
            SpooledData::InMemory(mut bytes) => pour(spool, buf, |buf| bytes.read(buf).map_err(fail))?,
        }
        self.done(diff_id);
        Ok(())
    }

    /// What is left when all members passed.
    fn finish(&mut self, buf: &mut [u8]) -> Result<ImageConfig> {
        let items: Vec<Item> = serde_json::from_slice(&self.document("manifest.json", None)?).map_err(|error| {
            Error::caused(ErrorKind::Corrupt, "manifest.json: not the manifest of a saved image", error)
        })?;
        for item in items.iter().filter(|item| item.layers.len() == self.diff_ids.len()) {
            let config = ImageConfig::parse(&self.document(&item.config, digest_in_name(&item.config))?)?;
            if config.diff_ids == self.diff_ids {
                self.place(item, buf)?;
                return Ok(config);
            }
        }
        Err(Error::new(
            ErrorKind::Corrupt,
            "the engine exported another image than it described; it may have been tagged anew meanwhile: run the command again",
        ))
    }

    /// Gives what is still missing, by what manifest.json says.
    fn place(&mut self, item: &Item, buf: &mut [u8]) -> Result<()> {
        for (name, diff_id) in item.layers.iter().zip(self.diff_ids) {
            if self.missing(*diff_id).is_some() {
                let name = self.resolve(name);
                let file = self.kept.remove(&name).ok_or_else(|| missing(&name))?;
                self.give(*diff_id, file, buf)?;
            }
        }
        Ok(())
    }

    fn document(&mut self, name: &str, digest: Option<Sha256>) -> Result<Vec<u8>> {
        let key = self.resolve(name);
        let fail = |error| Error::io(name, error);
        let file = self.kept.get_mut(&key).ok_or_else(|| missing(&key))?;
        file.rewind().map_err(fail)?;
        let mut bytes = Vec::new();
        file.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes).map_err(fail)?;
        if bytes.len() as u64 > MAX_DOCUMENT {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("{name}: a JSON document larger than {}", size(MAX_DOCUMENT)),
            ));
        }
        match digest {
            Some(digest) if Sha256::of(&bytes) != digest => {
                Err(wrong_digest(name, digest.into(), Sha256::of(&bytes).into()))
            }
            _ => Ok(bytes),
        }
    }

    /// The name of the file that `name` leads to.
    fn resolve(&self, name: &str) -> Vec<u8> {
        let mut name = clean(name.as_bytes());
        for _ in 0..MAX_LINKS {
            match self.links.get(&name) {
                Some(target) => name.clone_from(target),
                None => break,
            }
        }
        name
    }
}

fn too_many(what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the export has too many {what} for an image"))
}

fn missing(name: &[u8]) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the export does not contain `{}`", Display(name)))
}

/// `HEX.tar` or `blobs/sha256/HEX`.
fn diff_id_in(name: &[u8]) -> Option<Sha256> {
    let hex = name.strip_prefix(b"blobs/sha256/").or_else(|| name.strip_suffix(b".tar"))?;
    from_hex(std::str::from_utf8(hex).ok()?).map(Sha256::from_bytes)
}

/// Whether it can be a layer, the config or `manifest.json`.
fn of_use(name: &[u8]) -> bool {
    let blob = name.starts_with(b"blobs/") || name.ends_with(b".tar");
    blob || (name.ends_with(b".json") && !name.contains(&b'/'))
}

/// Writes what `read` reads behind what a stream before this one left.
fn pour<E: From<Error>>(
    spool: &Spool,
    buf: &mut [u8],
    mut read: impl FnMut(&mut [u8]) -> Result<usize, E>,
) -> Result<(), E> {
    let mut there = spool.written();
    loop {
        let n = read(buf)?;
        if n == 0 {
            return Ok(());
        }
        let known = usize::try_from(there).unwrap_or(usize::MAX).min(n);
        there -= known as u64;
        if known < n {
            spool.write(&buf[known..n])?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Members in the order in which a stream has them; those with a target are symlinks.
    type Stream = Vec<(String, Vec<u8>, Option<&'static str>)>;

    fn bytes_of(stream: &Stream) -> Vec<u8> {
        let mut out = tar::Builder::new(Vec::new());
        for (name, bytes, link) in stream {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            match link {
                Some(target) => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    out.append_link(&mut header, name, target).unwrap();
                }
                None => out.append_data(&mut header, name, &bytes[..]).unwrap(),
            }
        }
        out.into_inner().unwrap()
    }

    fn file(name: impl Into<String>, bytes: &[u8]) -> (String, Vec<u8>, Option<&'static str>) {
        (name.into(), bytes.to_vec(), None)
    }

    /// Three layers, large enough to go to a file, the first and the last equal.
    fn layers() -> [Vec<u8>; 3] {
        [vec![1; 40_000], vec![2; 50_000], vec![1; 40_000]]
    }

    fn diff_ids() -> Vec<Sha256> {
        layers().iter().map(|layer| Sha256::of(layer)).collect()
    }

    fn config() -> Vec<u8> {
        let ids: Vec<String> = diff_ids().iter().map(ToString::to_string).collect();
        serde_json::to_vec(&json!({ "config": { "Env": ["A=1"] }, "rootfs": { "diff_ids": ids } })).unwrap()
    }

    fn manifest(config: &str, layers: [&str; 3]) -> (String, Vec<u8>, Option<&'static str>) {
        file("manifest.json", &serde_json::to_vec(&json!([{ "Config": config, "Layers": layers }])).unwrap())
    }

    fn old() -> Stream {
        let [base, middle, _] = layers();
        let name = format!("{}.json", Sha256::of(&config()).to_hex());
        vec![
            file("b/layer.tar", &middle),
            file("b/json", b"{}"),
            file("c/layer.tar", &base),
            file(&*name, &config()),
            ("a/layer.tar".to_owned(), Vec::new(), Some("../c/layer.tar")),
            manifest(&name, ["c/layer.tar", "b/layer.tar", "a/layer.tar"]),
        ]
    }

    /// As with docker since 25; what is stored is compressed where `pack` does so.
    fn new(pack: impl Fn(&[u8]) -> Vec<u8>) -> Stream {
        let stored: Vec<Vec<u8>> = layers().iter().map(|layer| pack(layer)).collect();
        let name = |bytes: &[u8]| format!("blobs/sha256/{}", Sha256::of(bytes).to_hex());
        let names: Vec<String> = stored.iter().map(|layer| name(layer)).collect();
        let mut members = vec![file(&*names[1], &stored[1]), file(name(&config()), &config())];
        members.push(manifest(&name(&config()), [&names[0], &names[1], &names[2]]));
        // What docker writes last may as well come last here.
        members.push(file(&*names[0], &stored[0]));
        members
    }

    fn podman() -> Stream {
        let [base, middle, _] = layers();
        let name = |layer: &[u8]| format!("{}.tar", Sha256::of(layer).to_hex());
        let config_name = format!("{}.json", Sha256::of(&config()).to_hex());
        vec![
            file(name(&base), &base),
            file(name(&middle), &middle),
            ("1/layer.tar".to_owned(), Vec::new(), Some("../x.tar")),
            file(&*config_name, &config()),
            manifest(&config_name, [&name(&base), &name(&middle), &name(&base)]),
        ]
    }

    fn spools() -> Vec<(Sha256, Arc<Spool>)> {
        diff_ids()[..2].iter().map(|diff_id| (*diff_id, Spool::new(&std::env::temp_dir(), None))).collect()
    }

    fn read(stream: &[u8], wanted: &[(Sha256, Arc<Spool>)]) -> Result<ImageConfig, Failure> {
        Pass::new(&diff_ids(), wanted, &std::env::temp_dir(), 1 << 20).read(stream)
    }

    fn content(spool: &Spool) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(spool.written()).unwrap()];
        let mut filled = 0;
        while filled < bytes.len() {
            filled += spool.read_at(filled as u64, &mut bytes[filled..]).unwrap();
        }
        bytes
    }

    fn error_of(result: Result<ImageConfig, Failure>) -> (bool, ErrorKind, String) {
        match result {
            Ok(_) => panic!("it was read"),
            Err(Failure::Again(error)) => (true, error.kind(), error.to_string()),
            Err(Failure::Final(error)) => (false, error.kind(), error.to_string()),
        }
    }

    #[test]
    fn every_form_gives_the_same_layers_and_config() {
        for stream in [old(), new(<[u8]>::to_vec), podman()] {
            let wanted = spools();
            let config = read(&bytes_of(&stream), &wanted).unwrap_or_else(|failure| panic!("{}", Error::from(failure)));
            assert_eq!(config.normal, r#"{"config":{"Env":["A=1"]}}"#);
            assert_eq!([content(&wanted[0].1), content(&wanted[1].1)], layers()[..2]);
            // All but the last ended before the stream did.
            assert_eq!(wanted.iter().filter(|(_, spool)| spool.ended()).count(), 1);
        }
    }

    #[test]
    fn compressed_layers_are_known_by_the_manifest() {
        let wanted = spools();
        let pack = |layer: &[u8]| zstd::encode_all(layer, 1).unwrap();
        assert!(read(&bytes_of(&new(pack)), &wanted).is_ok());
        assert_eq!([content(&wanted[0].1), content(&wanted[1].1)], [pack(&layers()[0]), pack(&layers()[1])]);
    }

    #[test]
    fn what_is_not_wanted_is_passed_over() {
        for stream in [old(), new(<[u8]>::to_vec), podman()] {
            let wanted = &spools()[1..];
            // No room for the other.
            let room = 50_000 + 2_000 + if stream == old() { 40_000 } else { 0 };
            assert!(Pass::new(&diff_ids(), wanted, &std::env::temp_dir(), room).read(&bytes_of(&stream)[..]).is_ok());
            assert_eq!(content(&wanted[0].1), layers()[1]);
        }
    }

    /// At every place that is not in the end's padding; what came before the loss does not come twice.
    #[test]
    fn a_lost_stream_is_taken_up_where_it_was() {
        for stream in [old(), new(<[u8]>::to_vec), podman()] {
            let bytes = bytes_of(&stream);
            for length in (0..bytes.len() - 1024).step_by(7_000) {
                let wanted = spools();
                let (again, kind, _) = error_of(read(&bytes[..length], &wanted));
                assert!(again && kind == ErrorKind::Unavailable, "{length}");
                assert!(wanted.iter().any(|(_, spool)| !spool.ended()), "{length}");
                assert!(read(&bytes, &wanted).is_ok(), "{length}");
                assert_eq!([content(&wanted[0].1), content(&wanted[1].1)], layers()[..2], "{length}");
            }
        }
    }

    #[test]
    fn a_stream_with_another_image_or_less_of_it_is_refused() {
        let (mut other, mut without) = (old(), old());
        other[3].1 = String::from_utf8(config()).unwrap().replace("rootfs", "other").into_bytes();
        without.remove(5);
        let mut less = new(|layer| zstd::encode_all(layer, 1).unwrap());
        less.remove(0);
        let mut changed = old();
        changed[3].0 = "config.json".to_owned();
        changed[3].1 = serde_json::to_vec(&json!({ "rootfs": { "diff_ids": [] } })).unwrap();
        changed[5] = manifest("config.json", ["c/layer.tar", "b/layer.tar", "a/layer.tar"]);
        for (stream, words) in [
            (other, "its digest is"),
            (without, "manifest.json"),
            (less, "does not contain"),
            (changed, "another image"),
        ] {
            let (again, kind, message) = error_of(read(&bytes_of(&stream), &spools()));
            assert!(!again && kind == ErrorKind::Corrupt && message.contains(words), "{message}");
        }
    }

    /// Whoever reads it finds that out.
    #[test]
    fn a_damaged_layer_is_given_to_its_reader() {
        let mut stream = old();
        stream[0].1[0] = 9;
        let wanted = spools();
        assert!(read(&bytes_of(&stream), &wanted).is_ok());
        assert_eq!(content(&wanted[1].1)[..2], [9, 2]);
    }

    #[test]
    fn what_an_engine_sends_is_bounded() {
        let refused = |stream: &Stream, room| {
            let wanted = spools();
            error_of(Pass::new(&diff_ids(), &wanted, &std::env::temp_dir(), room).read(&bytes_of(stream)[..]))
        };
        let (_, kind, message) = refused(&new(<[u8]>::to_vec), 40_000);
        assert!(kind == ErrorKind::Input && message.contains("--max-size"), "{message}");
        let many = (0..=MAX_KEPT).map(|number| file(format!("{number}.json"), b"{}")).collect();
        assert!(refused(&many, 1 << 20).2.contains("too many members"));
        let links = (0..=MAX_LINKED).map(|number| (format!("{number}"), Vec::new(), Some("x"))).collect();
        assert!(refused(&links, 1 << 20).2.contains("too many links"));
        let mut long = old();
        long[5].1 = vec![b' '; usize::try_from(MAX_DOCUMENT).unwrap() + 1];
        assert!(refused(&long, 1 << 30).2.contains("larger than 8.0 MiB"));
    }
}
