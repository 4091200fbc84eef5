//! Images in container engines: docker's, buildah's and podman's own builds, run from what was converted; and an engine that fails
//! in every way that a person can meet.
//!
//! Each test has engines of its own, on sockets in its directory.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use coldpress::digest::Sha256;
use serde_json::{Value, json};

use crate::support::common::{Bench, Image, Layer, listing, noise, stdout};

/// Starts within this, or not at all.
const START: Duration = Duration::from_secs(60);

/// Files that lower layers have and upper ones change, replace and remove; hard links, a volume, owners.
const APP: &str = r#"
FROM scratch AS base
ADD busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
RUN mkdir -p /etc /srv/data /srv/gone/deep /var/cache/x && echo one > /srv/data/a && echo two > /srv/data/b \
    && echo x > /srv/gone/deep/x && echo n > /var/cache/x/old && ln /srv/data/a /srv/data/a2 && echo start > /etc/motd

FROM base AS tool
RUN echo "echo tool of \$0" > /tool && chmod 4755 /tool

FROM base
COPY --from=tool /tool /usr/bin/tool
RUN rm /srv/data/b && echo three > /srv/data/c && rm -rf /srv/gone && echo changed >> /etc/motd
RUN rm -rf /var/cache/x && mkdir /var/cache/x && echo n > /var/cache/x/new && chown 1000:1001 /srv/data/a
RUN rm /etc/motd && mkdir /etc/motd && ln -s ../motd /etc/motd/link
ENV GREETING="hello there" LANG=C.UTF-8
LABEL org.example.name="app" org.example.stage="last"
VOLUME ["/data"]
ENTRYPOINT ["/bin/sh", "-c"]
CMD ["echo $GREETING, $(cat /srv/data/a)"]
"#;

/// What a config can have besides.
const SETTINGS: &str = r#"
FROM scratch
ADD busybox /bin/busybox
EXPOSE 80/tcp 53/udp
VOLUME /data /srv/v
STOPSIGNAL SIGUSR1
SHELL ["/bin/sh", "-e", "-c"]
ONBUILD RUN echo x
HEALTHCHECK --interval=5s --retries=2 CMD true
USER 1000:1000
WORKDIR /srv
LABEL a="<&>" b=""
ENTRYPOINT ["/bin/busybox"]
"#;

/// Two equal layers.
const TWICE: &str = "FROM scratch\nADD busybox /a\nADD busybox /a\nADD busybox /b\n";

const EMPTY: &str = "FROM scratch\nENV A=1\n";

/// Runs `program`, which must succeed; what it printed.
fn run(program: &str, args: &[&str]) -> String {
    run_with(program, args, "0")
}

/// As [`run`]; `buildkit` says which builder docker's client takes.
fn run_with(program: &str, args: &[&str], buildkit: &str) -> String {
    let output = Command::new(program).args(args).env("DOCKER_BUILDKIT", buildkit).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}; `make test-tools` installs it"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A build context with the Dockerfile `text`.
fn context(bench: &Bench, name: &str, text: &str) -> String {
    let directory = bench.path(name);
    std::fs::create_dir(&directory).unwrap();
    std::fs::copy("/bin/busybox", directory.join("busybox")).expect("busybox-static; `make test-tools` installs it");
    std::fs::write(directory.join("Dockerfile"), text).unwrap();
    directory.to_str().unwrap().to_owned()
}

/// An engine's process; gone when it is dropped.
pub struct Engine {
    process: Child,
    bench: Bench,
    host: String,
}

