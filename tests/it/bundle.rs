//! `coldread bundle`: runc and crun start what an image says, from its mounted root, and nothing is left behind.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::common::{Bench, Image, Layer, Meta, noise, stdout};
use crate::kernel::{Mount, mounts_below};
use crate::nbd::Serving;

const PATIENCE: Duration = Duration::from_secs(20);
const RUNTIMES: [&str; 2] = ["runc", "crun"];

/// A shell, users, and what a runtime mounts on.
fn layer() -> Layer {
    let busybox = fs::read("/usr/bin/busybox").expect("busybox (Debian's busybox-static) is installed");
    let layer = Layer::new().file_with("bin/busybox", &busybox, &Meta::mode(0o755)).symlink("bin/sh", "busybox");
    let layer = ["cat", "id", "pwd", "env", "sleep", "sha256sum", "readlink"]
        .iter()
        .fold(layer, |layer, name| layer.symlink(&format!("bin/{name}"), "busybox"));
    layer
        .file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:App:/home/app:/bin/sh\n")
        .file("etc/group", b"root:x:0:\napps:x:1001:\nstaff:x:50:app\n")
        .dir("apps")
        .file("apps/hello", b"hello from the image\n")
}

fn standing() -> Layer {
    ["proc", "dev", "sys"].iter().fold(layer(), |layer, name| layer.dir(name))
}

fn image(layer: Layer, config: Value) -> Image {
    Image { config, ..Image::new([layer]) }
}

/// An image's `config.json`, without a mount.
fn described(bench: &Bench, args: &[&str]) -> Value {
    stdout(&bench.coldread(&[&["bundle", "app.cpm", "bundle", "--store", "store", "--no-mount"], args].concat()));
    serde_json::from_slice(&fs::read(bench.path("bundle/config.json")).unwrap()).unwrap()
}

/// The bundle's mount, and one for every end of a test.
fn mounted(bench: &Bench, args: &[&str]) -> Mount {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coldread"));
    command.args(["-v", "bundle", "app.cpm", "bundle", "--store", "store"]).args(args);
    command.current_dir(bench.dir.path()).env_remove("COLDPRESS_KEY").env_remove("COLDPRESS_STORE");
    let mut mount = Mount::by(bench, &mut command);
    mount.wait_for("is mounted at");
    mount
}

/// A runtime's command. Crun knows no machine with both versions of cgroups, so there the second is out of its sight.
fn runtime(bench: &Bench, name: &str) -> Command {
    let script = "mountpoint -q /sys/fs/cgroup/unified && umount /sys/fs/cgroup/unified; exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh", name, "--root"]).arg(bench.path(name));
    command.args(["run", "-b"]).arg(bench.path("bundle")).arg(format!("test-{}-{name}", std::process::id()));
    command
}

