//! A disk that fails when a test says so: memory behind a file of FUSE, a loop device on that, ext4 on it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use coldpress::fs::{BlockDevice, WritableDevice};
use coldpress::serve::Watch;
use coldpress::serve::fuse::Door;
use coldpress::{Error, ErrorKind, Result};

use super::common::stdout;

/// What happens, and what happened.
pub struct Health {
    bytes: RwLock<Vec<u8>>,
    pub reads_fail: AtomicBool,
    pub writes_fail: AtomicBool,
    pub failed_reads: AtomicU64,
    pub failed_writes: AtomicU64,
}

/// Mounted until it is dropped.
pub struct FailingDisk {
    pub health: Arc<Health>,
    directory: PathBuf,
    device: String,
    door: Option<Door>,
}

struct Disk(Arc<Health>);

fn range(offset: u64, length: usize) -> std::ops::Range<usize> {
    let from = usize::try_from(offset).unwrap();
    from..from + length
}

fn fail(failing: &AtomicBool, count: &AtomicU64) -> Result<()> {
    if failing.load(Ordering::SeqCst) {
        count.fetch_add(1, Ordering::SeqCst);
        return Err(Error::new(ErrorKind::Unavailable, "a broken disk"));
    }
    Ok(())
}

impl BlockDevice for Disk {
    fn size(&self) -> u64 {
        self.0.bytes.read().unwrap().len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        fail(&self.0.reads_fail, &self.0.failed_reads)?;
        buf.copy_from_slice(&self.0.bytes.read().unwrap()[range(offset, buf.len())]);
        Ok(())
    }

    fn writable(&self) -> Option<&dyn WritableDevice> {
        Some(self)
    }
}

impl WritableDevice for Disk {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        fail(&self.0.writes_fail, &self.0.failed_writes)?;
        self.0.bytes.write().unwrap()[range(offset, bytes.len())].copy_from_slice(bytes);
        Ok(())
    }

    fn discard(&self, offset: u64, length: u64) -> Result<()> {
        self.0.bytes.write().unwrap()[range(offset, usize::try_from(length).unwrap())].fill(0);
        Ok(())
    }
}

impl Watch for Health {
    fn failed(&self, _: &Error) {}
}

impl FailingDisk {
    /// One of `bytes` at `directory`, which is made; beside it is its file.
    pub fn mount(directory: &Path, bytes: usize) -> Self {
        std::fs::create_dir_all(directory).unwrap();
        let file = directory.with_extension("disk");
        std::fs::write(&file, []).unwrap();
        let health = Arc::new(Health {
            bytes: RwLock::new(vec![0; bytes]),
            reads_fail: AtomicBool::new(false),
            writes_fail: AtomicBool::new(false),
            failed_reads: AtomicU64::new(0),
            failed_writes: AtomicU64::new(0),
        });
        let watch = Arc::clone(&health) as Arc<dyn Watch>;
        let door = Door::open(Arc::new(Disk(Arc::clone(&health))), &file, "failing-disk", 4, watch).unwrap();
        let run = |command: &mut Command| String::from_utf8(stdout(&command.output().unwrap())).unwrap();
        let device = run(Command::new("losetup").args(["--find", "--show", "--direct-io=on"]).arg(&file));
        let device = device.trim_end().to_owned();
        run(Command::new("mke2fs").args(["-q", "-t", "ext4", &device]));
        run(Command::new("mount").args(["-t", "ext4", "-o", "errors=continue", &device]).arg(directory));
        std::fs::set_permissions(directory, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        Self { health, directory: directory.to_owned(), device, door: Some(door) }
    }

    /// What was read of it comes from the disk again.
    pub fn forget(&self) {
        let synced = Command::new("sync").arg("--file-system").arg(&self.directory).status().unwrap();
        assert!(synced.success() || self.health.writes_fail.load(Ordering::SeqCst));
        std::fs::write("/proc/sys/vm/drop_caches", "1").unwrap();
    }

    /// Whether its file system has given up writing.
    pub fn is_read_only(&self) -> bool {
        std::fs::write(self.directory.join("try"), "").is_err()
    }
}

impl Drop for FailingDisk {
    fn drop(&mut self) {
        self.health.reads_fail.store(false, Ordering::SeqCst);
        self.health.writes_fail.store(false, Ordering::SeqCst);
        let _ = Command::new("umount").arg(&self.directory).status();
        let _ = Command::new("losetup").args(["--detach", &self.device]).status();
        if let Some(door) = self.door.take() {
            let _ = door.close(Duration::from_secs(5));
        }
    }
}
