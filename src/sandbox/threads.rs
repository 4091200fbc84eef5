//! Applies what Linux keeps for each thread (credentials, no_new_privs, Landlock) to all threads of this process.
//!
//! A signal has each thread apply it to itself, all at once, as glibc does it for setuid(2). Threads that are started meanwhile
//! are found by looking again; those that a restricted thread starts are restricted from the start. Nothing is believed: at the end the
//! kernel is asked for the state of each.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::getpid;
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, gettid, remove_capability_from_bounding_set,
    set_capabilities, set_no_new_privs,
};

use super::user::User;

/// How long threads may take to answer, and those that wait for a file system: they cannot before it responds.
const PATIENCE: Duration = Duration::from_secs(5);
const PATIENCE_WITH_FILES: Duration = Duration::from_secs(120);
/// Threads that are signalled at a time.
const BATCH: usize = 256;

/// What every thread gives up.
#[derive(Default)]
pub(super) struct Restriction {
    /// Being root, for this user.
    pub(super) user: Option<User>,
    /// New privileges, and all capabilities but these.
    pub(super) capabilities: Option<CapabilitySet>,
    /// The files that are not in this Landlock ruleset.
    pub(super) ruleset: Option<OwnedFd>,
}

static RESTRICTION: OnceLock<Restriction> = OnceLock::new();
/// The ids of the threads of a batch that have applied it, how many those are, and the error number of one that could not; 0 if there is none.
static ANSWERED: [AtomicI32; BATCH] = [const { AtomicI32::new(0) }; BATCH];
static ANSWERS: AtomicUsize = AtomicUsize::new(0);
static FAILED: AtomicI32 = AtomicI32::new(0);

impl Restriction {
    /// Applies it to the calling thread. Async-signal-safe: system calls, and nothing that allocates or locks.
    fn apply(&self) -> Result<(), Errno> {
        if let Some(left) = self.capabilities {
            set_no_new_privs(true)?;
            clear_ambient_capability_set()?;
            bound(left)?;
        }
        // Who leaves root leaves the capabilities, too; so what needs them comes before.
        if let Some(user) = &self.user {
            user.become_it_on_this_thread()?;
        }
        if let Some(left) = self.capabilities {
            let none = CapabilitySet::empty();
            set_capabilities(None, CapabilitySets { effective: left, permitted: left, inheritable: none })?;
        }
        match &self.ruleset {
            Some(ruleset) => restrict_self(ruleset.as_raw_fd()),
            None => Ok(()),
        }
    }
}

/// Takes all but `left` from the bounding set.
fn bound(left: CapabilitySet) -> Result<(), Errno> {
    for capability in (0..64).map(|bit| CapabilitySet::from_bits_retain(1 << bit)) {
        if left.contains(capability) {
            continue;
        }
        match remove_capability_from_bounding_set(capability) {
            // Above the last that this kernel knows; or of a process that has no right to, and has no capabilities to lose.
            Err(Errno::INVAL | Errno::PERM) => break,
            removed => removed?,
        }
    }
    Ok(())
}

/// Applies `restriction` to all threads of this process; once.
///
/// # Errors
/// Those of the system calls; `TimedOut` where a thread does not answer. Some threads are restricted then.
pub(super) fn restrict(restriction: Restriction) -> io::Result<()> {
    let restriction = RESTRICTION.get_or_init(|| restriction);
    let signal = libc::SIGRTMIN() + 3;
    let action = || {
        if let Some(restriction) = RESTRICTION.get() {
            if let Err(error) = restriction.apply() {
                FAILED.store(error.raw_os_error(), Ordering::SeqCst);
            }
            if let Some(answer) = ANSWERED.get(ANSWERS.fetch_add(1, Ordering::SeqCst)) {
                answer.store(gettid().as_raw_nonzero().get(), Ordering::SeqCst);
            }
        }
    };
    #[expect(unsafe_code, reason = "a signal handler runs in the middle of anything")]
    // SAFETY: it makes system calls by rustix (no libc, no errno) and loads and stores atomics.
    let handler = unsafe { signal_hook::low_level::register(signal, action) }?;
    let done = restrict_others(signal).and_then(|()| Ok(restriction.apply()?));
    signal_hook::low_level::unregister(handler);
    done.and_then(|()| verify(restriction))
}