fn start(bench: &Bench, name: &str) -> (i32, String, String) {
    let output = runtime(bench, name).output();
    let Output { status, stdout, stderr } = output.unwrap_or_else(|error| panic!("{name}: {error}"));
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

fn unmount(bench: &Bench) {
    stdout(&Command::new("umount").arg(bench.path("bundle/rootfs")).output().unwrap());
}

#[test]
fn runtimes_start_what_the_image_says() {
    let config = json!({
        "Entrypoint": ["/bin/sh", "-c", "cat hello; id; pwd; echo $GREETING $0 $@; touch /new; exit 7"],
        "Cmd": ["of", "the image"], "Env": ["PATH=/bin", "GREETING=good day"], "User": "app", "WorkingDir": "/apps",
    });
    // With what a runtime mounts on, and without: then it is below the image.
    for layer in [standing(), layer()] {
        let bench = Bench::new();
        bench.convert(&image(layer, config.clone()), "app", &[]);
        let mut mount = mounted(&bench, &[]);
        for name in RUNTIMES {
            let (code, said, refused) = start(&bench, name);
            let id = "uid=1000(app) gid=1001(apps) groups=50(staff),1001(apps)";
            assert_eq!(
                said,
                format!("hello from the image\n{id}\n/apps\ngood day of the image\n"),
                "{name}: {refused}"
            );
            assert!(refused.contains("/new: Read-only file system"), "{name}: {refused}");
            assert_eq!(code, 7, "{name}");
        }
        unmount(&bench);
        mount.ends_well(PATIENCE);
        assert_eq!(fs::metadata(bench.path("bundle/config.json")).unwrap().permissions().mode() & 0o777, 0o600);
        // Arguments stand in place of Cmd; the file is written anew.
        let mut mount = mounted(&bench, &["--", "and", "--others"]);
        assert!(start(&bench, "runc").1.ends_with("good day and --others\n"));
        mount.signal(Signal::TERM);
        mount.ends_well(PATIENCE);
    }
}

#[test]
fn a_container_that_runs_keeps_the_image_until_it_ends() {
    let bench = Bench::new();
    let script = "cat apps/hello; read line; sha256sum data";
    let layer = standing().file("data", &noise(3 << 20, 9));
    bench.convert(&image(layer, json!({ "Cmd": ["/bin/sh", "-c", script] })), "app", &[]);
    let mut mount = mounted(&bench, &[]);
    let mut command = runtime(&bench, "runc");
    let (stdin, ours) = std::io::pipe().unwrap();
    let (theirs, out) = std::io::pipe().unwrap();
    let mut container = command.stdin(stdin).stdout(out).spawn().unwrap();
    drop(command);
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(theirs));
    assert_eq!(lines.next().unwrap().unwrap(), "hello from the image");
    mount.signal(Signal::TERM);
    while fs::read_dir(bench.path("bundle/rootfs")).unwrap().next().is_some() {
        std::thread::sleep(Duration::from_millis(5));
    }
    std::io::Write::write_all(&mut &ours, b"go on\n").unwrap();
    let sum = coldpress::digest::Sha256::of(&noise(3 << 20, 9)).to_hex();
    assert_eq!(lines.next().unwrap().unwrap(), format!("{sum}  data"));
    assert!(container.wait().unwrap().success());
    mount.ends_well(PATIENCE);
}

#[test]
fn the_hosts_network_and_a_terminal_are_given_where_they_are_asked_for() {
    let bench = Bench::new();
    let script = "readlink /proc/self/ns/net; cat /etc/hosts; test -t 0 && echo a terminal, $TERM";
    bench.convert(&image(standing(), json!({ "Cmd": ["/bin/sh", "-c", script] })), "app", &[]);
    let network = fs::read_link("/proc/self/ns/net").unwrap().display().to_string();
    let hosts = fs::read_to_string("/etc/hosts").unwrap();
    let mut mount = mounted(&bench, &[]);
    let alone = start(&bench, "runc").1;
    assert!(alone.starts_with("net:[") && !alone.contains(&network) && alone.lines().count() == 1, "{alone}");
    unmount(&bench);
    mount.ends_well(PATIENCE);
    let mut mount = mounted(&bench, &["--host-network"]);
    for name in RUNTIMES {
        assert_eq!(start(&bench, name).1, format!("{network}\n{hosts}"), "{name}");
    }
    unmount(&bench);
    mount.ends_well(PATIENCE);
    let mut mount = mounted(&bench, &["--terminal"]);
    let words: Vec<String> = {
        let command = runtime(&bench, "runc");
        let all = std::iter::once(command.get_program()).chain(command.get_args());
        all.map(|word| format!("'{}'", word.to_str().unwrap())).collect()
    };
    let said = stdout(&Command::new("script").args(["-qec", &words.join(" "), "/dev/null"]).output().unwrap());
    assert!(String::from_utf8_lossy(&said).contains("a terminal, xterm"), "{}", String::from_utf8_lossy(&said));
    unmount(&bench);
    mount.ends_well(PATIENCE);
}