impl Engine {
    /// `program` with `args`, in which DIR is its directory.
    fn start(program: &str, args: &str) -> Self {
        let bench = Bench::new();
        let log = std::fs::File::create(bench.path("log")).unwrap();
        let dir = bench.dir.path().to_str().unwrap().to_owned();
        let process = Command::new(program)
            .args(args.replace("DIR", &dir).split_whitespace())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}; `make test-tools` installs it"));
        let (host, started) = (format!("unix://{dir}/socket"), Instant::now());
        let engine = Self { process, bench, host };
        while UnixStream::connect(engine.bench.path("socket")).is_err() {
            let log = || std::fs::read_to_string(engine.bench.path("log")).unwrap_or_default();
            assert!(started.elapsed() < START, "{program} does not start: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
        engine
    }

    /// Docker's own, with `more` options.
    pub fn docker(more: &str) -> Self {
        let base = "--data-root DIR/data --exec-root DIR/exec --pidfile DIR/pid -H unix://DIR/socket --storage-driver overlay2 \
                    --iptables=false --bridge=none ";
        Self::start("dockerd", &(base.to_owned() + more))
    }

    /// Returns its address, as `$DOCKER_HOST` has it.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Debian's client, in the version of its server.
    fn client(&self, args: &[&str]) -> String {
        run("/usr/bin/docker", &[&["-H", &self.host], args].concat())
    }

    /// Builds `text` as the image `name`, and saves it as `NAME.tar`.
    fn build(&self, name: &str, text: &str) {
        self.build_with(name, text, "0");
    }

    fn build_with(&self, name: &str, text: &str, buildkit: &str) {
        let context = context(&self.bench, name, text);
        let args = ["-H", &self.host, "build", "--network=none", "-q", "-t", name, &context];
        run_with("/usr/bin/docker", &args, buildkit);
    }

    fn save(&self, name: &str) {
        self.client(&["save", name, "-o", self.bench.path(&format!("{name}.tar")).to_str().unwrap()]);
    }

    fn coldpress(&self, args: &[&str]) -> Output {
        coldpress(&self.bench, &self.host, &[]).args(args).output().unwrap()
    }

    /// Converts `reference` to `NAME.cpm`; its root digest.
    fn convert(&self, reference: &str, name: &str) -> Value {
        self.convert_with(reference, name, &[])
    }

    fn convert_with(&self, reference: &str, name: &str, options: &[&str]) -> Value {
        let args = ["convert", reference, "--store", "store", "-o", &format!("{name}.cpm"), "--json"];
        let json: Value = serde_json::from_slice(&stdout(&self.coldpress(&[&args, options].concat()))).unwrap();
        json["root_digest"].clone()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // It unmounts what it mounted, and ends what it started.
        let pid = rustix::process::Pid::from_child(&self.process);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.process.wait();
        unmount(&self.bench.path("root/overlay"));
    }
}

/// Where buildah and podman keep what they have, they mount a directory onto itself.
fn unmount(directory: &Path) {
    let _ = Command::new("umount").arg(directory).output();
}

/// A directory that is a mount until it is dropped.
struct Mount(PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        unmount(&self.0);
    }
}

/// `coldpress`, asking the engine at `host`, started by `wrapper`.
fn coldpress(bench: &Bench, host: &str, wrapper: &[&str]) -> Command {
    let program = env!("CARGO_BIN_EXE_coldpress");
    let mut command = Command::new(wrapper.first().unwrap_or(&program));
    command.args(wrapper.iter().skip(1)).args((!wrapper.is_empty()).then_some(program));
    let own = ["COLDPRESS_KEY", "COLDPRESS_STORE", "COLDPRESS_CACHE", "XDG_CACHE_HOME", "HOME"];
    own.into_iter().chain(["DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"]).for_each(|name| _ = command.env_remove(name));
    command.current_dir(bench.dir.path()).env("DOCKER_HOST", host);
    command
}

/// `coldread mount`, until it is dropped.
struct ReadMount {
    process: Child,
    directory: PathBuf,
}

impl ReadMount {
    fn new(bench: &Bench, manifest: &str) -> Self {
        let directory = bench.path(&format!("{manifest}.mount"));
        std::fs::create_dir(&directory).unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_coldread"))
            .args(["mount", manifest, directory.to_str().unwrap()])
            .current_dir(bench.dir.path())
            .env("COLDREAD_RUN_DIR", bench.path("run"))
            .spawn()
            .unwrap();
        let started = Instant::now();
        while std::fs::read_dir(&directory).unwrap().next().is_none() {
            assert!(process.try_wait().unwrap().is_none() && started.elapsed() < START, "it is not mounted");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { process, directory }
    }
}

impl Drop for ReadMount {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.process);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        let _ = self.process.wait();
    }
}

