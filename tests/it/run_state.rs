//! The run directory, `coldread ps` and `coldread umount`, and what is cleaned up after a process that was killed.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::kernel::{Mount, entries, loop_devices, mounts_below};
use crate::nbd::Serving;
use crate::support::common::{Bench, Image, Layer, Meta, stdout};

const PATIENCE: Duration = Duration::from_secs(20);

/// An image with a set-user-id shell and a device node.
fn image() -> Image {
    // Busybox gives such rights away by itself.
    let shell = fs::read("/bin/dash").expect("dash (Debian's dash) is installed");
    let zero = Layer::new().dir("bin").file_with("bin/sh", &shell, &Meta::mode(0o4755));
    Image::new([zero.entry(b'3', b"bin/zero", b"", b"", &Meta::mode(0o666), (1, 5)).file("hello", b"hello\n")])
}

fn converted() -> Bench {
    let bench = Bench::new();
    fs::set_permissions(bench.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    bench.convert(&image(), "app", &[]);
    bench
}

fn start(bench: &Bench, args: &[&str]) -> Mount {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coldread"));
    command.arg("-v").args(args).args(["--store", "store"]);
    command.current_dir(bench.dir.path()).env_remove("COLDPRESS_KEY").env_remove("COLDPRESS_STORE");
    let mut mount = Mount::by(bench, &mut command);
    mount.wait_for("is mounted at");
    mount
}

/// One that has been killed, with all that it leaves.
fn killed(bench: &Bench, args: &[&str]) -> u32 {
    let mut mount = start(bench, args);
    let pid = mount.child.id();
    mount.signal(Signal::KILL);
    mount.child.wait().unwrap();
    mount.forget();
    pid
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What `coldread ps --json` prints.
fn listed(bench: &Bench) -> Vec<Value> {
    let text = String::from_utf8(stdout(&bench.coldread(&["ps", "--json"]))).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn assert_nothing_is_left(bench: &Bench) {
    assert_eq!(mounts_below(bench.dir.path()), Vec::<PathBuf>::new());
    assert_eq!(loop_devices(&bench.path("run")), Vec::<String>::new());
    assert_eq!(entries(&bench.path("run")), Vec::<PathBuf>::new());
}

/// The effective user of the image's set-user-id shell, started by nobody, and whether nobody can read its device node.
fn rights_of_nobody(root: &Path) -> (String, bool) {
    let by_nobody = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(root.join("bin/sh")).args(args);
        command.output().unwrap()
    };
    let user = String::from_utf8(stdout(&by_nobody(&["-p", "-c", "id -u"]))).unwrap();
    let zero = root.join("bin/zero");
    let read = by_nobody(&["-c", &format!("head -c 2 {} | wc -c", zero.display())]);
    (user.trim().to_owned(), String::from_utf8(read.stdout).unwrap().trim() == "2")
}

fn options_of(point: &Path) -> Vec<String> {
    let output = Command::new("findmnt").args(["-no", "VFS-OPTIONS"]).arg(point).output().unwrap();
    String::from_utf8(stdout(&output)).unwrap().trim().split(',').map(str::to_owned).collect()
}

#[test]
fn set_user_id_programs_and_device_nodes_of_the_image_have_no_effect_unless_asked_for() {
    let bench = converted();
    for (options, user, dev) in [
        (&[][..], "65534", false),
        (&["--suid"], "0", false),
        (&["--dev"], "65534", true),
        (&["--suid", "--dev"], "0", true),
        (&["--writable"], "65534", false),
    ] {
        let mut mount = start(&bench, &[&["mount", "app.cpm", "mnt"], options].concat());
        assert_eq!(rights_of_nobody(&mount.point), (user.to_owned(), dev), "{options:?}");
        let file = entries(&bench.path("run"))[0].join("image");
        assert!(["nosuid", "nodev"].iter().all(|option| options_of(&file).contains(&(*option).to_owned())));
        mount.unmount();
        mount.ends_well(PATIENCE);
    }
}

#[test]
fn a_bundle_is_private_and_its_root_has_neither_set_user_id_programs_nor_device_nodes() {
    for layer in [None, Some(["proc", "dev", "sys"].iter().fold(Layer::new(), |layer, name| layer.dir(name)))] {
        let bench = converted();
        let layers = image().layers.into_iter().chain(layer);
        let image = Image { config: json!({ "Cmd": ["/bin/sh"] }), ..Image::new(layers) };
        bench.convert(&image, "app", &[]);
        let mut mount = start(&bench, &["bundle", "app.cpm", "bundle"]);
        let bundle = bench.path("bundle");
        assert_eq!(fs::metadata(&bundle).unwrap().permissions().mode() & 0o7777, 0o700);
        let options = options_of(&bundle.join("rootfs"));
        assert!(["nosuid", "nodev", "ro"].iter().all(|option| options.contains(&(*option).to_owned())), "{options:?}");
        // Others do not get there; and if they did, nothing would come of it.
        fs::set_permissions(&bundle, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(rights_of_nobody(&bundle.join("rootfs")), ("65534".to_owned(), false));
        mount.signal(Signal::TERM);
        mount.ends_well(PATIENCE);
        let mut mount = start_said(&bench, "other users of this host can read");
        mount.signal(Signal::TERM);
        mount.ends_well(PATIENCE);
        fs::set_permissions(&bundle, fs::Permissions::from_mode(0o777)).unwrap();
        let refused = bench.coldread(&["bundle", "app.cpm", "bundle", "--store", "store"]);
        assert!(
            refused.status.code() == Some(1) && said(&refused).contains("others can change config.json"),
            "{refused:?}"
        );
        assert_nothing_is_left(&bench);
    }
}

/// A bundle that is started, and says `text` before it is mounted.
fn start_said(bench: &Bench, text: &str) -> Mount {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coldread"));
    command.args(["-v", "bundle", "app.cpm", "bundle", "--store", "store"]).current_dir(bench.dir.path());
    let mut mount = Mount::by(bench, command.env_remove("COLDPRESS_KEY"));
    mount.wait_for(text);
    mount.wait_for("is mounted at");
    mount
}

#[test]
fn a_second_mount_at_the_same_directory_is_refused_by_the_number_of_the_first() {
    let bench = converted();
    let mut mount = start(&bench, &["mount", "app.cpm", "mnt"]);
    let again = bench.coldread(&["mount", "app.cpm", "./mnt/.", "--store", "store"]);
    let expected =
        format!("coldread process {} has mounted `app` there; end it with `coldread umount", mount.child.id());
    assert!(again.status.code() == Some(1) && said(&again).contains(&expected), "{again:?}");
    // One that does not know the first's run directory sees what is mounted.
    let mut other = Command::new(env!("CARGO_BIN_EXE_coldread"));
    other.args(["mount", "app.cpm", "mnt", "--store", "store"]).current_dir(bench.dir.path());
    let again = other.env("COLDREAD_RUN_DIR", bench.path("other")).output().unwrap();
    let run = bench.path("run").canonicalize().unwrap();
    let expected = format!("COLDREAD_RUN_DIR={} coldread umount", run.display());
    assert!(again.status.code() == Some(1) && said(&again).contains(&expected), "{again:?}");
    assert_eq!(fs::read(mount.path("hello")).unwrap(), b"hello\n");
    assert_eq!(mounts_below(&mount.point).len(), 1);
    mount.signal(Signal::TERM);
    mount.ends_well(PATIENCE);
}

#[test]
fn a_killed_mount_is_listed_as_dead_and_cleaned_up_by_the_next_start() {
    let bench = converted();
    let pid = killed(&bench, &["mount", "app.cpm", "mnt"]);
    let [dead] = &listed(&bench)[..] else { panic!("{:?}", listed(&bench)) };
    assert_eq!((&dead["state"], &dead["pid"], &dead["command"]), (&"dead".into(), &pid.into(), &"mount".into()));
    assert_eq!(dead["loop_devices"].as_array().unwrap().len(), 1, "{dead}");
    let mut mount = start_again(&bench, pid);
    assert_eq!(fs::read(mount.path("hello")).unwrap(), b"hello\n");
    assert_eq!((mounts_below(&mount.point).len(), entries(&bench.path("run")).len()), (1, 1));
    assert_eq!(loop_devices(&bench.path("run")).len(), 1);
    mount.unmount();
    mount.ends_well(PATIENCE);
    assert_nothing_is_left(&bench);
}

fn start_again(bench: &Bench, pid: u32) -> Mount {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coldread"));
    command.args(["-v", "mount", "app.cpm", "mnt", "--store", "store"]).current_dir(bench.dir.path());
    let mut mount = Mount::by(bench, command.env_remove("COLDPRESS_KEY"));
    mount.wait_for(&format!("cleaned up after coldread process {pid} (mount): unmounted "));
    mount.wait_for("is mounted at");
    mount
}

/// A bundle whose root is an overlay, a dead mount with a user, and one at another directory than the next start.
#[test]
fn whatever_a_killed_process_had_mounted_is_cleaned_up() {
    let bench = converted();
    bench.convert(&Image { config: json!({ "Cmd": ["/bin/sh"] }), ..image() }, "app", &[]);
    killed(&bench, &["bundle", "app.cpm", "bundle"]);
    killed(&bench, &["mount", "app.cpm", "mnt"]);
    let busy = File::open(bench.path("mnt")).unwrap();
    fs::create_dir(bench.path("elsewhere")).unwrap();
    let mut mount = start(&bench, &["mount", "app.cpm", "elsewhere"]);
    assert_eq!(mounts_below(&bench.path("bundle")), Vec::<PathBuf>::new());
    assert_eq!(mounts_below(&bench.path("mnt")), Vec::<PathBuf>::new());
    assert_eq!(entries(&bench.path("run")).len(), 1);
    drop(busy);
    mount.signal(Signal::TERM);
    mount.ends_well(PATIENCE);
    assert_nothing_is_left(&bench);
}

#[test]
fn umount_cleans_up_after_a_killed_process() {
    let bench = converted();
    bench.convert(&Image { config: json!({ "Cmd": ["/bin/sh"] }), ..image() }, "app", &[]);
    for (args, directory) in [(["mount", "app.cpm", "mnt"], "mnt"), (["bundle", "app.cpm", "bundle"], "bundle")] {
        let pid = killed(&bench, &args);
        let output = bench.coldread(&["umount", directory]);
        stdout(&output);
        assert!(said(&output).contains(&format!("cleaned up after coldread process {pid}")), "{output:?}");
        assert_nothing_is_left(&bench);
    }
}

#[test]
fn umount_ends_a_mount_and_waits_for_its_process() {
    let bench = converted();
    let mut mount = start(&bench, &["mount", "app.cpm", "mnt"]);
    let busy = File::open(mount.path("hello")).unwrap();
    let output = bench.coldread(&["umount", "mnt"]);
    let user = format!("in use by process {}", std::process::id());
    assert!(output.status.code() == Some(1) && said(&output).contains(&user), "{output:?}");
    drop(busy);
    stdout(&bench.coldread(&["umount", "mnt"]));
    assert_nothing_is_left(&bench);
    mount.ends_well(PATIENCE);
    for (directory, message) in
        [("mnt", "not mounted by coldread; `coldread ps` lists what is"), ("nowhere", "No such file")]
    {
        let output = bench.coldread(&["umount", directory]);
        assert!(output.status.code() == Some(1) && said(&output).contains(message), "{output:?}");
    }
    // An image that is in use elsewhere is not waited for without end.
    let mut mount = start(&bench, &["mount", "app.cpm", "mnt"]);
    fs::create_dir(bench.path("other")).unwrap();
    let bound = Command::new("mount").arg("--bind").arg(&mount.point).arg(bench.path("other")).status().unwrap();
    assert!(bound.success());
    let output = bench.coldread(&["umount", "mnt", "--wait", "300ms"]);
    assert!(output.status.code() == Some(1) && said(&output).contains("the image is in use elsewhere"), "{output:?}");
    assert_eq!(listed(&bench)[0]["state"], "unmounted");
    // The directory is free for another.
    let mut second = start(&bench, &["mount", "app.cpm", "mnt"]);
    assert_eq!(fs::read(second.path("hello")).unwrap(), b"hello\n");
    assert!(Command::new("umount").arg(bench.path("other")).status().unwrap().success());
    mount.wait_for("fetched");
    second.unmount();
    second.ends_well(PATIENCE);
}

/// What others mount, and the loop devices of others, are left alone, dead or not.
#[test]
fn mounts_of_others_are_left_alone() {
    let bench = converted();
    let tmpfs = |options: &str| {
        let mut command = Command::new("mount");
        assert!(
            command.args(["-t", "tmpfs", "-o", options, "theirs"]).arg(bench.path("mnt")).status().unwrap().success()
        );
    };
    let umount = || assert!(Command::new("umount").arg(bench.path("mnt")).status().unwrap().success());
    fs::create_dir(bench.path("mnt")).unwrap();
    tmpfs("size=1m");
    fs::write(bench.path("mnt/theirs"), "").unwrap();
    // A mount point of another program is a directory like any other.
    killed(&bench, &["mount", "app.cpm", "mnt"]);
    let mut mount = start(&bench, &["mount", "app.cpm", "mnt"]);
    assert_eq!(mounts_below(&mount.point).len(), 2);
    mount.unmount();
    assert!(bench.path("mnt/theirs").exists());
    umount();
    mount.ends_well(PATIENCE);
    // What is mounted over a dead mount keeps it from being removed, and is not removed itself.
    killed(&bench, &["mount", "app.cpm", "mnt"]);
    tmpfs("size=1m");
    let refused = bench.coldread(&["mount", "app.cpm", "mnt", "--store", "store"]);
    let message = "another file system is mounted over its mount; unmount that first";
    assert!(refused.status.code() == Some(1) && said(&refused).contains(message), "{refused:?}");
    assert_eq!(mounts_below(&bench.path("mnt")).len(), 2);
    umount();
    stdout(&bench.coldread(&["umount", "mnt"]));
    assert_nothing_is_left(&bench);
}

#[test]
fn ps_lists_what_runs() {
    let bench = converted();
    let header = "PID  STATE  COMMAND  IMAGE  WHERE\n";
    assert_eq!(String::from_utf8(stdout(&bench.coldread(&["ps"]))).unwrap(), header);
    bench.convert(&Image { config: json!({ "Cmd": ["/bin/sh"] }), ..image() }, "app", &[]);
    let mut mount = start(&bench, &["mount", "app.cpm", "mnt"]);
    let mut bundle = start(&bench, &["bundle", "app.cpm", "bundle"]);
    let mut serve = Command::new(env!("CARGO_BIN_EXE_coldread"));
    let serving = Serving::at(&bench, serve.args(["serve", "db=app.cpm", "--nbd", "unix:a.sock", "--fuse", "a.img"]));
    let found = listed(&bench);
    assert_eq!(found.len(), 3, "{found:#?}");
    let of = |command: &str| found.iter().find(|entry| entry["command"] == command).unwrap().clone();
    assert!(found.iter().all(|entry| entry["state"] == "running"), "{found:#?}");
    let point = |name: &str| json!(bench.path(name).canonicalize().unwrap());
    assert_eq!((&of("mount")["directory"], &of("bundle")["bundle"]), (&point("mnt"), &point("bundle")));
    assert_eq!(of("bundle")["directory"], point("bundle/rootfs"));
    assert_eq!((&of("serve")["files"], &of("serve")["pid"]), (&json!([point("a.img")]), &serving.process.id().into()));
    assert_eq!(of("serve")["exports"], json!(["nbd unix:a.sock"]));
    assert_eq!(of("serve")["images"][0]["name"], "db");
    assert!(of("mount")["images"][0]["root_digest"].as_str().unwrap().starts_with("sha256:"));
    let table = String::from_utf8(stdout(&bench.coldread(&["ps"]))).unwrap();
    let row = format!("{}  running", mount.child.id());
    assert!(table.contains(&row) && table.contains("bundle/rootfs") && table.contains("nbd unix:a.sock"), "{table}");
    serving.end();
    mount.signal(Signal::TERM);
    bundle.signal(Signal::TERM);
    mount.wait_for("fetched");
    bundle.ends_well(PATIENCE);
    assert_eq!(listed(&bench), Vec::<Value>::new());
}

#[test]
fn a_run_directory_that_others_control_is_refused() {
    let bench = converted();
    let run = bench.path("run");
    let refused = |message: &str| {
        let output = bench.coldread(&["ps"]);
        assert!(output.status.code() == Some(1) && said(&output).contains(message), "{message}: {output:?}");
    };
    fs::create_dir(bench.path("theirs")).unwrap();
    symlink("theirs", &run).unwrap();
    refused("not a directory");
    fs::remove_file(&run).unwrap();
    fs::create_dir(&run).unwrap();
    fs::set_permissions(&run, fs::Permissions::from_mode(0o770)).unwrap();
    refused("its mode is 770, so others can write to it");
    fs::set_permissions(&run, fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::chown(&run, Some(65534), None).unwrap();
    refused("it belongs to user 65534");
    fs::remove_dir(&run).unwrap();
    stdout(&bench.coldread(&["ps"]));
    assert_eq!(fs::metadata(&run).unwrap().permissions().mode() & 0o7777, 0o700);
    // Links in it lead nowhere.
    fs::write(bench.path("victim"), "victim").unwrap();
    fs::remove_file(run.join("lock")).unwrap();
    symlink(bench.path("victim"), run.join("lock")).unwrap();
    let output = bench.coldread(&["ps"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(fs::read_to_string(bench.path("victim")).unwrap(), "victim");
}

/// A user without rights has a run directory of its own, and without one serves all the same.
#[test]
fn without_root_the_run_directory_is_the_user_s_own() {
    let bench = converted();
    fs::copy(env!("CARGO_BIN_EXE_coldread"), bench.path("coldread")).unwrap();
    fs::create_dir(bench.path("runtime")).unwrap();
    std::os::unix::fs::chown(bench.path("runtime"), Some(65534), None).unwrap();
    let by_nobody = |variables: &[(&str, PathBuf)]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(bench.path("coldread"));
        command.args(["ps"]).env_remove("COLDREAD_RUN_DIR").env_remove("XDG_RUNTIME_DIR").env_remove("HOME");
        command.envs(variables.iter().cloned()).output().unwrap()
    };
    for (name, made) in [("XDG_RUNTIME_DIR", "runtime/coldread"), ("HOME", "runtime/.local/state/coldread")] {
        stdout(&by_nobody(&[(name, bench.path("runtime"))]));
        assert_eq!(fs::metadata(bench.path(made)).unwrap().permissions().mode() & 0o7777, 0o700);
    }
    let output = by_nobody(&[]);
    assert!(output.status.code() == Some(2) && said(&output).contains("set $COLDREAD_RUN_DIR"), "{output:?}");
    let output = by_nobody(&[("COLDREAD_RUN_DIR", "relative".into())]);
    assert!(output.status.code() == Some(2) && said(&output).contains("it must be an absolute path"), "{output:?}");
}

/// A tool that outlives its killed `coldread` keeps the entry alive, so that it makes nothing behind the clean-up's back.
#[test]
fn tools_that_outlive_a_killed_process_are_waited_for() {
    let bench = converted();
    fs::create_dir(bench.path("bin")).unwrap();
    let script = "#!/bin/sh\n[ \"$1\" != --find ] || { touch started; sleep 1; }\nexec /sbin/losetup \"$@\"\n";
    fs::write(bench.path("bin/losetup"), script).unwrap();
    fs::set_permissions(bench.path("bin/losetup"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", bench.path("bin").display());
    fs::create_dir(bench.path("mnt")).unwrap();
    let mut slow = Command::new(env!("CARGO_BIN_EXE_coldread"));
    slow.args(["mount", "app.cpm", "mnt", "--store", "store"]).env("PATH", path).current_dir(bench.dir.path());
    let mut slow = slow.env("COLDREAD_RUN_DIR", bench.path("run")).stderr(Stdio::null()).spawn().unwrap();
    while !bench.path("started").exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    slow.kill().unwrap();
    slow.wait().unwrap();
    assert_eq!(listed(&bench)[0]["state"], "starting");
    let mut mount = start(&bench, &["mount", "app.cpm", "mnt"]);
    assert_eq!(entries(&bench.path("run")).len(), 1);
    mount.unmount();
    mount.ends_well(PATIENCE);
    assert_nothing_is_left(&bench);
}

/// An entry that was never finished, and names that nobody knows.
#[test]
fn what_is_not_an_entry_is_no_hindrance() {
    let bench = converted();
    let run = bench.path("run");
    stdout(&bench.coldread(&["ps"]));
    for (name, text) in [("1-empty", None), ("2-cut", Some("{\"version\":1,")), ("3-later", Some("{\"version\":9}"))] {
        fs::create_dir(run.join(name)).unwrap();
        if let Some(text) = text {
            File::create(run.join(name).join("entry.json")).unwrap().write_all(text.as_bytes()).unwrap();
        }
    }
    assert!(listed(&bench).iter().all(|entry| entry["state"] == "dead"));
    let mut mount = start(&bench, &["mount", "app.cpm", "mnt"]);
    assert_eq!(entries(&run).len(), 1);
    mount.unmount();
    mount.ends_well(PATIENCE);
}

/// As in a container: its /dev, or its capabilities, are not those of the host.
#[test]
fn what_a_container_lacks_to_mount_is_named() {
    let bench = converted();
    fs::create_dir(bench.path("mnt")).unwrap();
    let nodes = ["null c 1 3", "fuse c 10 229", "loop-control c 10 237"];
    let made = |count: usize| nodes[..count].iter().map(|node| format!("mknod /dev/{node} && ")).collect::<String>();
    for (count, drop, message) in [
        (
            1,
            "",
            "/dev/fuse is missing; load its module (`modprobe fuse`), or start the container with `--device /dev/fuse`",
        ),
        (2, "", "/dev/loop-control is missing"),
        (3, "", "is missing; start the container with `--device /dev/loop"),
        (3, "setpriv --bounding-set=-sys_admin", "mounting needs CAP_SYS_ADMIN"),
    ] {
        let script = format!("mount -t tmpfs private /dev && {}exec {drop} \"$@\"", made(count));
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script, "sh", env!("CARGO_BIN_EXE_coldread")]);
        command.args(["mount", "app.cpm", "mnt", "--store", "store"]).current_dir(bench.dir.path());
        let output = command.env("COLDREAD_RUN_DIR", bench.path("run")).env_remove("COLDPRESS_KEY").output().unwrap();
        assert!(output.status.code() == Some(1) && said(&output).contains(message), "{message}: {output:?}");
        assert_nothing_is_left(&bench);
    }
}
