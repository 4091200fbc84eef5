//! `coldread bundle`: runc and crun start what an image says, from its mounted root, and nothing is left behind.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::kernel::{Mount, mounts_below};
use crate::nbd::Serving;
use crate::support::common::{Bench, Image, Layer, Meta, noise, stdout};

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
        ("nobody", Err("image config: user `nobody`: the image's /etc/passwd has no such user")),
        ("app:wheel", Err("image config: user `app:wheel`: the image's /etc/group has no such group")),
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
        (json!({ "Cmd": ["/bin/sh"], "WorkingDir": "/bin/busybox/x" }), "not a directory: /bin/busybox"),
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

/// What both runtimes print for `script` in a container of the image with these layers and options; it must succeed.
fn printed(layer: Layer, script: &str, args: &[&str]) -> String {
    let bench = Bench::new();
    bench.convert(
        &image(layer, json!({ "Cmd": ["/bin/sh", "-c", script], "Env": ["A=image", "B=image"] })),
        "app",
        &[],
    );
    let mut mount = mounted(&bench, args);
    let [one, other] = RUNTIMES.map(|name| {
        let (code, said, refused) = start(&bench, name);
        assert_eq!(code, 0, "{name}: {said}{refused}");
        said
    });
    unmount(&bench);
    mount.ends_well(PATIENCE);
    assert_eq!(one, other);
    one
}

#[test]
fn run_and_tmp_can_be_written_to_and_begin_as_the_image_has_them() {
    let script = "cd /; busybox stat -c '%a %u:%g %n' /run /tmp; ls run tmp; echo written >/tmp/a; cat /tmp/a; \
                  echo written >/run/b; cat /run/b; echo written >/dev/shm/c; cat /dev/shm/c; (echo >/c) 2>/dev/null || echo read-only";
    let written = "written\nwritten\nwritten\nread-only\n";
    let with = |layer: Layer| layer.symlink("bin/ls", "busybox");
    // Not in the image: then each starts empty, with the usual mode.
    for layer in [layer(), standing()] {
        assert_eq!(printed(with(layer), script, &[]), format!("755 0:0 /run\n1777 0:0 /tmp\nrun:\n\ntmp:\n{written}"));
    }
    let layer = standing()
        .dir_with("run", &Meta { mode: 0o700, uid: 7, gid: 8, ..Meta::default() })
        .dir_with("tmp", &Meta::mode(0o1777))
        .dir("tmp/old")
        .file("tmp/old/file", b"of the image");
    let expected = format!("700 7:8 /run\n1777 0:0 /tmp\nrun:\n\ntmp:\nold\n{written}");
    assert_eq!(printed(with(layer), script, &[]), expected);
    // What is no directory stays as it is.
    let layer = standing().file("tmp", b"a file\n").symlink("run", "nowhere");
    let script = "cat /tmp; readlink /run; (echo >/tmp) 2>/dev/null || echo read-only";
    assert_eq!(printed(with(layer), script, &[]), "a file\nnowhere\nread-only\n");
}

#[test]
fn a_writable_root_takes_writes_and_forgets_them() {
    let script = "pwd; cat /hello 2>/dev/null; echo new >/hello; cat /hello; echo changed >/apps/hello; cat /apps/hello; echo t >/tmp/t; cat /tmp/t";
    // Directories that the image does not have are the runtime's to make.
    for layer in [layer(), standing()] {
        let args = ["--writable", "--workdir", "/made/by/../the-runtime"];
        let first = "/made/the-runtime\nnew\nchanged\nt\n";
        let bench = Bench::new();
        bench.convert(&image(layer, json!({ "Cmd": ["/bin/sh", "-c", script] })), "app", &[]);
        for _ in 0..2 {
            let mut mount = mounted(&bench, &args);
            let (_, said, refused) = start(&bench, "runc");
            assert_eq!(said, first, "{refused}");
            let (_, said, refused) = start(&bench, "crun");
            assert_eq!(said, first.replace("runtime\n", "runtime\nnew\n"), "{refused}");
            unmount(&bench);
            mount.ends_well(PATIENCE);
        }
    }
}

