//! `coldread umount`: ends a mount and waits for its process; cleans up where that was killed.

use std::path::Path;
use std::time::{Duration, Instant};

use coldpress::{Error, ErrorKind, Result};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use super::events::say;
use crate::args::UmountArgs;
use crate::run_state::kernel::users_of;
use crate::run_state::{Entry, Lock, RunDirectory};
use crate::shared::failure::CommandResult;

const POLL: Duration = Duration::from_millis(10);

pub fn run(args: &UmountArgs) -> CommandResult {
    let shown = args.directory.display();
    let directory = args.directory.canonicalize().map_err(|error| Error::file(&args.directory, error))?;
    let run_directory = RunDirectory::open()?;
    let lock = run_directory.lock()?;
    let entries = at(&run_directory, &lock, &directory)?;
    if entries.is_empty() {
        let message = run_directory
            .foreign(&directory)?
            .unwrap_or_else(|| "not mounted by coldread; `coldread ps` lists what is".to_owned());
        return Err(Error::new(ErrorKind::Input, format!("{shown}: {message}")).into());
    }
    let (dead, alive): (Vec<_>, Vec<_>) = entries.into_iter().partition(|entry| entry.is_dead);
    dead.iter().try_for_each(clean)?;
    drop(lock);
    for entry in alive {
        end(&entry)?;
        wait(&run_directory, &entry, &directory, args.wait.0)?;
    }
    Ok(())
}

/// Returns the entries whose mount point or bundle is `directory`.
fn at(run_directory: &RunDirectory, lock: &Lock, directory: &Path) -> Result<Vec<Entry>> {
    let entries = run_directory.entries(lock)?.into_iter();
    Ok(entries.filter(|entry| entry.record().is_some_and(|record| record.is_at(directory))).collect())
}

fn clean(entry: &Entry) -> Result<()> {
    let done = entry.clean()?;
    say(&format!("cleaned up after {}: {}", entry.title(), done.join(", ")));
    Ok(())
}

/// Unmounts what the process of `entry` mounted, if that is still mounted.
fn end(entry: &Entry) -> Result<()> {
    let Some((record, directory)) = entry.record().and_then(|record| Some((record, record.directory()?))) else {
        return Ok(());
    };
    let (shown, pid) = (directory.display(), record.pid);
    if !entry.is_mounted()? {
        if record.is_in_this_namespace() {
            return Ok(());
        }
        let message = format!(
            "{shown}: coldread process {pid} has mounted it in another mount namespace; run `nsenter -t {pid} -m coldread \
             umount {shown}`"
        );
        return Err(Error::new(ErrorKind::Input, message));
    }
    if !entry.is_on_top()? {
        let message = format!("{shown}: another file system is mounted over the image; unmount that first");
        return Err(Error::new(ErrorKind::Input, message));
    }
    match unmount(directory, UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(Errno::BUSY) => {
            let users = users_of(directory);
            let users =
                if users.is_empty() { "a process that is not visible here".to_owned() } else { users.join(", ") };
            Err(Error::new(ErrorKind::Input, format!("{shown}: in use by {users}; end that first")))
        }
        Err(error) => Err(Error::io(format!("umount {shown}"), error.into())),
    }
}

/// Waits until the process of `entry` has ended and its entry is gone.
fn wait(run_directory: &RunDirectory, entry: &Entry, directory: &Path, patience: Duration) -> Result<()> {
    let begun = Instant::now();
    loop {
        let lock = run_directory.lock()?;
        let Some(now) = at(run_directory, &lock, directory)?.into_iter().find(|now| now.path() == entry.path()) else {
            return Ok(());
        };
        if now.is_dead {
            return clean(&now);
        }
        drop(lock);
        if begun.elapsed() > patience {
            let message = format!(
                "{}: unmounted, but {} still runs after {} s: the image is in use elsewhere (a bind mount, a container, a \
                 process in a detached mount?), and it ends with the last user",
                directory.display(),
                entry.title(),
                patience.as_secs()
            );
            return Err(Error::new(ErrorKind::Input, message));
        }
        std::thread::sleep(POLL);
    }
}