/// The program that the image is for, on what `coldread` mounts with a layer of its own above it, by the runtime that docker has.
fn run_app(bench: &Bench, mount: &ReadMount, config: &Value) -> String {
    let bundle = bench.path("bundle");
    let [root, upper, work] = ["root", "upper", "work"].map(|name| bundle.join(name));
    [&root, &upper, &work].into_iter().for_each(|directory| std::fs::create_dir_all(directory).unwrap());
    let layers = [("lowerdir", &mount.directory), ("upperdir", &upper), ("workdir", &work)];
    let layers = layers.map(|(name, directory)| format!("{name}={}", directory.display())).join(",");
    run("mount", &["-t", "overlay", "-o", &layers, "overlay", root.to_str().unwrap()]);
    let _mounted = Mount(root.clone());
    let words = |name: &str| config["config"][name].as_array().cloned().unwrap_or_default();
    let args = [words("Entrypoint"), words("Cmd")].concat();
    let spec = json!({
        "ociVersion": "1.0.2", "root": { "path": root },
        "process": { "args": args, "env": words("Env"), "cwd": "/", "user": { "uid": 0, "gid": 0 } },
        "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc" }],
        "linux": { "namespaces": [{ "type": "pid" }, { "type": "mount" }] },
    });
    std::fs::write(bundle.join("config.json"), spec.to_string()).unwrap();
    let state = bench.path("runc");
    let name = format!("app-{}", std::process::id());
    run("runc", &["--root", state.to_str().unwrap(), "run", "-b", bundle.to_str().unwrap(), &name])
}

/// What `NAME.cpm` says of the image's config.
fn config_of(bench: &Bench, name: &str) -> Value {
    let json = stdout(&bench.coldpress(&["inspect", &format!("{name}.cpm"), "--json"]));
    serde_json::from_slice::<Value>(&json).unwrap()["config"].take()
}

/// Both are verified, mounted, and equal what the engine itself shows at `expected`; the program runs.
fn check_app(bench: &Bench, name: &str, source: &str, host: &str, expected: &[String]) {
    let manifest = format!("{name}.cpm");
    for how in [["--store", "store"], ["--source", source]] {
        let mut command = coldpress(bench, host, &[]);
        stdout(&command.args([&["verify", &manifest][..], &how].concat()).output().unwrap());
    }
    let mount = ReadMount::new(bench, &manifest);
    let found = shown(&mount.directory);
    let without = |a: &[String], b: &[String]| a.iter().filter(|line| !b.contains(line)).cloned().collect::<Vec<_>>();
    assert_eq!(without(&found, expected), without(expected, &found));
    assert_eq!(run_app(bench, &mount, &config_of(bench, name)), "hello there, one\n");
    let chroot = run("chroot", &[mount.directory.to_str().unwrap(), "/bin/sh", "/usr/bin/tool"]);
    assert_eq!(chroot, "tool of /usr/bin/tool\n");
}

/// Without what engines add to a container, and the times of the directories that have it.
fn shown(root: &Path) -> Vec<String> {
    let added = [".dockerenv", "dev", "proc", "sys", "run", "etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab"];
    let lines = listing(root).into_iter();
    let path = |line: &str| line.split(' ').nth(2).unwrap_or_default().to_owned();
    // The root is the engine's own.
    let own = lines
        .filter(|line| path(line) != "/")
        .filter(|line| !added.iter().any(|name| path(line) == *name || path(line).starts_with(&format!("{name}/"))));
    let timeless = |line: String| match path(&line).as_str() {
        "etc" => line.split('@').next().unwrap_or_default().to_owned(),
        _ => line,
    };
    own.map(timeless).collect()
}

#[test]
fn what_docker_builds_is_converted_from_the_engine_and_runs() {
    check_docker("0");
}

#[test]
fn what_buildkit_builds_is_converted_from_the_engine_and_runs() {
    let engine = check_docker("1");
    let history = engine.client(&["history", "--format", "{{.Comment}}", "app"]);
    assert!(history.contains("buildkit"), "{history}");
}