#[test]
fn options_replace_what_the_image_says() {
    let host = tempfile::tempdir().unwrap();
    fs::write(host.path().join("file"), "of the host\n").unwrap();
    let directory = host.path().display();
    let script = "echo $A $B $COLDREAD_TEST_C; id; pwd; busybox hostname; cat /given/file /etc/one; echo from the container >/given/new; \
                  (echo >/etc/one) 2>/dev/null || echo read-only; (echo >/ro/x) 2>/dev/null || echo read-only; \
                  echo x >/small/x; cat /small/x; (busybox dd if=/dev/zero of=/small/y bs=1k count=80 2>/dev/null) || echo full; \
                  cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/cpu/cpu.cfs_quota_us";
    let mounts = [
        format!("type=bind,src={directory},dst=/given"),
        format!("type=bind,src={directory}/file,dst=/etc/one,ro"),
        format!("type=bind,src={directory},dst=/ro,readonly"),
        "type=tmpfs,dst=/small,tmpfs-size=64K".to_owned(),
    ];
    // The container's user writes to it.
    fs::set_permissions(host.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let mut args = vec!["--env", "A=given=twice", "--env", "COLDREAD_TEST_C", "--env", "B=", "--user", "app:staff"];
    args.extend(["--workdir", "/apps", "--hostname", "web-1", "--memory-limit", "64M", "--cpus", "0.5"]);
    args.extend(mounts.iter().flat_map(|mount| ["--mount", mount]));
    let expected = "given=twice of this environment\nuid=1000(app) gid=50(staff) groups=50(staff)\n/apps\nweb-1\nof the host\nof the host\n\
                    read-only\nread-only\nx\nfull\n67108864\n50000\n";
    let bench = Bench::new();
    let config = json!({ "Cmd": ["/bin/sh", "-c", script], "Env": ["A=image", "B=image"], "User": "nobody", "WorkingDir": "/nowhere" });
    bench.convert(&image(layer(), config), "app", &[]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_coldread"));
    command.args(["-v", "bundle", "app.cpm", "bundle", "--store", "store"]).args(&args);
    command.current_dir(bench.dir.path()).env_remove("COLDPRESS_KEY").env_remove("COLDPRESS_STORE");
    let mut mount = Mount::by(&bench, command.env("COLDREAD_TEST_C", "of this environment"));
    mount.wait_for("is mounted at");
    for name in RUNTIMES {
        let (code, said, refused) = start(&bench, name);
        assert_eq!((code, said.as_str()), (0, expected), "{name}: {refused}");
        assert_eq!(fs::read_to_string(host.path().join("new")).unwrap(), "from the container\n");
        fs::remove_file(host.path().join("new")).unwrap();
    }
    unmount(&bench);
    mount.ends_well(PATIENCE);
}

#[test]
fn a_server_in_the_container_answers_on_the_hosts_network() {
    let bench = Bench::new();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    // A server that keeps its state in /run and /tmp, as most do.
    let script = "echo $$ >/run/server.pid && mkdir /tmp/www && cp /apps/hello /tmp/www/index.html && \
                  exec busybox httpd -f -p 127.0.0.1:$PORT -h /tmp/www";
    let layer = ["mkdir", "cp"].iter().fold(standing(), |layer, name| layer.symlink(&format!("bin/{name}"), "busybox"));
    bench.convert(&image(layer, json!({ "Cmd": ["/bin/sh", "-c", script] })), "app", &[]);
    let mut mount = mounted(&bench, &["--network", "host", "--env", &format!("PORT={port}")]);
    let mut container = runtime(&bench, "runc").spawn().unwrap();
    let begun = std::time::Instant::now();
    let answer = loop {
        let answer = std::net::TcpStream::connect(("127.0.0.1", port)).and_then(|mut stream| {
            std::io::Write::write_all(&mut stream, b"GET /index.html HTTP/1.0\r\n\r\n")?;
            std::io::read_to_string(stream)
        });
        match answer {
            Ok(answer) => break answer,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("hello from the image\n"), "{answer}");
    let mut kill = Command::new("runc");
    kill.arg("--root").arg(bench.path("runc")).args(["kill", &format!("test-{}-runc", std::process::id()), "KILL"]);
    stdout(&kill.output().unwrap());
    container.wait().unwrap();
    unmount(&bench);
    mount.ends_well(PATIENCE);
}

#[test]
fn options_that_cannot_be_are_refused() {
    let bench = Bench::new();
    bench.convert(&image(layer(), json!({ "Cmd": ["/bin/sh"] })), "app", &[]);
    let refusals: [(&[&str], i32, &str); 9] = [
        (&["--env", "=secret"], 2, "--env: a name is missing"),
        (&["--env", ""], 2, "--env: a name is missing"),
        (&["--env", "COLDREAD_NOT_SET"], 2, "--env COLDREAD_NOT_SET: not set here; use --env COLDREAD_NOT_SET=VALUE"),
        (&["--user", "nobody"], 1, "--user: user `nobody`: the image's /etc/passwd has no such user"),
        (&["--user", "app:wheel"], 1, "--user: user `app:wheel`: the image's /etc/group has no such group"),
        (&["--workdir", "apps"], 2, "not an absolute path"),
        (&["--workdir", "/bin/busybox"], 1, "/bin/busybox of the image: a container needs a directory, not a file"),
        (
            &["--mount", "type=bind,src=/,dst=/bin/busybox"],
            1,
            "/bin/busybox of the image: a container needs a directory, not a file",
        ),
        (&["--host-network", "--network", "none"], 2, "cannot be used with"),
    ];
    for (args, code, message) in refusals {
        let output =
            bench.coldread(&[&["bundle", "app.cpm", "bundle", "--store", "store", "--no-mount"], args].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.code() == Some(code) && said.contains(message) && !said.contains("secret"),
            "{args:?}: {said}"
        );
        assert!(!bench.path("bundle").exists(), "{args:?}");
    }
}
