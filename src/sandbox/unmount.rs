//! Unmounting for a process that may no longer: a shell that was started before, and runs one command when it is asked to.
//!
//! It has the rights that the process had. All that it takes from the process is that now is the time; the command and its arguments are
//! those that it was started with. It ends with the process.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, OnceLock};

/// Answers each line with the command's exit code and what it printed, on one line. A service manager that ends all of a service's processes
/// does not end it before the process that it serves.
const SCRIPT: &str = "trap '' TERM INT HUP; set -f; while read -r line; do said=$(\"$@\" 2>&1); echo $? $said; done";

/// Something that is mounted, and is unmounted at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where, as an absolute path.
    pub path: PathBuf,
    /// What unmounts it.
    pub by: UnmountCommand,
}

/// What unmounts something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnmountCommand {
    /// `umount`: refused while it is in use.
    Umount,
    /// `umount --lazy`: out of the tree at once; who has it open keeps it.
    UmountLazy,
    /// `fusermount3 -u -z`, for who is not root; as lazy.
    Fusermount,
}

/// The shell for one mount.
struct Helper {
    path: PathBuf,
    by: UnmountCommand,
    asking: ChildStdin,
    answers: BufReader<ChildStdout>,
    _shell: Child,
}

static HELPERS: OnceLock<Vec<Mutex<Helper>>> = OnceLock::new();

impl Helper {
    fn start(mount: &Mount) -> io::Result<Self> {
        let command: &[&str] = match mount.by {
            UnmountCommand::Umount => &["umount", "--"],
            UnmountCommand::UmountLazy => &["umount", "--lazy", "--internal-only", "--no-canonicalize", "--"],
            UnmountCommand::Fusermount => &["fusermount3", "-u", "-z", "--"],
        };
        let mut shell = Command::new("sh")
            .args(["-c", SCRIPT, "coldread-unmount"])
            .args(command)
            .arg(&mount.path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // Of a process group of its own, so that Ctrl-C in a terminal is not for it.
            .process_group(0)
            .current_dir("/")
            .spawn()?;
        let (asking, answers) = shell.stdin.take().zip(shell.stdout.take()).expect("both are piped");
        let answers = BufReader::new(answers);
        Ok(Self { path: mount.path.clone(), by: mount.by, asking, answers, _shell: shell })
    }

    fn unmount(&mut self) -> io::Result<()> {
        self.asking.write_all(b"\n")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        match answer.trim_end().split_once(' ').unwrap_or((answer.trim_end(), "")) {
            ("0", _) => Ok(()),
            ("", _) => Err(io::Error::other("the process that unmounts has ended")),
            (code, "") => Err(io::Error::other(format!("exit code {code}"))),
            (_, said) => Err(io::Error::other(said.to_owned())),
        }
    }
}

/// Starts what unmounts `mounts`; once.
///
/// # Errors
/// Those of starting a program; nothing is different then.
pub(super) fn prepare(mounts: &[Mount]) -> io::Result<()> {
    let helpers = mounts.iter().map(|mount| Helper::start(mount).map(Mutex::new)).collect::<io::Result<Vec<_>>>()?;
    HELPERS.set(helpers).map_err(|_| io::Error::other("a process is restricted once"))
}

/// Unmounts what is mounted at `path` by a process that was started for that; `None` where none was, and the caller may do it itself.
pub fn unmount(path: &Path, lazy: bool) -> Option<io::Result<()>> {
    let helper = HELPERS.get()?.iter().find_map(|helper| {
        let helper = helper.lock().expect("no thread panics with it");
        (helper.path == path && lazy == (helper.by != UnmountCommand::Umount)).then_some(helper)
    });
    helper.map(|mut helper| helper.unmount())
}
