//! Files that both programs read and write; what is written appears whole or not at all.

use std::fs::File;
use std::path::Path;

use coldpress::read::profile::{self, Profile};
use coldpress::whole_file::{WholeFile, open_directory};
use coldpress::{Error, ErrorKind};

/// Makes the file `path` of what `fill` writes into it, in place of what is there, whole or not at all.
pub fn write_whole(path: &Path, fill: impl FnOnce(&File) -> Result<(), Error>) -> Result<(), Error> {
    let fail = |error| Error::file(path, error);
    let Some(name) = path.file_name() else {
        return Err(Error::new(ErrorKind::Input, format!("{}: not the name of a file", path.display())));
    };
    let directory = open_directory(directory_of(path)).map_err(fail)?;
    let file = WholeFile::create(&directory, 0o666).map_err(fail)?;
    fill(file.file())?;
    file.replace(Path::new(name)).map_err(fail)
}

/// Where a file lies.
pub fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
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