/// The calling thread is the last: until then it can still look at and signal the others.
fn restrict_others(signal: i32) -> io::Result<()> {
    let mut done = BTreeSet::from([gettid().as_raw_nonzero().get()]);
    loop {
        let fresh: Vec<i32> = threads()?.difference(&done).copied().collect();
        if fresh.is_empty() {
            return Ok(());
        }
        for batch in fresh.chunks(BATCH) {
            restrict_batch(batch, signal)?;
        }
        done.extend(fresh);
    }
}

/// Has each of `threads` apply it to itself, and waits for those that have not ended.
fn restrict_batch(threads: &[i32], signal: i32) -> io::Result<()> {
    ANSWERED.iter().for_each(|answer| answer.store(0, Ordering::SeqCst));
    ANSWERS.store(0, Ordering::SeqCst);
    let mut waiting = BTreeSet::new();
    for thread in threads {
        if send(*thread, signal)? {
            waiting.insert(*thread);
        }
    }
    let begun = Instant::now();
    loop {
        for answer in &ANSWERED {
            waiting.remove(&answer.load(Ordering::SeqCst));
        }
        match FAILED.load(Ordering::SeqCst) {
            0 if waiting.is_empty() => return Ok(()),
            0 => {}
            error => return Err(io::Error::from_raw_os_error(error)),
        }
        let late = waiting.iter().find(|thread| {
            let patience = if waits_for_files(**thread) { PATIENCE_WITH_FILES } else { PATIENCE };
            begun.elapsed() > patience
        });
        if let Some(thread) = late {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("thread {thread} does not answer a signal")));
        }
        let soon = begun.elapsed() < Duration::from_millis(1);
        if !soon {
            // Some may have ended.
            let alive = self::threads()?;
            waiting.retain(|thread| alive.contains(thread));
        }
        std::thread::sleep(if soon { Duration::from_micros(50) } else { Duration::from_millis(1) });
    }
}

/// Returns whether the kernel does not interrupt what `thread` waits for: a request to a file system of a network or of FUSE, or to a disk.
fn waits_for_files(thread: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap_or_default();
    // The state follows the name, which is in brackets and may contain some.
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('D'))
}

/// The ids of this process's threads.
fn threads() -> io::Result<BTreeSet<i32>> {
    let mut threads = BTreeSet::new();
    for entry in std::fs::read_dir("/proc/self/task")? {
        threads.extend(entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    Ok(threads)
}

/// Whether the thread was there to be signalled.
fn send(thread: i32, signal: i32) -> io::Result<bool> {
    let process = getpid().as_raw_nonzero().get();
    #[expect(unsafe_code, reason = "rustix has no tgkill")]
    // SAFETY: three numbers; the thread is one of this process.
    let sent = unsafe { libc::syscall(libc::SYS_tgkill, process, thread, signal) };
    match sent {
        0 => Ok(true),
        _ => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ESRCH) => Ok(false),
            error => Err(error),
        },
    }
}

/// landlock_restrict_self(2); leaves errno as it was.
fn restrict_self(ruleset: RawFd) -> Result<(), Errno> {
    #[expect(unsafe_code, reason = "landlock's own call consumes the ruleset, and each thread needs it")]
    // SAFETY: a descriptor and flags; errno is that of the interrupted thread, and is put back.
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        let restricted = libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0);
        let error = std::mem::replace(&mut *errno, before);
        if restricted == 0 { Ok(()) } else { Err(Errno::from_raw_os_error(error)) }
    }
}

/// Asks the kernel whether every thread is what it shall be.
fn verify(restriction: &Restriction) -> io::Result<()> {
    for thread in threads()? {
        // One that ended meanwhile has nothing.
        let Ok(status) = std::fs::read_to_string(format!("/proc/self/task/{thread}/status")) else { continue };
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
        let permitted = u64::from_str_radix(field("CapPrm:"), 16).unwrap_or(u64::MAX);
        let has_more =
            restriction.capabilities.is_some_and(|left| permitted & !left.bits() != 0 || field("NoNewPrivs:") != "1");
        let is_another =
            restriction.user.is_some_and(|user| !user.is_shown(field("Uid:"), field("Gid:"), field("Groups:")));
        if has_more || is_another {
            return Err(io::Error::other(format!("thread {thread} is not restricted")));
        }
    }
    Ok(())
}
