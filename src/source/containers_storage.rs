//! Images in the storage of podman and buildah.
//!
//! The storage keeps layers unpacked, beside records from which the tar streams are put together again (tar-split); its layout is
//! private to the library containers/storage, changes with its drivers, and belongs, without root, to a user namespace. So one of the
//! programs that own it writes the image as an OCI archive, which is spooled as one that is piped in (docs/design.md, "Sources").

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use super::archive::Container;
use super::blob::Blob;
use super::index::Wanted;
use super::{Image, Limits, oci_layout};
use crate::error::first_line;
use crate::{Error, ErrorKind, Result};

/// The programs that read the storage, in the order in which they are tried, and how each writes an image to standard output.
const PROGRAMS: [(&str, &[&str], &[&str]); 3] = [
    ("podman", &["save", "--quiet", "--uncompressed", "--format", "oci-archive"], &[]),
    ("skopeo", &["copy", "--quiet"], &["oci-archive:/dev/stdout"]),
    ("buildah", &["push", "--quiet"], &["oci-archive:/dev/stdout"]),
];
/// Most bytes of what a program says on standard error that are read.
const MAX_SAID: u64 = 64 << 10;

/// Finds the image `reference`, and of it what is `wanted`.
pub(super) fn open(reference: &str, wanted: Wanted<'_>, limits: Limits<'_>) -> Result<Vec<Image>> {
    for (program, before, after) in PROGRAMS {
        let named = if program == "skopeo" { format!("containers-storage:{reference}") } else { reference.to_owned() };
        let mut command = Command::new(program);
        command.args(before).arg(named).args(after);
        if let Some(archive) = run(&mut command, program, limits)? {
            return oci_layout::open(&Container::of_archive(archive, reference, limits)?, None, None, wanted);
        }
    }
    let message = "podman, skopeo or buildah is needed to read the storage, and none of them is on the PATH; install one, or save the \
                   image with it elsewhere and convert oci-archive:FILE";
    Err(Error::new(ErrorKind::NotFound, message))
}

/// The image archive that `command` writes, spooled; `None` where there is no such program.
fn run(command: &mut Command, program: &str, limits: Limits<'_>) -> Result<Option<Blob>> {
    let mut child = match command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(program, error)),
    };
    let mut errors = child.stderr.take().expect("it is piped");
    // Read beside the archive, so that the program never waits for either.
    let errors = std::thread::Builder::new().name("stderr".to_owned()).spawn(move || {
        let mut text = Vec::new();
        let read = errors.by_ref().take(MAX_SAID).read_to_end(&mut text);
        let _ = io::copy(&mut errors, &mut io::sink());
        read.map(|_| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default()
    });
    let archive = File::from(OwnedFd::from(child.stdout.take().expect("it is piped")));
    let spooled = Blob::spooled(program, archive, limits);
    if spooled.is_err() {
        // It may still be writing what nobody reads.
        let _ = child.kill();
    }
    let status = child.wait().map_err(|error| Error::io(program, error))?;
    let errors = errors.ok().and_then(|thread| thread.join().ok()).unwrap_or_default();
    let blob = spooled?;
    if status.success() {
        return Ok(Some(blob));
    }
    let last = errors.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it printed no reason");
    let kind = if errors.contains("not known") || errors.contains("no such image") {
        ErrorKind::NotFound
    } else {
        ErrorKind::Input
    };
    Err(Error::new(kind, format!("{program} could not read the image ({status}): {}", first_line(last.trim()))))
}