#[test]
fn all_of_the_file_is_as_it_was_read_last_and_the_same_each_time() {
    let bench = Bench::new();
    let config = json!({
        "Cmd": ["/bin/sh"], "User": "1000:staff", "WorkingDir": "apps", "StopSignal": "SIGINT", "ExposedPorts": { "80/tcp": {}, "53/udp": {} },
        "Labels": { "maker": "us", "org.opencontainers.image.os": "ours", "run.oci.handler": "wasm", "org.systemd.property.ExecStart": "x", "": "none" },
    });
    bench.convert(&image(layer(), config), "app", &[]);
    let first = described(&bench, &[]);
    let text = fs::read(bench.path("bundle/config.json")).unwrap();
    insta::assert_snapshot!("config", String::from_utf8(text.clone()).unwrap());
    for _ in 0..5 {
        assert_eq!(described(&bench, &[]), first);
        assert_eq!(fs::read(bench.path("bundle/config.json")).unwrap(), text);
    }
}

#[test]
fn users_are_those_of_the_image() {
    for (user, expected) in [
        ("", Ok((0, 0, vec![0]))),
        ("app", Ok((1000, 1001, vec![1001, 50]))),
        ("app:staff", Ok((1000, 50, vec![50]))),
        ("1000", Ok((1000, 1001, vec![1001, 50]))),
        ("5:6", Ok((5, 6, vec![6]))),
        ("7", Ok((7, 0, vec![0]))),
        ("nobody", Err("image config: User `nobody`: no such user in the image's /etc/passwd")),
        ("app:wheel", Err("image config: User `app:wheel`: no such group in the image's /etc/group")),
        ("4294967295", Err("no such user")),
    ] {
        let bench = Bench::new();
        bench.convert(&image(layer(), json!({ "Cmd": ["/bin/sh"], "User": user })), "app", &[]);
        match expected {
            Ok((uid, gid, groups)) => {
                let found = described(&bench, &[])["process"]["user"].take();
                assert_eq!(found, json!({ "uid": uid, "gid": gid, "additionalGids": groups }), "{user}");
            }
            Err(message) => refuses(&bench, message),
        }
    }
    // Where the image has no files of names, numbers do.
    let bench = Bench::new();
    bench.convert(&image(Layer::new().file("app", b""), json!({ "Cmd": ["/app"], "User": "5" })), "app", &[]);
    assert_eq!(described(&bench, &[])["process"]["user"]["uid"], 5);
}

/// Mounting or not, it is refused by this message, and nothing is made.
fn refuses(bench: &Bench, message: &str) {
    for args in [&[][..], &["--no-mount"]] {
        let output = bench.coldread(&[&["bundle", "app.cpm", "bundle", "--store", "store"], args].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(message), "{message} is not in {said}");
        assert!(!bench.path("bundle").exists(), "{message}");
    }
}

#[test]
fn what_cannot_be_started_is_refused_and_nothing_is_made() {
    let long = "x".repeat(128 << 10);
    let many: Vec<String> = (0..40_000).map(|n| format!("VARIABLE_{n:05}={}", "y".repeat(48))).collect();
    let deep = "/d".repeat(2100);
    for (config, message) in [
        (json!({ "Env": ["A=1"] }), "Entrypoint and Cmd: name no program"),
        (json!({ "Cmd": [""] }), "Entrypoint and Cmd: name no program"),
        (json!({ "Cmd": ["/bin/sh", "a\0b"] }), "Entrypoint and Cmd: a NUL byte"),
        (json!({ "Cmd": ["/bin/sh"], "Env": ["A=\0"] }), "Env: a NUL byte"),
        (json!({ "Cmd": ["/bin/sh"], "Env": ["no value"] }), "Env: one is not of the form NAME=VALUE"),
        (json!({ "Cmd": ["/bin/sh"], "Env": ["=x"] }), "Env: one is not of the form NAME=VALUE"),
        (json!({ "Cmd": ["/bin/sh"], "Env": [format!("A={long}")] }), "Env: one of over 128 KiB"),
        (json!({ "Cmd": ["/bin/sh"], "Env": many }), "Env: over 2 MiB together"),
        (json!({ "Cmd": ["/bin/sh"], "WorkingDir": deep }), "WorkingDir: not a path"),
        (json!({ "Cmd": ["/bin/sh"], "WorkingDir": "/a\0b" }), "WorkingDir: not a path"),
        (json!({ "Cmd": ["/bin/sh"], "WorkingDir": "/bin/busybox" }), "a container needs a directory, not a file"),
        (json!({ "Cmd": ["/bin/sh"], "WorkingDir": "/bin/busybox/x" }), "a component of the path is not a directory"),
        (json!({ "Cmd": ["/bin/sh"], "User": "a:b:c" }), "not of the form USER[:GROUP]"),
        (json!({ "Cmd": ["/bin/sh"], "User": "\u{1b}[31m" }), "no such user"),
    ] {
        let bench = Bench::new();
        bench.convert(&image(layer(), config), "app", &[]);
        refuses(&bench, message);
    }
    let bench = Bench::new();
    let users = Layer::new().file("etc/passwd", &vec![b'x'; (4 << 20) + 1]);
    bench.convert(&image(users, json!({ "Cmd": ["/bin/sh"] })), "app", &[]);
    refuses(&bench, "/etc/passwd of the image: larger than");
}