/// Builds with docker's classic builder or BuildKit.
fn check_docker(buildkit: &str) -> Engine {
    let engine = Engine::docker("");
    engine.build_with("app", APP, buildkit);
    engine.save("app");
    let digest = engine.convert("docker-daemon:app", "app");
    let id = engine.client(&["image", "inspect", "-f", "{{.Id}}", "app"]);
    for reference in ["docker-archive:app.tar", "docker-daemon:app:latest", &format!("docker-daemon:{}", id.trim())] {
        assert_eq!(engine.convert(reference, "other"), digest, "{reference}");
    }
    // What a container of it would have, as docker itself exports that.
    let exported = engine.bench.path("exported");
    std::fs::create_dir(&exported).unwrap();
    engine.client(&["create", "--name", "made", "app"]);
    let tar = engine.bench.path("exported.tar");
    engine.client(&["export", "made", "-o", tar.to_str().unwrap()]);
    run("tar", &["--xattrs", "-xpf", tar.to_str().unwrap(), "-C", exported.to_str().unwrap()]);
    check_app(&engine.bench, "app", "docker-daemon:app", &engine.host, &shown(&exported));
    let left = std::fs::read_dir(engine.bench.path("exported/srv")).unwrap().count();
    assert_eq!(left, 1, "the layers hide nothing");
    engine
}

/// Whatever the config has, and however many layers.
#[test]
fn an_engine_and_what_it_saves_give_the_same_root_digest() {
    let engine = Engine::docker("");
    for (name, text) in [("settings", SETTINGS), ("twice", TWICE)] {
        engine.build(name, text);
        engine.save(name);
        let digest = engine.convert(&format!("docker-daemon:{name}"), name);
        assert_eq!(engine.convert(&format!("docker-archive:{name}.tar"), "saved"), digest, "{name}");
    }
    let config = &config_of(&engine.bench, "settings")["config"];
    assert_eq!(config["Healthcheck"]["Retries"], 2);
    assert_eq!(config["Shell"], json!(["/bin/sh", "-e", "-c"]));
    // docker does not save an image without layers.
    engine.build("empty", EMPTY);
    engine.convert("docker-daemon:empty", "empty");
    assert_eq!(config_of(&engine.bench, "empty")["config"]["Env"][1], "A=1");
}

/// podman tells less of the config than it saves.
#[test]
fn podmans_socket_is_one_of_docker() {
    let docker = Engine::docker("");
    docker.build("settings", SETTINGS);
    docker.save("settings");
    let digest = docker.convert("docker-daemon:settings", "settings");
    let storage = "--root DIR/root --runroot DIR/runroot --storage-driver overlay ";
    let podman = Engine::start("podman", &(storage.to_owned() + "system service --time 0 unix://DIR/socket"));
    let storage = storage.replace("DIR", podman.bench.dir.path().to_str().unwrap());
    let archive = docker.bench.path("settings.tar");
    let args: Vec<&str> = storage.split_whitespace().chain(["load", "-q", "-i", archive.to_str().unwrap()]).collect();
    run("podman", &args);
    // Also where no layer need be read.
    for name in ["first", "again"] {
        assert_eq!(podman.convert_with("docker-daemon:settings", name, &["--cache", "cache"]), digest, "{name}");
    }
}

