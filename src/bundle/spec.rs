//! The runtime configuration: what docker and containerd give a container that nobody asked more for.

use std::collections::{BTreeMap, HashMap, HashSet};

use oci_spec::runtime::{
    Capability, LinuxCapabilities, LinuxCpu, LinuxDeviceCgroup, LinuxMemory, LinuxNamespaceType, LinuxResources, Mount,
    Process, Root, Spec,
};

use super::{ContainerMount, Image, User, mounts};
use crate::Result;

/// The oldest version of the specification that says all that is said here.
const VERSION: &str = "1.0.2";

/// Docker's, which containerd has as well.
const CAPABILITIES: [Capability; 14] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// Labels with these in front would be orders to a runtime, as annotations: crun, libkrun, runc with systemd, Kata.
const ORDERS: [&str; 4] = ["run.oci.", "krun.", "org.systemd.property.", "io.katacontainers."];

/// What who starts it chooses.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// In place of the image's Cmd.
    pub arguments: Vec<String>,
    /// `NAME=VALUE`, in place of the image's variables of the same name.
    pub environment: Vec<String>,
    /// Where the program starts, in place of the image's WorkingDir.
    pub working_dir: Option<String>,
    /// Whether the root can be written to.
    pub writable: bool,
    /// Whether it has a terminal.
    pub terminal: bool,
    /// Whether it has the host's network, and not an empty one of its own.
    pub host_network: bool,
    /// Files of the host that it sees at their own paths.
    pub host_files: Vec<&'static str>,
    /// Its host name.
    pub hostname: String,
    /// Further mounts, each on a path of its own.
    pub mounts: Vec<ContainerMount>,
    /// Maximum memory in bytes.
    pub memory: Option<u64>,
    /// Maximum processor time in microseconds in each period of [`CPU_PERIOD`].
    pub cpu_quota: Option<u32>,
}

/// The period over which processor time is limited, in microseconds: docker's and the kernel's own.
pub const CPU_PERIOD: u32 = 100_000;

/// The specification of a container of `image` that runs as `user`, its root at `rootfs` beside the file.
///
/// # Errors
/// `Input` where the image says what cannot be started.
pub fn spec(image: &Image, user: &User, options: &Options) -> Result<Spec> {
    let mut spec = Spec::default();
    let mut root = Root::default();
    root.set_path("rootfs".into()).set_readonly(Some(!options.writable));
    let annotations: HashMap<_, _> = annotations(image).into_iter().collect();
    spec.set_version(VERSION.to_owned())
        .set_root(Some(root))
        .set_hostname(Some(options.hostname.clone()))
        .set_annotations(Some(annotations).filter(|annotations| !annotations.is_empty()))
        .set_process(Some(process(image, user, options)?));
    if let Some(linux) = spec.linux_mut() {
        if let Some(resources) = linux.resources_mut() {
            limit(resources, options);
        }
        if let Some(paths) = linux.masked_paths_mut() {
            paths.push("/sys/devices/virtual/powercap".to_owned());
        }
        if let Some(namespaces) = linux.namespaces_mut().as_mut().filter(|_| options.host_network) {
            namespaces.retain(|namespace| namespace.typ() != LinuxNamespaceType::Network);
        }
    }
    if let Some(mounts) = spec.mounts_mut() {
        mounts.iter_mut().for_each(harden);
        mounts.extend(options.host_files.iter().map(|path| bound(path)));
        mounts::add(mounts, &options.mounts);
    }
    Ok(spec)
}

/// Sets the limits of the container's control group.
fn limit(resources: &mut LinuxResources, options: &Options) {
    // All devices but those that every container has.
    let mut none = LinuxDeviceCgroup::default();
    none.set_allow(false).set_access(Some("rwm".to_owned()));
    resources.set_devices(Some(vec![none]));
    if let Some(bytes) = options.memory {
        let mut memory = LinuxMemory::default();
        memory.set_limit(Some(i64::try_from(bytes).unwrap_or(i64::MAX)));
        resources.set_memory(Some(memory));
    }
    if let Some(quota) = options.cpu_quota {
        let mut cpu = LinuxCpu::default();
        cpu.set_quota(Some(quota.into())).set_period(Some(CPU_PERIOD.into()));
        resources.set_cpu(Some(cpu));
    }
}

/// As docker has it: nothing in /proc is a program or a device.
fn harden(mount: &mut Mount) {
    if mount.typ().as_deref() == Some("proc") {
        mount.set_options(Some(["nosuid", "noexec", "nodev"].map(str::to_owned).to_vec()));
    }
}

/// A file of the host, to read.
fn bound(path: &str) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(path.into())
        .set_source(Some(path.into()))
        .set_typ(Some("bind".to_owned()))
        .set_options(Some(["bind", "ro", "nosuid", "noexec", "nodev"].map(str::to_owned).to_vec()));
    mount
}

fn process(image: &Image, user: &User, options: &Options) -> Result<Process> {
    let mut process = Process::default();
    let mut environment = image.environment(&options.environment)?;
    if options.terminal && !environment.iter().any(|variable| variable.starts_with("TERM=")) {
        environment.push("TERM=xterm".to_owned());
    }
    let mut by_numbers = oci_spec::runtime::User::default();
    by_numbers.set_uid(user.uid).set_gid(user.gid).set_additional_gids(Some(user.groups.clone()));
    process
        .set_terminal(Some(options.terminal))
        .set_user(by_numbers)
        .set_args(Some(image.arguments(&options.arguments)?))
        .set_env(Some(environment))
        .set_cwd(image.directory(options.working_dir.as_deref())?.into())
        .set_capabilities(Some(capabilities(user)))
        // Those of who runs the runtime.
        .set_rlimits(None);
    Ok(process)
}

/// Who is not root gets them only by programs that give them.
fn capabilities(user: &User) -> LinuxCapabilities {
    let all: HashSet<_> = CAPABILITIES.into_iter().collect();
    let held = if user.uid == 0 { all.clone() } else { HashSet::new() };
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(all))
        .set_effective(Some(held.clone()))
        .set_permitted(Some(held))
        .set_inheritable(None)
        .set_ambient(None);
    sets
}

/// What the image specification makes of a config, labels last: they win.
fn annotations(image: &Image) -> BTreeMap<String, String> {
    let name = |key: &str| format!("org.opencontainers.image.{key}");
    let mut annotations: BTreeMap<_, _> =
        image.platform.iter().map(|(key, value)| (name(key), value.clone())).collect();
    if let Some(signal) = &image.stop_signal {
        annotations.insert(name("stopSignal"), signal.clone());
    }
    if !image.exposed_ports.is_empty() {
        let ports: Vec<&str> = image.exposed_ports.keys().map(String::as_str).collect();
        annotations.insert(name("exposedPorts"), ports.join(","));
    }
    let labels =
        image.labels.iter().filter(|(key, _)| !key.is_empty() && !ORDERS.iter().any(|order| key.starts_with(order)));
    annotations.extend(labels.map(|(key, value)| (key.clone(), value.clone())));
    annotations
}