#[test]
fn a_working_directory_that_is_not_there_is_made_below_the_image() {
    let bench = Bench::new();
    let config = json!({ "Cmd": ["/bin/sh", "-c", "pwd; cat ../hello"], "WorkingDir": "/../apps/a/b/.." });
    bench.convert(&image(standing(), config), "app", &[]);
    let mut mount = mounted(&bench, &[]);
    let names = fs::read_dir(bench.path("bundle/rootfs/apps")).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(names.collect::<BTreeSet<_>>(), ["a".into(), "hello".into()].into());
    for name in RUNTIMES {
        let (code, said, refused) = start(&bench, name);
        assert_eq!((code, said.as_str()), (0, "/apps/a\nhello from the image\n"), "{name}: {refused}");
    }
    unmount(&bench);
    mount.ends_well(PATIENCE);
    // One that no file system can have.
    let bench = Bench::new();
    let config = json!({ "Cmd": ["/bin/sh"], "WorkingDir": format!("/{}", "x".repeat(300)) });
    bench.convert(&image(standing(), config), "app", &[]);
    let output = bench.coldread(&["bundle", "app.cpm", "bundle", "--store", "store"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && said.contains("File name too long"), "{said}");
    assert_eq!(mounts_below(bench.dir.path()), Vec::<PathBuf>::new());
    assert!(!bench.path("bundle").exists());
}

#[test]
fn a_service_manager_is_told_when_the_mount_stands() {
    let bench = Bench::new();
    bench.convert(&image(standing(), json!({ "Cmd": ["/bin/sh"] })), "app", &[]);
    fs::create_dir(bench.path("mnt")).unwrap();
    for (command, hello) in
        [(["bundle", "app.cpm", "bundle"], "bundle/rootfs/apps/hello"), (["mount", "app.cpm", "mnt"], "mnt/apps/hello")]
    {
        let serving = Serving::at(&bench, Command::new(env!("CARGO_BIN_EXE_coldread")).args(command));
        assert_eq!(fs::read_to_string(bench.path(hello)).unwrap(), "hello from the image\n");
        serving.end();
        assert!(!bench.path(hello).exists());
    }
}

#[test]
fn a_bundle_that_cannot_be_written_leaves_nothing_mounted() {
    let bench = Bench::new();
    bench.convert(&image(standing(), json!({ "Cmd": ["/bin/sh"] })), "app", &[]);
    fs::create_dir_all(bench.path("bundle/config.json")).unwrap();
    let output = bench.coldread(&["bundle", "app.cpm", "bundle", "--store", "store"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && said.contains("bundle/config.json: "), "{said}");
    assert_eq!(mounts_below(bench.dir.path()), Vec::<PathBuf>::new());
    assert!(!bench.path("bundle/rootfs").exists());
    fs::write(bench.path("file"), "").unwrap();
    for (directory, message) in [("file", "file: File exists"), ("nowhere/bundle", "nowhere/bundle: No such file")] {
        let output = bench.coldread(&["bundle", "app.cpm", directory, "--store", "store"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && said.contains(message), "{said}");
    }
    assert!(!Path::new("nowhere").exists());
}