#[test]
fn an_engine_is_asked_over_tls() {
    let certificates = Bench::new();
    let script = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.pem
        for who in server client; do
            openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=$who -keyout $who.key -out $who.csr
            printf 'subjectAltName=IP:127.0.0.1\\nextendedKeyUsage=serverAuth,clientAuth\\n' > ext
            openssl x509 -req -in $who.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out $who.pem
        done
        mkdir who && cp ca.pem who/ && cp client.pem who/cert.pem && cp client.key who/key.pem && mkdir stranger && cp ca.pem stranger/";
    let output = Command::new("sh").args(["-ec", script]).current_dir(certificates.dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let dir = certificates.dir.path().to_str().unwrap();
    let engine = Engine::docker(&format!(
        "-H tcp://127.0.0.1:{port} --tlsverify --tlscacert {dir}/ca.pem --tlscert {dir}/server.pem --tlskey {dir}/server.key"
    ));
    engine.build("twice", TWICE);
    let ask = |directory: &str, tls: &str| {
        let mut command = coldpress(&engine.bench, &format!("tcp://127.0.0.1:{port}"), &[]);
        command.env("DOCKER_TLS_VERIFY", tls).env("DOCKER_CERT_PATH", certificates.path(directory));
        command.args(["convert", "docker-daemon:twice", "--dry-run"]).output().unwrap()
    };
    stdout(&ask("who", "1"));
    for (directory, tls) in [("stranger", "1"), ("nobody", "1"), ("who", "")] {
        let output = ask(directory, tls);
        assert!(!output.status.success(), "{directory} `{tls}`: {output:?}");
    }
}

/// buildah's chroot isolation needs no engine; what it pushes in either form is the same image.
#[test]
fn what_buildah_builds_is_converted_and_runs() {
    let bench = Bench::new();
    let directory = |name: &str| bench.path(name).to_str().unwrap().to_owned();
    let _mounted = Mount(bench.path("root/overlay"));
    let storage = ["--root", &directory("root"), "--runroot", &directory("runroot"), "--storage-driver", "overlay"];
    let buildah = |args: &[&str]| run("buildah", &[&storage, args].concat());
    buildah(&["bud", "--isolation", "chroot", "--layers", "-q", "-t", "app", &context(&bench, "app", APP)]);
    buildah(&["push", "-q", "app", &format!("oci:{}", directory("image"))]);
    buildah(&["push", "-q", "app", &format!("docker-archive:{}:app:latest", directory("app.tar"))]);
    let digest = bench.convert_from("oci:image", "app", &[])["root_digest"].clone();
    assert_eq!(bench.convert_from("docker-archive:app.tar", "archive", &[])["root_digest"], digest);
    for format in ["zstd", "zstd:chunked"] {
        let name = format.replace(':', "-");
        buildah(&["push", "-q", "--compression-format", format, "app", &format!("oci:{}", directory(&name))]);
        let layers = layers_of(&bench.path(&name));
        let is_zstd = |layer: &Value| {
            let chunked = layer["annotations"]["io.containers.zstd-chunked.manifest-checksum"].is_string();
            layer["mediaType"] == "application/vnd.oci.image.layer.v1.tar+zstd" && chunked == (format == "zstd:chunked")
        };
        assert!(layers.len() > 3 && layers.iter().all(is_zstd), "{layers:?}");
        assert_eq!(bench.convert_from(&format!("oci:{name}"), &name, &[])["root_digest"], digest, "{format}");
    }
    let container = buildah(&["from", "--name", "c", "app"]);
    let merged = buildah(&["mount", container.trim()]);
    let expected = shown_in_overlay(&bench, merged.trim());
    buildah(&["umount", container.trim()]);
    check_app(&bench, "app", "oci:image", "", &expected);
    buildah(&["rm", "-a"]);
}

/// The descriptors of the layers of a layout's one image.
fn layers_of(layout: &Path) -> Vec<Value> {
    let read = |path: PathBuf| serde_json::from_slice::<Value>(&std::fs::read(path).unwrap()).unwrap();
    let index = read(layout.join("index.json"));
    let digest = index["manifests"][0]["digest"].as_str().unwrap().replace(':', "/");
    read(layout.join("blobs").join(digest))["layers"].as_array().unwrap().clone()
}

/// What stands in an overlay's mount; it counts links of its own, so a copy is looked at.
fn shown_in_overlay(bench: &Bench, merged: &str) -> Vec<String> {
    let copy = bench.path("copy");
    std::fs::create_dir(&copy).unwrap();
    let script = "tar -C \"$0\" --xattrs -cf - . | tar -C \"$1\" --xattrs -xpf -";
    run("sh", &["-ec", script, merged, copy.to_str().unwrap()]);
    shown(&copy)
}

/// Saved in both forms, one image.
#[test]
fn what_podman_builds_is_converted_and_runs() {
    let bench = Bench::new();
    let directory = |name: &str| bench.path(name).to_str().unwrap().to_owned();
    let _mounted = Mount(bench.path("root/overlay"));
    let storage = ["--root", &directory("root"), "--runroot", &directory("runroot"), "--storage-driver", "overlay"];
    let podman = |args: &[&str]| run("podman", &[&storage, args].concat());
    podman(&["build", "--isolation", "chroot", "--layers", "-q", "-t", "app", &context(&bench, "app", APP)]);
    podman(&["save", "-q", "--format", "oci-archive", "-o", &directory("app.oci.tar"), "app"]);
    podman(&["save", "-q", "--format", "docker-archive", "-o", &directory("app.tar"), "app"]);
    let digest = bench.convert_from("oci-archive:app.oci.tar", "app", &[])["root_digest"].clone();
    assert_eq!(bench.convert_from("docker-archive:app.tar", "archive", &[])["root_digest"], digest);
    let merged = podman(&["image", "mount", "app"]);
    let expected = shown_in_overlay(&bench, merged.trim());
    podman(&["image", "umount", "app"]);
    check_app(&bench, "app", "oci-archive:app.oci.tar", "", &expected);
}

/// What an engine answers.
enum Reply {
    Says(u16, String),
    /// As docker's own says it.
    Tells(String),
    Sends(Vec<u8>),
    /// The connection ends behind these bytes.
    Loses(Vec<u8>),
}

/// An engine that answers as it is told.
struct Fake {
    host: String,
    streams: Arc<AtomicUsize>,
}

impl Fake {
    /// `save` says what becomes of the n-th stream.
    fn start(
        bench: &Bench,
        name: &str,
        inspect: impl Fn() -> Reply + Send + Sync + 'static,
        save: impl Fn(usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let socket = bench.path(name);
        let (listener, streams) = (UnixListener::bind(&socket).unwrap(), Arc::<AtomicUsize>::default());
        let count = Arc::clone(&streams);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let mut client = client.unwrap();
                let mut path = String::new();
                let mut lines = BufReader::new(client.try_clone().unwrap()).lines();
                while let Some(Ok(line)) = lines.next().filter(|line| line.as_ref().is_ok_and(|line| !line.is_empty()))
                {
                    path.push_str(line.strip_prefix("GET ").unwrap_or_default());
                }
                let reply = match path.split(' ').next() {
                    Some(path) if path.ends_with("/get") => save(count.fetch_add(1, Ordering::Relaxed)),
                    _ => inspect(),
                };
                let _ = answer(&mut client, &reply);
            }
        });
        Self { host: format!("unix://{}", socket.display()), streams }
    }
}

