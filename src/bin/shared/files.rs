//! Files that both programs read and write.

use std::fs::File;
use std::path::Path;

use coldpress::output_file::{self, Options};
use coldpress::read::profile::{self, Profile};
use coldpress::{Error, ErrorKind};

/// Writes the output `path`: what `fill` writes, whole or not at all where it is a regular file.
pub fn write_whole(path: &Path, fill: impl FnOnce(&File) -> Result<(), Error>) -> Result<(), Error> {
    output_file::write(path, Options::default(), fill)
}

/// A profile from its file.
pub fn read_profile(path: &Path) -> Result<Profile, Error> {
    let length = path.metadata().map_err(|error| Error::file(path, error))?.len();
    if length > profile::MAX_BYTES {
        return Err(Error::new(ErrorKind::Input, format!("{}: longer than a profile is", path.display())));
    }
    let text = std::fs::read(path).map_err(|error| Error::file(path, error))?;
    Profile::decode(&text).map_err(|error| error.within(path.display()))
}
