//! A directory as a store, through `object_store`: each object is written aside and linked into place, so it is there
//! whole or not at all, and an existing one is never touched.

use std::path::Path;

use object_store::local::LocalFileSystem;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use tokio::runtime::Runtime;

use super::{Get, ObjectName, PutIfAbsent, PutOutcome};
use crate::{Error, ErrorKind, Result};

/// The directory and what runs its requests.
struct Local {
    store: LocalFileSystem,
    runtime: Runtime,
}

/// The half that can only put.
pub struct LocalPut(Local);

/// The half that can only get.
pub struct LocalGet(Local);

impl Local {
    fn open(directory: &Path) -> Result<Self> {
        let store = LocalFileSystem::new_with_prefix(directory)
            .map_err(|error| Error::caused(ErrorKind::NotFound, format!("store {}", directory.display()), error))?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("store").build();
        let runtime = runtime.map_err(|error| Error::io("threads for the store", error))?;
        Ok(Self { store, runtime })
    }
}

impl LocalPut {
    /// Opens `directory`, and makes it where it is not there.
    ///
    /// # Errors
    /// Those of making and opening it.
    pub fn open(directory: &Path) -> Result<Self> {
        std::fs::create_dir_all(directory).map_err(|error| Error::file(directory, error))?;
        Local::open(directory).map(Self)
    }
}

impl LocalGet {
    /// Opens `directory`, which must be there.
    ///
    /// # Errors
    /// Those of opening it.
    pub fn open(directory: &Path) -> Result<Self> {
        if !directory.is_dir() {
            return Err(Error::new(ErrorKind::NotFound, format!("store {}: no such directory", directory.display())));
        }
        Local::open(directory).map(Self)
    }
}

impl PutIfAbsent for LocalPut {
    fn put_if_absent(&self, name: &ObjectName, bytes: Vec<u8>) -> Result<PutOutcome> {
        let path = object_store::path::Path::from(name.as_str());
        let options = PutOptions::from(PutMode::Create);
        match self.0.runtime.block_on(self.0.store.put_opts(&path, bytes.into(), options)) {
            Ok(_) => Ok(PutOutcome::Stored),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(PutOutcome::Present),
            Err(error) => Err(failure(name, error)),
        }
    }
}

impl Get for LocalGet {
    fn get(&self, name: &ObjectName, limit: u64) -> Result<Vec<u8>> {
        let path = object_store::path::Path::from(name.as_str());
        let bytes = self.0.runtime.block_on(async {
            let found = self.0.store.get(&path).await?;
            if found.meta.size > limit {
                return Ok(None);
            }
            found.bytes().await.map(Some)
        });
        match bytes.map_err(|error| failure(name, error))? {
            Some(bytes) => Ok(bytes.into()),
            None => Err(Error::new(ErrorKind::Corrupt, format!("{name}: longer than any such object is"))),
        }
    }
}

fn failure(name: &ObjectName, error: object_store::Error) -> Error {
    let kind = match &error {
        object_store::Error::NotFound { .. } => ErrorKind::NotFound,
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => ErrorKind::Denied,
        _ => ErrorKind::Unavailable,
    };
    Error::caused(kind, format!("object {name}"), error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Sha256;

    #[test]
    fn what_is_there_is_never_touched() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let (put, root) = (LocalPut::open(&path).unwrap(), "main".parse().unwrap());
        let name = ObjectName::chunk(&root, Sha256::of(b"x"));
        assert_eq!(put.put_if_absent(&name, b"first".to_vec()).unwrap(), PutOutcome::Stored);
        assert_eq!(put.put_if_absent(&name, b"second".to_vec()).unwrap(), PutOutcome::Present);
        let get = LocalGet::open(&path).unwrap();
        assert_eq!(get.get(&name, 5).unwrap(), b"first");
        assert_eq!(get.get(&name, 4).map_err(|error| error.kind()), Err(ErrorKind::Corrupt));
        let other = ObjectName::chunk(&root, Sha256::of(b"y"));
        assert_eq!(get.get(&other, 5).map_err(|error| error.kind()), Err(ErrorKind::NotFound));
        let files = std::fs::read_dir(path.join("main")).unwrap().count();
        assert_eq!(files, 1, "nothing is left aside");
    }
}