fn answer(client: &mut UnixStream, reply: &Reply) -> std::io::Result<()> {
    match reply {
        Reply::Says(status, body) => {
            write!(client, "HTTP/1.1 {status} S\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len())
        }
        Reply::Tells(body) => {
            let head = "HTTP/1.1 200 OK\r\nserver: Docker/20.10 (linux)\r\nconnection: close\r\ncontent-length:";
            write!(client, "{head} {}\r\n\r\n{body}", body.len())
        }
        Reply::Sends(bytes) | Reply::Loses(bytes) => {
            write!(client, "HTTP/1.1 200 OK\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n")?;
            for piece in bytes.chunks(32 << 10) {
                write!(client, "{:x}\r\n", piece.len())?;
                client.write_all(piece)?;
                client.write_all(b"\r\n")?;
            }
            if matches!(reply, Reply::Sends(_)) { client.write_all(b"0\r\n\r\n") } else { Ok(()) }
        }
    }
}

fn small() -> Image {
    let base = Layer::new().dir("etc").file("etc/motd", b"hello\n").file("etc/noise", &noise(300_000, 1));
    Image::new([base, Layer::new().whiteout("etc/motd").file("etc/more", &noise(100_000, 2))])
}

/// What an engine says of `image`.
fn said(image: &Image) -> Value {
    let config: Value = serde_json::from_slice(&image.config_json()).unwrap();
    json!({
        "Id": Sha256::of(&image.config_json()).to_string(), "Os": "linux", "Architecture": "amd64", "Config": config["config"],
        "RootFS": { "Layers": config["rootfs"]["diff_ids"] },
    })
}

/// What an engine sends of `image`.
fn sent(bench: &Bench, image: &Image, old: bool) -> Vec<u8> {
    let file = bench.path(if old { "old.tar" } else { "new.tar" });
    std::fs::read(image.docker_archive(&file, old)).unwrap()
}

/// Taken up where it was, in both forms.
#[test]
fn a_connection_that_was_lost_is_made_again() {
    let bench = Bench::new();
    let image = small();
    let expected = bench.convert(&image, "app", &[])["root_digest"].clone();
    for old in [true, false] {
        let (told, bytes) = (said(&image).to_string(), sent(&bench, &image, old));
        let lose = move |n| match n {
            0 => Reply::Loses(bytes[..50_000].to_vec()),
            1 => Reply::Loses(bytes[..350_000].to_vec()),
            _ => Reply::Sends(bytes.clone()),
        };
        let fake = Fake::start(&bench, &format!("{old}.socket"), move || Reply::Says(200, told.clone()), lose);
        let args = ["convert", "docker-daemon:app", "--dry-run", "--json"];
        let json = stdout(&coldpress(&bench, &fake.host, &[]).args(args).output().unwrap());
        assert_eq!(serde_json::from_slice::<Value>(&json).unwrap()["root_digest"], expected);
        assert_eq!(fake.streams.load(Ordering::Relaxed), 3);
    }
}

/// The image is not exported anew; where the engine tells the config only with it, nothing is kept of it.
#[test]
fn layers_that_are_known_are_not_asked_for() {
    let bench = Bench::new();
    let image = small();
    for (docker, streams) in [(true, 1), (false, 2)] {
        let (told, bytes) = (said(&image).to_string(), sent(&bench, &image, false));
        let tell = move || if docker { Reply::Tells(told.clone()) } else { Reply::Says(200, told.clone()) };
        let fake = Fake::start(&bench, &format!("{docker}.socket"), tell, move |_| Reply::Sends(bytes.clone()));
        let cache = format!("{docker}.cache");
        let args = ["convert", "docker-daemon:app", "--store", "store", "-o", "app.cpm", "--json", "--cache", &cache];
        let convert = || {
            let json = stdout(&coldpress(&bench, &fake.host, &[]).args(args).output().unwrap());
            serde_json::from_slice::<Value>(&json).unwrap()["root_digest"].clone()
        };
        assert_eq!(convert(), convert());
        assert_eq!(fake.streams.load(Ordering::Relaxed), streams);
    }
}

/// Named after what is wrong.
type Case = (
    &'static str,
    Box<dyn Fn() -> Reply + Send + Sync>,
    Box<dyn Fn(usize) -> Reply + Send + Sync>,
    &'static [&'static str],
);

