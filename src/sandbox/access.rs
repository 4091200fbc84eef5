//! Which files a restricted process reaches (Landlock), and which capabilities it needs to reach them.

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, Scope, path_beneath_rules,
};
use rustix::process::geteuid;
use rustix::thread::CapabilitySet;

/// The newest rules that are asked for; an older kernel enforces those that it knows.
const NEWEST: ABI = ABI::V6;
/// What libraries read at any time: names, certificates, time zones, modules for names, and what the process is.
const SYSTEM: [&str; 25] = [
    "/dev/random",
    "/dev/urandom",
    "/dev/zero",
    "/etc/ca-certificates",
    "/etc/gai.conf",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/etc/pki/ca-trust",
    "/etc/pki/tls/certs",
    "/etc/resolv.conf",
    "/etc/services",
    "/etc/ssl/certs",
    "/lib",
    "/lib64",
    "/proc/self",
    "/run/NetworkManager",
    "/run/resolvconf",
    "/run/systemd/resolve",
    "/sys/devices/system/cpu",
    "/sys/fs/cgroup",
    "/usr/lib",
    "/usr/share",
];

/// Files and directories that a process reaches.
#[derive(Debug, Default, Clone)]
pub struct Paths {
    /// Read, with all that is below; what is not there yet stands for the nearest directory above it that is.
    pub read: Vec<PathBuf>,
    /// Directories in which files are made, written and removed.
    pub write: Vec<PathBuf>,
    /// Directories from which empty directories are removed.
    pub remove: Vec<PathBuf>,
}

impl Paths {
    /// Returns a ruleset for these paths and what libraries read; `None` where the kernel has no Landlock.
    ///
    /// # Errors
    /// Those of the kernel.
    pub(super) fn ruleset(&self) -> Result<Option<OwnedFd>, RulesetError> {
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let write = AccessFs::from_write(ABI::V3) & !(AccessFs::MakeChar | AccessFs::MakeBlock);
        let null: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::WriteFile;
        let ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(NEWEST))?
            // No rule for it: nothing new is listened on.
            .handle_access(AccessNet::BindTcp)?
            .scope(Scope::AbstractUnixSocket | Scope::Signal)?
            .create()?
            .add_rules(path_beneath_rules(SYSTEM, read))?
            .add_rules(path_beneath_rules(["/dev/null"], null))?
            .add_rules(path_beneath_rules(self.read.iter().filter_map(|path| existing(path)), read))?
            .add_rules(path_beneath_rules(&self.write, read | write))?
            .add_rules(path_beneath_rules(&self.remove, AccessFs::RemoveDir))?;
        Ok(ruleset.into())
    }

    /// Returns the capabilities without which this user does not reach them.
    pub(super) fn capabilities(&self) -> CapabilitySet {
        let mut needed = CapabilitySet::empty();
        if self.read.iter().any(|path| is_foreign(path)) {
            needed |= CapabilitySet::DAC_READ_SEARCH;
        }
        if self.write.iter().chain(&self.remove).any(|path| is_foreign(path)) {
            needed |= CapabilitySet::DAC_OVERRIDE;
        }
        needed
    }
}

/// `path`, or the nearest directory above it that is there.
fn existing(path: &Path) -> Option<&Path> {
    path.ancestors().find(|path| path.exists())
}

/// Whether `path`, or what is above it, is another user's, so that its mode may refuse this one.
fn is_foreign(path: &Path) -> bool {
    let Some(Ok(path)) = existing(path).map(Path::canonicalize) else { return false };
    let own = geteuid().as_raw();
    path.ancestors().enumerate().any(|(above, path)| {
        path.metadata().is_ok_and(|metadata| {
            // Above it, the right to pass is enough.
            metadata.uid() != own && (above == 0 || metadata.mode() & 0o001 == 0)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, chown};

    #[test]
    fn capabilities_are_kept_for_what_is_another_user_s_alone() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("store");
        let needed = || {
            let paths = vec![path.join("absent/below")];
            [
                Paths { read: paths.clone(), ..Paths::default() }.capabilities(),
                Paths { write: paths, ..Paths::default() }.capabilities(),
            ]
        };
        assert_eq!(needed(), [CapabilitySet::empty(); 2], "the nearest above is one's own");
        std::fs::create_dir(&path).unwrap();
        assert_eq!(needed(), [CapabilitySet::empty(); 2]);
        if !geteuid().is_root() {
            return;
        }
        let all = [CapabilitySet::DAC_READ_SEARCH, CapabilitySet::DAC_OVERRIDE];
        chown(&path, Some(1), None).unwrap();
        assert_eq!(needed(), all);
        chown(&path, Some(0), None).unwrap();
        chown(temp.path(), Some(1), None).unwrap();
        std::fs::set_permissions(temp.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(needed(), all, "what is above lets no one pass");
        std::fs::set_permissions(temp.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
        assert_eq!(needed(), [CapabilitySet::empty(); 2]);
        chown(temp.path(), Some(0), None).unwrap();
    }
}