/// All that a person can meet; paths are made equal. Nothing is left, and nothing is taken for a whole image.
#[test]
fn messages_of_engines_are_as_they_were_read_last() {
    let bench = Bench::new();
    let image = small();
    let (whole, told) = (sent(&bench, &image, true), said(&image));
    let tell = |value: &Value| -> Box<dyn Fn() -> Reply + Send + Sync> {
        let text = value.to_string();
        Box::new(move || Reply::Says(200, text.clone()))
    };
    let send = |bytes: Vec<u8>| -> Box<dyn Fn(usize) -> Reply + Send + Sync> {
        Box::new(move |_| Reply::Sends(bytes.clone()))
    };
    let none = || -> Box<dyn Fn(usize) -> Reply + Send + Sync> { Box::new(|_| Reply::Says(500, String::new())) };
    let says = |status, text: &'static str| -> Box<dyn Fn() -> Reply + Send + Sync> {
        Box::new(move || Reply::Says(status, text.to_owned()))
    };
    let changed = |edit: fn(&mut Value)| {
        let mut value = told.clone();
        edit(&mut value);
        tell(&value)
    };
    let mut damaged = whole.clone();
    damaged[100_000] ^= 1;
    let mut other = small();
    other.layers.remove(1);
    let config = image.config_json().len().next_multiple_of(512);
    let broken =
        [&whole[..512 + config], br#"{"errorDetail":{"message":"no space left"},"error":"no space left"}"#].concat();
    let (half, lost) = (whole[..200_000].to_vec(), whole[..200_000].to_vec());
    let cases: Vec<Case> = vec![
        ("no such image", says(404, r#"{"message":"No such image: app:latest"}"#), none(), &[]),
        ("no name", says(400, r#"{"message":"invalid reference format"}"#), none(), &[]),
        ("not allowed", says(403, r#"{"message":"authorization denied by plugin x"}"#), none(), &[]),
        ("an engine that fails", says(500, r#"{"message":"layer store is broken"}"#), none(), &[]),
        ("not an engine", says(200, "<html>hello</html>"), none(), &[]),
        ("an id that is a path", changed(|value| value["Id"] = "../../x".into()), none(), &[]),
        ("a layer without a digest", changed(|value| value["RootFS"]["Layers"][0] = "one".into()), none(), &[]),
        ("another platform", tell(&told), none(), &["--platform", "linux/arm64"]),
        ("an image that is gone", tell(&told), Box::new(|_| Reply::Says(404, "{}".to_owned())), &[]),
        ("an export that fails", tell(&told), Box::new(|_| Reply::Says(500, r#"{"message":"no space"}"#.into())), &[]),
        ("a connection lost each time", tell(&told), Box::new(move |_| Reply::Loses(lost.clone())), &[]),
        ("a stream cut short", tell(&told), send(half), &[]),
        ("an export that breaks off", tell(&told), send(broken), &[]),
        ("no tar", tell(&told), send(vec![b'x'; 2048]), &[]),
        ("a damaged layer", tell(&told), send(damaged), &[]),
        ("another image", tell(&told), send(sent(&bench, &other, true)), &[]),
        (
            "the image config changed while it was exported",
            {
                let text = changed_text(&told);
                Box::new(move || Reply::Tells(text.clone()))
            },
            send(whole.clone()),
            &[],
        ),
        ("a stream of more than is allowed", tell(&told), send(whole.clone()), &["--max-size", "100KiB"]),
    ];
    std::fs::create_dir(bench.path("temp")).unwrap();
    let ended = std::thread::scope(|scope| {
        let run = |(number, (name, inspect, save, options)): (usize, Case)| {
            let directory = bench.path(&number.to_string());
            std::fs::create_dir(&directory).unwrap();
            let fake = Fake::start(&bench, &format!("{number}/socket"), inspect, save);
            let bench = &bench;
            (name, scope.spawn(move || convert_quietly(bench, &fake.host, &[], options)))
        };
        let running: Vec<_> = cases.into_iter().enumerate().map(run).collect();
        running.into_iter().map(|(name, thread)| (name, thread.join().unwrap())).collect::<Vec<_>>()
    });
    let dead = bench.path("dead");
    drop(UnixListener::bind(&dead).unwrap());
    // Anyone may go where it is, but not use it.
    let open =
        |path: &Path, mode| std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    open(bench.dir.path(), 0o755);
    std::os::unix::fs::chown(bench.path("coldpress.key"), Some(65_534), None).unwrap();
    let closed = Fake::start(&bench, "closed", says(500, ""), none());
    open(&bench.path("closed"), 0o600);
    let nobody = ["setpriv", "--reuid=65534", "--clear-groups", "--"];
    let hosts = [
        ("no engine", format!("unix://{}", bench.path("nowhere").display()), &[][..]),
        ("an engine that ended", format!("unix://{}", dead.display()), &[]),
        ("no right to ask", closed.host.clone(), &nobody),
        ("ssh", "ssh://me@build.example".to_owned(), &[]),
        ("another machine without TLS", "tcp://build.example:2375".to_owned(), &[]),
        ("a path without a scheme", "/var/run/docker.sock".to_owned(), &[]),
    ];
    let hosts = hosts.into_iter().map(|(name, host, wrapper)| (name, convert_quietly(&bench, &host, wrapper, &[])));
    let mut text = String::new();
    let count = ended.len();
    for (name, output) in ended.into_iter().chain(hosts) {
        let error = String::from_utf8(output.stderr).unwrap().replace(bench.dir.path().to_str().unwrap(), "DIR");
        // Each engine has a directory of its own.
        let error = (0..count).fold(error, |error, n| error.replace(&format!("DIR/{n}/"), "DIR/"));
        text.push_str(&format!("{name}\n{error}[exit {}]\n\n", output.status.code().unwrap()));
        assert!(!bench.path("app.cpm").exists(), "{name}");
    }
    assert_eq!(std::fs::read_dir(bench.path("temp")).unwrap().count(), 0);
    insta::assert_snapshot!("messages", text);
}

/// What docker would say of an image with another environment.
fn changed_text(told: &Value) -> String {
    let mut told = told.clone();
    told["Config"]["Env"][0] = "A=other".into();
    told.to_string()
}

fn convert_quietly(bench: &Bench, host: &str, wrapper: &[&str], options: &[&str]) -> Output {
    let args = [
        "convert",
        "docker-daemon:app",
        "--store",
        "store",
        "-o",
        "app.cpm",
        "--temp",
        "temp",
        "--threads",
        "2",
        "--quiet",
    ];
    coldpress(bench, host, wrapper).args(args).args(options).output().unwrap()
}
