//! Registries: images pulled from a real one, whole or not at all, and block manifests put beside them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use coldpress::digest::Sha256;
use serde_json::{Value, json};

use crate::kernel::Mount;
use crate::support::common::{Bench, Image, Layer, Packing, noise, stdout};
use crate::support::servers::{Answering, Fault, Proxy, free_port, python, wait_for};

const USER: (&str, &str) = ("someone", "a password: with colons");

/// `docker-registry`, Debian's build of the reference implementation, on loopback; gone when it is dropped.
struct Registry {
    running: Vec<Child>,
    host: String,
    bench: Bench,
}

#[derive(Clone, Copy, PartialEq)]
enum Asks {
    Nothing,
    Password,
    /// A token for each request, which anyone gets to pull.
    Token,
}

impl Registry {
    fn start(asks: Asks, tls: bool) -> Self {
        let (bench, port) = (Bench::new(), free_port());
        let mut running = Vec::new();
        let text = |name: &str| bench.path(name).to_str().unwrap().to_owned();
        let mut config = json!({
            "version": "0.1",
            "storage": { "filesystem": { "rootdirectory": text("registry") } },
            "http": { "addr": format!("127.0.0.1:{port}"), "secret": "of this test" },
        });
        if tls || asks == Asks::Token {
            certificates(&bench);
        }
        if tls {
            config["http"]["tls"] = json!({ "certificate": text("server.pem"), "key": text("server.key") });
        }
        match asks {
            Asks::Nothing => {}
            Asks::Password => {
                let entry = Command::new("htpasswd").args(["-Bbn", USER.0, USER.1]).output().unwrap();
                fs::write(bench.path("htpasswd"), stdout(&entry)).unwrap();
                config["auth"] = json!({ "htpasswd": { "realm": "test", "path": text("htpasswd") } });
            }
            Asks::Token => {
                let token_port = free_port();
                let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tools/token_server.py");
                let server = Command::new(python("python"))
                    .arg(script)
                    .args([&token_port.to_string(), &text("server.key"), &text("server.pem"), USER.0, USER.1])
                    .spawn();
                running.push(server.unwrap());
                wait_for(token_port);
                config["auth"] = json!({ "token": {
                    "realm": format!("http://127.0.0.1:{token_port}/token"), "service": "test", "issuer": "test",
                    "rootcertbundle": text("server.pem"),
                }});
            }
        }
        // YAML has JSON in it.
        fs::write(bench.path("registry.yml"), config.to_string()).unwrap();
        let log = fs::File::create(bench.path("registry.log")).unwrap();
        let server = Command::new("docker-registry")
            .args(["serve", "registry.yml"])
            .current_dir(bench.dir.path())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        running.push(server.expect("docker-registry is installed (make test-tools)"));
        wait_for(port);
        Self { running, host: format!("127.0.0.1:{port}"), bench }
    }

    /// Pushes the OCI layout `NAME` as `NAME:v1`, by skopeo; its manifest's digest.
    fn push(&self, name: &str) -> Sha256 {
        self.push_as(name, &["--preserve-digests"]);
        let index: Value =
            serde_json::from_slice(&fs::read(self.bench.path(name).join("index.json")).unwrap()).unwrap();
        index["manifests"][0]["digest"].as_str().unwrap().parse().unwrap()
    }

    fn push_as(&self, name: &str, how: &[&str]) {
        let target = format!("docker://{}/{name}:v1", self.host);
        let creds = format!("{}:{}", USER.0, USER.1);
        let output = Command::new("skopeo")
            .args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", "--dest-creds", &creds])
            .args(how)
            .args([&format!("oci:{name}:latest"), &target])
            .current_dir(self.bench.dir.path())
            .output()
            .expect("skopeo is installed (make test-tools)");
        stdout(&output);
    }

    /// Puts an index of `manifests` beside the image `app`.
    fn put_index(&self, tag: &str, manifests: &[Value]) {
        let media_type = "application/vnd.oci.image.index.v1+json";
        let index = json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": manifests }).to_string();
        let put = Command::new(python("python"))
            .args(["-c", "import sys, urllib.request as u\nu.urlopen(u.Request(sys.argv[1], sys.argv[2].encode(), {'Content-Type': sys.argv[3]}, method='PUT'))"])
            .args([&format!("http://{}/v2/app/manifests/{tag}", self.host), &index, media_type])
            .output();
        stdout(&put.unwrap());
    }

    /// What an index says of the manifest of the layout `name`.
    fn entry(&self, name: &str, architecture: &str) -> Value {
        let digest = self.push(name);
        let manifest = self.bench.path(name).join("blobs/sha256").join(digest.to_hex());
        json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest.to_string(),
            "size": fs::metadata(manifest).unwrap().len(), "platform": { "os": "linux", "architecture": architecture },
        })
    }

    /// How often the registry served `what`.
    fn served(&self, what: &str) -> usize {
        let log = fs::read_to_string(self.bench.path("registry.log")).unwrap();
        log.lines()
            .filter(|line| line.contains(&format!("\"GET /v2/{what}")) || line.contains(&format!("\"GET {what}")))
            .count()
    }

    fn convert(&self, reference: &str, name: &str, options: &[&str]) -> Output {
        let output = format!("{name}.cpm");
        let args = ["convert", reference, "--store", "store", "-o", &output, "--json"];
        self.bench.coldpress(&[&args[..], options].concat())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        for process in &mut self.running {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// An authority (ca.pem), and a server's certificate by it.
pub fn certificates(bench: &Bench) {
    let openssl = |args: &str| {
        let output = Command::new("openssl").args(args.split(' ')).current_dir(bench.dir.path()).output();
        stdout(&output.expect("openssl is installed (make test-tools)"));
    };
    openssl("req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=test-authority");
    openssl("req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=127.0.0.1");
    fs::write(bench.path("san"), "subjectAltName=IP:127.0.0.1,DNS:localhost\n").unwrap();
    openssl("x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile san -out server.pem");
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&stdout(output)).unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn base() -> Layer {
    Layer::new().file("bin/app", &noise(900_000, 1)).file("etc/os", b"one").file("lib/x", &noise(600_000, 2))
}

fn image() -> Image {
    Image::new([base(), Layer::new().whiteout("etc/os").file("opt/y", &noise(40_000, 3))])
}

fn root_digest(image: &Image) -> Value {
    Bench::new().convert(image, "app", &[])["root_digest"].clone()
}

const PLAIN: [&str; 1] = ["--plain-http"];

#[test]
fn an_image_is_the_same_from_a_registry_as_from_a_layout() {
    let registry = Registry::start(Asks::Nothing, false);
    for (name, packing) in [("team/gzip", Packing::Gzip), ("zstd", Packing::Zstd), ("plain", Packing::Plain)] {
        image().oci_layout(&registry.bench.path(name), packing);
        let digest = registry.push(name);
        for what in [":v1".to_owned(), format!("@{digest}"), format!(":v1@{digest}")] {
            let reference = format!("docker://{}/{name}{what}", registry.host);
            let report = report(&registry.convert(&reference, "app", &PLAIN));
            assert_eq!(report["root_digest"], root_digest(&image()), "{reference}");
            assert_eq!(report["source_digest"], digest.to_string());
        }
    }
    image().oci_layout(&registry.bench.path("schema2"), Packing::Gzip);
    registry.push_as("schema2", &["--format", "v2s2"]);
    let schema2 = report(&registry.convert(&format!("docker://{}/schema2:v1", registry.host), "app", &PLAIN));
    assert_eq!(schema2["root_digest"], root_digest(&image()));
    let reference = format!("docker://{}/zstd:v1", registry.host);
    let verified = registry.bench.coldpress(&["verify", "app.cpm", "--source", &reference, "--plain-http"]);
    stdout(&verified);
}

#[test]
fn an_index_of_two_platforms_gives_the_one_that_is_asked_for() {
    let registry = Registry::start(Asks::Nothing, false);
    let one = |architecture: &'static str| {
        let layer = Layer::new().file("arch", architecture.as_bytes());
        Image { architecture, ..Image::new([base(), layer]) }
    };
    let mut manifests = Vec::new();
    for architecture in ["amd64", "arm64"] {
        // In one repository, as an index wants it.
        one(architecture).oci_layout(&registry.bench.path("app"), Packing::Gzip);
        manifests.push(registry.entry("app", architecture));
        fs::remove_dir_all(registry.bench.path("app")).unwrap();
    }
    registry.put_index("both", &manifests);
    let reference = format!("docker://{}/app:both", registry.host);
    for (architecture, manifest) in ["amd64", "arm64"].into_iter().zip(&manifests) {
        let platform = format!("linux/{architecture}");
        let options = ["--plain-http", "--platform", &platform, "--push", &reference];
        let report = report(&registry.convert(&reference, "app", &options));
        assert_eq!(report["root_digest"], root_digest(&one(architecture)), "{architecture}");
        // Its block manifest stands beside its own manifest.
        let own = format!("docker://{}/app@{}", registry.host, manifest["digest"].as_str().unwrap());
        let inspected = registry.bench.coldpress(&["inspect", &own, "--plain-http", "--json"]);
        assert_eq!(self::report(&inspected)["root_digest"], report["root_digest"]);
    }
    for architecture in ["amd64", "arm64"] {
        let platform = format!("linux/{architecture}");
        let based = ["convert", &reference, "--plain-http", "--dry-run", "--base", &reference, "--json", "--platform"];
        let based = registry.bench.coldpress(&[&based[..], &[&platform]].concat());
        assert_eq!(report(&based)["new_chunks"], 0, "{architecture}");
    }
    let refused = registry.convert(&reference, "x", &["--plain-http", "--platform", "linux/s390x"]);
    assert!(said(&refused).contains("--platform can be one of: linux/amd64, linux/arm64"), "{}", said(&refused));
}

#[test]
fn who_is_asked_for_a_password_finds_it_where_logins_are_kept() {
    for asks in [Asks::Password, Asks::Token] {
        let registry = Registry::start(asks, false);
        let bench = &registry.bench;
        image().oci_layout(&bench.path("app"), Packing::Gzip);
        registry.push("app");
        let reference = format!("docker://{}/app:v1", registry.host);
        let wanted = root_digest(&image());
        let works = |what: &str, output: &Output| assert_eq!(report(output)["root_digest"], wanted, "{what}");
        let creds = format!("{}:{}", USER.0, USER.1);
        let run = |environment: &[(&str, &str)], more: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_coldpress"));
            command.current_dir(bench.dir.path()).env_clear().env("PATH", "/usr/bin:/bin");
            command.args(["convert", &reference, "--json", "--store", "store", "-o", "app.cpm"]).args(PLAIN).args(more);
            command.envs(environment.iter().copied()).output().unwrap()
        };
        works("--creds", &run(&[], &["--creds", &creds]));
        works("$COLDPRESS_CREDS", &run(&[("COLDPRESS_CREDS", &creds)], &[]));
        // As `docker login` writes it.
        let encoded = Command::new(python("python"))
            .args(["-c", "import base64, sys; print(base64.b64encode(sys.argv[1].encode()).decode(), end='')", &creds])
            .output();
        let encoded = String::from_utf8(stdout(&encoded.unwrap())).unwrap();
        let login = json!({ "auths": { &registry.host: { "auth": encoded } } }).to_string();
        for (variable, path, value) in [
            ("HOME", ".docker/config.json", "."),
            ("DOCKER_CONFIG", "docker/config.json", "docker"),
            ("REGISTRY_AUTH_FILE", "auth.json", "auth.json"),
            ("XDG_RUNTIME_DIR", "run/containers/auth.json", "run"),
        ] {
            fs::create_dir_all(bench.path(path).parent().unwrap()).unwrap();
            fs::write(bench.path(path), &login).unwrap();
            works(variable, &run(&[(variable, value)], &[]));
            fs::remove_file(bench.path(path)).unwrap();
        }
        // A credential helper, as docker asks one.
        let helper = bench.path("bin/docker-credential-test");
        fs::create_dir_all(helper.parent().unwrap()).unwrap();
        let answer = json!({ "ServerURL": registry.host, "Username": USER.0, "Secret": USER.1 });
        fs::write(&helper, format!("#!/bin/sh\n[ \"$1\" = get ] && cat >asked && echo '{answer}'\n")).unwrap();
        fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
        let asks_helper = json!({ "credHelpers": { &registry.host: "test" } }).to_string();
        fs::write(bench.path("auth.json"), asks_helper).unwrap();
        let path = format!("{}:/usr/bin:/bin", bench.path("bin").display());
        works("helper", &run(&[("REGISTRY_AUTH_FILE", "auth.json"), ("PATH", &path)], &[]));
        assert!(fs::read_to_string(bench.path("asked")).unwrap().starts_with(&registry.host));

        // Nobody, and somebody else.
        fs::remove_file(bench.path("app.cpm")).unwrap();
        let nobody = run(&[], &[]);
        match asks {
            Asks::Token => works("anyone may pull", &nobody),
            _ => assert!(said(&nobody).contains("denied access without a login"), "{}", said(&nobody)),
        }
        let wrong = run(&[], &["--creds", "someone:else"]);
        assert_eq!(wrong.status.code(), Some(1));
        assert!(said(&wrong).contains("denied access to user"), "{}", said(&wrong));
        assert!(!said(&wrong).contains("else") && !said(&wrong).contains(USER.1));
    }
}

#[test]
fn tls_is_checked_against_the_system_and_what_is_trusted_besides() {
    let registry = Registry::start(Asks::Nothing, true);
    image().oci_layout(&registry.bench.path("app"), Packing::Gzip);
    registry.push("app");
    let reference = format!("docker://{}/app:v1", registry.host);
    let report = report(&registry.convert(&reference, "app", &["--tls-ca", "ca.pem"]));
    assert_eq!(report["root_digest"], root_digest(&image()));
    let refused = registry.convert(&reference, "x", &[]);
    assert!(said(&refused).contains("certificate") && said(&refused).contains("--tls-ca"), "{}", said(&refused));
    assert_eq!(refused.status.code(), Some(1));
}

/// Faults of one kind at some blobs' requests; what a conversion through them comes to.
fn through(
    registry: &Registry,
    options: &[&str],
    fault: impl Fn(usize, &str) -> Fault + Send + Sync + 'static,
) -> (Output, Proxy) {
    let proxy = Proxy::before(&format!("http://{}", registry.host), move |number, method, path| {
        if method == "GET" { fault(number, path) } else { Fault::None }
    });
    let reference = format!("docker://{}/app:v1", proxy.url.strip_prefix("http://").unwrap());
    let output = registry.convert(&reference, "faulty", &[&PLAIN[..], options].concat());
    (output, proxy)
}

#[test]
fn a_registry_that_fails_is_asked_again_and_one_that_lies_is_not_believed() {
    let registry = Registry::start(Asks::Nothing, false);
    image().oci_layout(&registry.bench.path("app"), Packing::Gzip);
    registry.push("app");
    let wanted = root_digest(&image());
    let is_blob = |path: &str| path.contains("/blobs/");
    for (what, fault) in [
        ("cut off in mid-blob", Fault::ShortBody),
        ("dropped", Fault::Drop),
        ("busy", Fault::Status(503)),
        ("too many", Fault::StatusAfter(429, 1)),
    ] {
        let (output, proxy) =
            through(
                &registry,
                &[],
                move |number, path| {
                    if is_blob(path) && number % 3 != 2 { fault.clone() } else { Fault::None }
                },
            );
        assert_eq!(report(&output)["root_digest"], wanted, "{what}");
        assert!(proxy.seen().iter().any(|seen| seen.fault != Fault::None), "{what}");
    }
    // What came before the connection ended is not asked for again.
    let (output, proxy) =
        through(
            &registry,
            &[],
            move |number, path| if is_blob(path) && number < 6 { Fault::ShortBody } else { Fault::None },
        );
    stdout(&output);
    assert!(proxy.seen().iter().any(|seen| seen.status == 206), "{:?}", proxy.seen());
    // Nor is the wait that was asked for cut short.
    let started = Instant::now();
    let (output, _) =
        through(&registry, &[], |number, _| if number == 0 { Fault::StatusAfter(429, 3) } else { Fault::None });
    stdout(&output);
    assert!(started.elapsed() >= Duration::from_secs(3));

    fs::remove_file(registry.bench.path("faulty.cpm")).unwrap();
    let layer = Sha256::of(&Packing::Gzip.pack(&base().tar())).to_string();
    for (what, fault, word) in [
        ("wrong bytes", Fault::WrongByte, "its digest is"),
        ("too long", Fault::MoreBytes, "its descriptor says"),
        ("too short", Fault::FewerBytes, "its descriptor says"),
    ] {
        let spoilt = layer.clone();
        let (output, _) =
            through(&registry, &[], move |_, path| if path.contains(&spoilt) { fault.clone() } else { Fault::None });
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{what}: {said}");
        assert!(said.contains(&layer), "{what}: {said}");
        assert!(
            said.contains(word) || said.contains("DiffID") || said.contains("corrupt gzip stream"),
            "{what}: {said}"
        );
        assert!(!registry.bench.path("faulty.cpm").exists());
    }
    let (output, _) =
        through(&registry, &[], |_, path| if path.contains("/manifests/") { Fault::WrongByte } else { Fault::None });
    assert_ne!(output.status.code(), Some(0));
}

#[test]
fn a_layer_that_is_known_is_not_pulled() {
    let registry = Registry::start(Asks::Nothing, false);
    let with = |version: &[u8]| Image::new([base(), Layer::new().file("v", version)]);
    for (name, version) in [("one", b"1"), ("two", b"2")] {
        with(version).oci_layout(&registry.bench.path(name), Packing::Gzip);
        registry.push(name);
    }
    let cached = ["--plain-http", "--cache", "cache"];
    stdout(&registry.convert(&format!("docker://{}/one:v1", registry.host), "one", &cached));
    let report = report(&registry.convert(&format!("docker://{}/two:v1", registry.host), "two", &cached));
    assert_eq!(report["root_digest"], root_digest(&with(b"2")));
    let base = Sha256::of(&Packing::Gzip.pack(&base().tar()));
    let top = Sha256::of(&Packing::Gzip.pack(&Layer::new().file("v", b"2").tar()));
    assert_eq!(registry.served(&format!("one/blobs/{base}")), 1);
    assert_eq!(registry.served(&format!("two/blobs/{base}")), 0, "the base layer is known");
    assert_eq!(registry.served(&format!("two/blobs/{top}")), 1);
}

#[test]
fn a_block_manifest_is_found_by_its_image_s_name() {
    let registry = Registry::start(Asks::Nothing, false);
    let bench = &registry.bench;
    image().oci_layout(&bench.path("app"), Packing::Gzip);
    registry.push("app");
    let repository = format!("docker://{}/app", registry.host);
    let tagged = format!("{repository}:v1");
    let first = report(&registry.convert(&tagged, "app", &["--plain-http", "--push", &repository]));
    assert!(first["artifact"].as_str().unwrap().starts_with("sha256:"));
    let root = first["root_digest"].as_str().unwrap();
    let coldpress = |args: &[&str]| bench.coldpress(&[args, &PLAIN[..]].concat());
    let inspected = report(&coldpress(&["inspect", &tagged, "--json"]));
    assert_eq!(inspected["root_digest"], root);
    stdout(&coldpress(&["verify", &tagged, "--store", "store", "--source", &tagged]));
    let read = bench.coldread(&["cat", &tagged, "opt/y", "--store", "store", "--plain-http"]);
    assert_eq!(stdout(&read), noise(40_000, 3));

    // Another of the same image: which is meant must be said.
    let other = report(&registry.convert(&tagged, "other", &["--plain-http", "--push", &tagged, "--scope", "other"]));
    let other = other["root_digest"].as_str().unwrap();
    let both = said(&coldpress(&["inspect", &tagged]));
    assert!(both.contains("--expect") && both.contains(root) && both.contains(other), "{both}");
    for wanted in [root, other] {
        assert_eq!(report(&coldpress(&["inspect", &tagged, "--json", "--expect", wanted]))["root_digest"], wanted);
    }
    // The image's tag is still the image's; a tag of its own leads to the block manifest.
    let own = format!("{repository}:v1.cpm");
    report(&registry.convert(&tagged, "own", &["--plain-http", "--push", &own]));
    assert_eq!(report(&coldpress(&["inspect", &own, "--json"]))["root_digest"], root);
    stdout(&registry.convert(&tagged, "again", &PLAIN));

    // From a form without an OCI manifest, the tag says which image it is.
    image().docker_archive(&bench.path("app.tar"), true);
    report(&registry.convert("docker-archive:app.tar", "archive", &["--plain-http", "--push", &tagged]));
    let unnamed = registry.convert("docker-archive:app.tar", "x", &["--plain-http", "--push", &repository]);
    assert!(said(&unnamed).contains("name its tag"), "{}", said(&unnamed));
    Image::new([Layer::new()]).oci_layout(&bench.path("another"), Packing::Gzip);
    let another = registry.convert("oci:another", "x", &["--plain-http", "--push", &tagged]);
    assert!(said(&another).contains("names another image"), "{}", said(&another));
    assert!(!bench.path("x.cpm").exists());
    let missing = coldpress(&["inspect", &format!("{repository}:v1@sha256:{}", "0".repeat(64))]);
    assert!(said(&missing).contains("no such image"), "{}", said(&missing));
}

#[test]
fn every_command_takes_the_image_s_name_for_its_block_manifest() {
    let registry = Registry::start(Asks::Nothing, false);
    let bench = &registry.bench;
    let with = |version: &[u8]| Image::new([base(), Layer::new().file("etc/version", version)]);
    let mut names = Vec::new();
    for (name, version) in [("one", b"1"), ("two", b"2")] {
        with(version).oci_layout(&bench.path(name), Packing::Gzip);
        registry.push(name);
        let tagged = format!("docker://{}/{name}:v1", registry.host);
        report(&registry.convert(&tagged, name, &["--plain-http", "--push", &tagged]));
        // From here on, there is none but the registry's.
        fs::remove_file(bench.path(&format!("{name}.cpm"))).unwrap();
        names.push(tagged);
    }
    let [one, two] = [&names[0][..], &names[1][..]];
    let chunks = || fs::read_dir(bench.path("store/main")).unwrap().map(|entry| entry.unwrap().path());
    let begun = |program: &str, args: &[&str]| {
        let mut command = Command::new(program);
        command.current_dir(bench.dir.path()).env_remove("HOME").env_remove("COLDPRESS_STORE").args(args);
        command.args(["--store", "store", "--plain-http"]).env("COLDREAD_RUN_DIR", bench.path("run"));
        command
    };
    let press = |args: &[&str]| begun(env!("CARGO_BIN_EXE_coldpress"), args).output().unwrap();
    let read = |args: &[&str]| stdout(&begun(env!("CARGO_BIN_EXE_coldread"), args).output().unwrap());
    stdout(&press(&["verify", one]));
    let differ = press(&["diff", one, two, "--json"]);
    let differ: Value = serde_json::from_slice(&differ.stdout).unwrap();
    assert_eq!(differ["files"][0]["path"], "etc/version", "{differ:#}");
    stdout(&press(&["export", one, "-o", "one.img"]));
    stdout(&press(&["scrub", one, two]));
    stdout(&bench.coldpress(&["keygen", "-o", "other.key"]));
    let rewrap = ["rewrap", one, "--to", "file:other.key", "-o", "other.cpm", "--plain-http"];
    stdout(&bench.coldpress(&rewrap));
    stdout(&press(&["verify", "other.cpm", "--key", "file:other.key"]));
    let lost = chunks().next().unwrap();
    fs::remove_file(lost).unwrap();
    let healed = press(&["convert", "oci:one", "--heal", one, "--json"]);
    assert_eq!(report(&healed)["put_chunks"], 1);
    let based = press(&["convert", "oci:two", "--base", one, "--dry-run", "--json"]);
    assert!(report(&based)["new_chunks"].as_u64() < Some(4), "{based:?}");
    let attached = bench.coldpress(&["profile", "attach", one, "x.profile"]);
    assert!(attached.status.code() == Some(2) && said(&attached).contains("--profile x.profile"), "{attached:?}");

    assert_eq!(read(&["cat", two, "etc/version"]), b"2");
    assert!(String::from_utf8(read(&["ls", one, "bin"])).unwrap().contains("app"));
    assert!(String::from_utf8(read(&["stat", one, "bin/app"])).unwrap().contains("900000"));
    read(&["cp", two, "etc/version", "copied"]);
    assert_eq!(fs::read(bench.path("copied")).unwrap(), b"2");
    read(&["bundle", one, "bundle", "--no-mount"]);
    let recorded = ["profile", "record", two, "-o", "x.profile", "--store", "store", "--plain-http", "--", "cat"];
    let recorded = bench.coldread(&[&recorded[..], &["{}/etc/version"]].concat());
    assert_eq!(stdout(&recorded), b"2");
    let mut mount = Mount::by(bench, &mut begun(env!("CARGO_BIN_EXE_coldread"), &["mount", two, "mnt"]));
    mount.wait_for("is mounted at");
    assert_eq!(fs::read(mount.point.join("etc/version")).unwrap(), b"2");
    drop(mount);
    let socket = format!("unix:{}", bench.path("nbd").display());
    let serve = begun(env!("CARGO_BIN_EXE_coldread"), &["serve", one, two, "--nbd", &socket]).spawn().unwrap();
    let serve = Killed(serve);
    let begun = Instant::now();
    while !bench.path("nbd").exists() {
        assert!(begun.elapsed() < Duration::from_secs(60), "it does not serve");
        std::thread::sleep(Duration::from_millis(20));
    }
    let exported = format!("nbd+unix:///two?socket={}", bench.path("nbd").display());
    let info = Command::new("nbdinfo").arg(&exported).output().expect("nbdinfo is installed (make test-tools)");
    stdout(&info);
    drop(serve);
}

/// A process that ends with the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The fallback tag is for those that have no such API: nothing is written there.
#[test]
fn a_registry_with_the_referrers_api_tells_of_block_manifests_page_by_page() {
    let registry = Registry::start(Asks::Nothing, false);
    let bench = &registry.bench;
    image().oci_layout(&bench.path("app"), Packing::Gzip);
    let digest = registry.push("app");
    let port = free_port();
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tools/referrers.py");
    let server = Command::new(python("python")).arg(script).args([&port.to_string(), &registry.host]).spawn();
    let _server = Killed(server.unwrap());
    wait_for(port);
    let repository = format!("docker://127.0.0.1:{port}/app");
    let tagged = format!("{repository}:v1");
    let push = |scope: &str| {
        let options = ["--plain-http", "--push", &repository, "--scope", scope];
        report(&registry.convert(&tagged, scope, &options))
    };
    let pushed = ["a", "b", "c"].map(push);
    let inspect = |options: &[&str]| bench.coldpress(&[&["inspect", &tagged, "--json"], &PLAIN[..], options].concat());
    let several = said(&inspect(&[]));
    for one in &pushed {
        let root = one["root_digest"].as_str().unwrap();
        assert!(several.contains(root), "{several}");
        assert_eq!(report(&inspect(&["--expect", root]))["root_digest"], root);
    }
    assert_eq!(push("a")["artifact"], pushed[0]["artifact"], "what is there is not put again");
    let fallback = bench.coldpress(&[
        "inspect",
        &format!("docker://{}/app:sha256-{}", registry.host, digest.to_hex()),
        "--plain-http",
    ]);
    assert!(said(&fallback).contains("no such image"), "{}", said(&fallback));
    // As any client of the specification finds it.
    let asked = Command::new("curl")
        .args(["-sf", &format!("http://127.0.0.1:{port}/v2/app/referrers/{digest}")])
        .output()
        .expect("curl is installed (make test-tools)");
    let index: Value = serde_json::from_slice(&stdout(&asked)).unwrap();
    assert_eq!(index["manifests"][0]["artifactType"], "application/vnd.coldpress.block-manifest.v1");
    assert_eq!(index["manifests"][0]["digest"], pushed[0]["artifact"]);
}

#[test]
fn who_may_not_push_hears_it_before_any_work() {
    let registry = Registry::start(Asks::Token, false);
    image().oci_layout(&registry.bench.path("app"), Packing::Gzip);
    registry.push("app");
    let repository = format!("docker://{}/app", registry.host);
    let refused = registry.convert("oci:app", "app", &["--plain-http", "--push", &repository]);
    assert!(said(&refused).contains("denied access without a login"), "{}", said(&refused));
    assert!(fs::read_dir(registry.bench.path("store")).unwrap().count() <= 1, "nothing was put");
    let creds = format!("{}:{}", USER.0, USER.1);
    let report =
        report(&registry.convert("oci:app", "app", &["--plain-http", "--push", &repository, "--creds", &creds]));
    assert!(report["artifact"].is_string());
    stdout(&registry.bench.coldpress(&["inspect", &format!("{repository}:v1"), "--plain-http"]));
}

#[test]
fn several_layers_are_on_their_way_at_a_time_and_no_more() {
    let registry = Registry::start(Asks::Nothing, false);
    let layers = (0..9u8).map(|number| Layer::new().file(&format!("f{number}"), &[number]));
    let image = Image::new(layers);
    image.oci_layout(&registry.bench.path("app"), Packing::Gzip);
    registry.push("app");
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (running, seen) = (Arc::clone(&now), Arc::clone(&most));
    let config = Sha256::of(&image.config_json()).to_string();
    let (output, _) = through(&registry, &[], move |_, path| {
        if path.contains("/blobs/") && !path.contains(&config) {
            seen.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            // None is answered before four are asked for, and then more have time to come.
            let begun = Instant::now();
            while seen.load(Ordering::SeqCst) < 4 && begun.elapsed() < Duration::from_secs(30) {
                std::thread::sleep(Duration::from_millis(10));
            }
            std::thread::sleep(Duration::from_millis(200));
            running.fetch_sub(1, Ordering::SeqCst);
        }
        Fault::None
    });
    stdout(&output);
    assert_eq!(most.load(Ordering::SeqCst), 4);
}

#[test]
fn an_interrupt_while_layers_are_pulled_ends_at_once_and_leaves_nothing() {
    let registry = Registry::start(Asks::Nothing, false);
    let bench = &registry.bench;
    image().oci_layout(&bench.path("app"), Packing::Gzip);
    registry.push("app");
    let slow = Proxy::before(&format!("http://{}", registry.host), |_, _, path| {
        if path.contains("/blobs/") { Fault::Slow(Duration::from_secs(60)) } else { Fault::None }
    });
    fs::create_dir(bench.path("temp")).unwrap();
    let reference = format!("docker://{}/app:v1", slow.url.strip_prefix("http://").unwrap());
    let mut running = Command::new(env!("CARGO_BIN_EXE_coldpress"))
        .args([
            "convert",
            &reference,
            "--plain-http",
            "--store",
            "store",
            "-o",
            "x.cpm",
            "--temp",
            "temp",
            "--cache",
            "cache",
        ])
        .current_dir(bench.dir.path())
        .spawn()
        .unwrap();
    while !slow.seen().iter().any(|seen| seen.path.contains("/blobs/")) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let begun = Instant::now();
    let interrupt = Command::new("kill").args(["-INT", &running.id().to_string()]).status();
    assert!(interrupt.unwrap().success());
    assert!(!running.wait().unwrap().success());
    // The blobs would take a minute.
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_eq!(fs::read_dir(bench.path("temp")).unwrap().count(), 0);
    assert!(!bench.path("x.cpm").exists());
}

#[test]
fn a_proxy_of_the_environment_is_for_registries_elsewhere() {
    let registry = Registry::start(Asks::Nothing, false);
    let bench = &registry.bench;
    image().oci_layout(&bench.path("app"), Packing::Gzip);
    registry.push("app");
    let proxy = Answering::start("127.0.0.1", |_| (502, String::new(), Vec::new()));
    let proxy_url = format!("http://{}", proxy.host);
    let convert = |reference: &str, options: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coldpress"));
        command.current_dir(bench.dir.path()).env_clear().env("https_proxy", &proxy_url).env("http_proxy", &proxy_url);
        command.args(["convert", reference, "--store", "store", "-o", "x.cpm", "-q"]).args(options).output().unwrap()
    };
    // What is asked for in clear, password and all, stays on this machine.
    stdout(&convert(&format!("docker://{}/app:v1", registry.host), &PLAIN));
    assert!(proxy.heads().is_empty());
    let refused = convert("docker://registry.example/app:v1", &[]);
    assert_eq!(refused.status.code(), Some(4), "{}", said(&refused));
    assert!(
        proxy.heads().iter().all(|head| head.starts_with("CONNECT registry.example:443 ")) && !proxy.heads().is_empty()
    );
}

/// A password goes to the registry that it is for, and nowhere that this sends us.
#[test]
fn a_login_goes_to_its_registry_alone() {
    let bench = Bench::new();
    image().oci_layout(&bench.path("app"), Packing::Gzip);
    let thief = Answering::start("127.0.0.1", |head| {
        let host =
            head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("host: ").map(str::to_owned)).unwrap();
        (401, format!("www-authenticate: Bearer realm=\"http://{host}/token\"\r\n"), Vec::new())
    });
    let to = thief.host.clone();
    let registry =
        Answering::start("127.0.0.1", move |head| match head.to_ascii_lowercase().contains("\r\nauthorization: ") {
            false => (401, "www-authenticate: Basic realm=\"x\"\r\n".to_owned(), Vec::new()),
            true if head.starts_with("POST ") => (202, format!("location: http://{to}/upload\r\n"), Vec::new()),
            true if head.starts_with("HEAD ") => (404, String::new(), Vec::new()),
            true => (307, format!("location: http://{to}/elsewhere\r\n"), Vec::new()),
        });
    let creds = format!("{}:{}", USER.0, USER.1);
    let repository = format!("docker://{}/app", registry.host);
    let run = |args: &[&str]| {
        let store = ["--store", "store", "-o", "x.cpm", "--plain-http", "--creds", &creds];
        bench.coldpress(&[&["convert"], args, &store[..]].concat())
    };
    assert!(!run(&[&format!("{repository}:v1")]).status.success());
    assert!(!run(&["oci:app", "--push", &repository]).status.success());
    assert!(registry.heads().iter().any(|head| head.to_ascii_lowercase().contains("authorization: basic")));
    assert!(thief.heads().len() >= 2, "{:?}", thief.heads());
    for head in thief.heads() {
        assert!(!head.to_ascii_lowercase().contains("authorization") && !head.contains("/token"), "{head}");
    }
    // Nor to each of two registries.
    let two = run(&[&format!("{repository}:v1"), "--push", "docker://registry.example/app"]);
    assert_eq!(two.status.code(), Some(2));
    assert!(said(&two).contains("HOST=USER:PASSWORD") && !said(&two).contains(USER.1), "{}", said(&two));
}

#[test]
fn what_a_registry_says_of_sizes_is_bounded_before_anything_is_pulled() {
    let bench = Bench::new();
    let config = image().config_json();
    let descriptor = |size: u64, of: &[u8]| {
        json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "size": size, "digest": Sha256::of(of).to_string(),
        })
    };
    let (small, large) = (1 << 40, 1 << 63);
    for sizes in [[small, 1], [large, large]] {
        let layers: Vec<Value> = sizes.iter().map(|size| descriptor(*size, &size.to_le_bytes())).collect();
        let config_descriptor = json!({
            "mediaType": "application/vnd.oci.image.config.v1+json", "size": config.len(), "digest": Sha256::of(&config).to_string(),
        });
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": media_type, "config": config_descriptor, "layers": layers });
        let (manifest, config) = (manifest.to_string().into_bytes(), config.clone());
        let registry = Answering::start("127.0.0.1", move |head| match head.contains("/manifests/") {
            true => (200, format!("content-type: {media_type}\r\n"), manifest.clone()),
            false => (200, String::new(), config.clone()),
        });
        let reference = format!("docker://{}/app:v1", registry.host);
        let refused = bench.coldpress(&["convert", &reference, "--plain-http", "--store", "store", "-o", "x.cpm"]);
        assert!(said(&refused).contains("more than --max-size"), "{}", said(&refused));
        assert_eq!(registry.heads().len(), 2, "{:?}", registry.heads());
    }
}

#[test]
fn block_manifests_for_several_keys_stand_side_by_side_and_pushers_do_not_lose_one_another_s() {
    let registry = Registry::start(Asks::Nothing, false);
    let bench = &registry.bench;
    image().oci_layout(&bench.path("app"), Packing::Gzip);
    registry.push("app");
    let repository = format!("docker://{}/app", registry.host);
    let tagged = format!("{repository}:v1");
    stdout(&bench.coldpress(&["keygen", "-o", "other.key"]));
    let push = |options: &[&str]| {
        report(&registry.convert(&tagged, "x", &[&["--plain-http", "--push", &repository], options].concat()))
    };
    let first = push(&[]);
    let other = push(&["--key", "file:other.key", "--salt-file", "coldpress.key"]);
    assert_eq!(first["root_digest"], other["root_digest"]);
    assert_ne!(first["artifact"], other["artifact"]);
    for key in ["coldpress.key", "other.key"] {
        let cat = bench.coldread(&[
            "cat",
            &tagged,
            "opt/y",
            "--store",
            "store",
            "--plain-http",
            "--key",
            &format!("file:{key}"),
        ]);
        assert_eq!(stdout(&cat), noise(40_000, 3), "{key}");
    }
    // Each is rewrapped by its own.
    for key in ["coldpress.key", "other.key"] {
        let from = format!("file:{key}");
        let rewrap = ["rewrap", &tagged, "--plain-http", "--key", &from, "--to", "file:coldpress.key", "-o", "y.cpm"];
        stdout(&bench.coldpress(&rewrap));
    }
    // The same again is there already.
    assert_eq!(push(&[])["artifact"], first["artifact"]);
    let running: Vec<Child> = ["a", "b", "c", "d"]
        .iter()
        .map(|scope| {
            Command::new(env!("CARGO_BIN_EXE_coldpress"))
                .args([
                    "convert",
                    &tagged,
                    "--plain-http",
                    "--push",
                    &repository,
                    "--scope",
                    scope,
                    "--store",
                    "store",
                    "--no-cache",
                    "-q",
                ])
                .current_dir(bench.dir.path())
                .spawn()
                .unwrap()
        })
        .collect();
    running.into_iter().for_each(|mut child| assert!(child.wait().unwrap().success()));
    let both = said(&bench.coldpress(&["inspect", &tagged, "--plain-http"]));
    assert_eq!(both.matches("sha256:").count(), 1 + 5, "the image's and five root digests: {both}");
}

/// Bars on a terminal, lines where there is none, nothing where nothing is wanted.
#[test]
fn long_work_says_how_far_it_is() {
    let registry = Registry::start(Asks::Nothing, false);
    let bench = &registry.bench;
    image().oci_layout(&bench.path("app"), Packing::Gzip);
    registry.push("app");
    let slow = Sha256::of(&Packing::Gzip.pack(&base().tar())).to_string();
    let proxy = Proxy::before(&format!("http://{}", registry.host), move |_, _, path| {
        if path.contains(&slow) { Fault::Slow(Duration::from_secs(6)) } else { Fault::None }
    });
    let reference = format!("docker://{}/app:v1", proxy.url.strip_prefix("http://").unwrap());
    let convert = |name: &str, more: &str| {
        let program = env!("CARGO_BIN_EXE_coldpress");
        format!("{program} convert {reference} --plain-http --no-cache --store {name} -o {name}.cpm {more}")
    };
    let on_a_terminal = format!("stty cols 100; {}", convert("terminal", ""));
    let running = [
        ("sh", ["-c", &convert("lines", "")[..], ""]),
        ("sh", ["-c", &convert("quiet", "--quiet")[..], ""]),
        ("script", ["-qec", &on_a_terminal[..], "/dev/null"]),
    ]
    .map(|(program, args)| {
        let mut command = Command::new(program);
        command.args(args).current_dir(bench.dir.path()).env("TERM", "xterm").stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    });
    let [lines, quiet, terminal] = running.map(|child| child.wait_with_output().unwrap());
    let told = said(&lines);
    let line = told.lines().find(|line| line.starts_with("coldpress: layers: ")).expect(&told);
    for word in [" of 1.", " MiB, ", "/s, ", " s left", "; layer 1 "] {
        assert!(line.contains(word), "{word}: {told}");
    }
    assert!(String::from_utf8_lossy(&stdout(&lines)).contains("root digest"));
    assert!(stdout(&quiet).is_empty() && quiet.stderr.is_empty(), "{quiet:?}");
    let drawn = String::from_utf8(stdout(&terminal)).unwrap();
    for word in ["layers ", "layer 1 ", " of 1.", "B/s", " %", "\u{1b}["] {
        assert!(drawn.contains(word), "{word}: {drawn}");
    }
    assert!(drawn.contains("root digest") && !told.contains('\u{1b}'), "{drawn}");
}

/// What a person can meet, word for word.
#[test]
fn messages_of_registries() {
    let (registry, secured, protected) = (
        Registry::start(Asks::Nothing, false),
        Registry::start(Asks::Nothing, true),
        Registry::start(Asks::Password, false),
    );
    image().oci_layout(&registry.bench.path("app"), Packing::Gzip);
    let (amd64, arm64) = (registry.entry("app", "amd64"), registry.entry("app", "arm64"));
    registry.put_index("both", &[amd64, arm64]);
    let nowhere = free_port();
    let host = &registry.host;
    fs::write(registry.bench.path("empty.pem"), "").unwrap();
    fs::write(registry.bench.path("bad.json"), "no JSON").unwrap();
    let cases: Vec<(&str, String, Vec<&str>)> = vec![
        ("no such image", format!("docker://{host}/none:v1"), vec!["--plain-http"]),
        ("no such tag", format!("docker://{host}/app:v2"), vec!["--plain-http"]),
        ("no such platform", format!("docker://{host}/app:v1"), vec!["--plain-http", "--platform", "linux/riscv64"]),
        (
            "no such platform of several",
            format!("docker://{host}/app:both"),
            vec!["--plain-http", "--platform", "linux/riscv64"],
        ),
        ("not a name", "docker://App".to_owned(), vec![]),
        ("not logged in", format!("docker://{}/app:v1", protected.host), vec!["--plain-http"]),
        ("wrong password", format!("docker://{}/app:v1", protected.host), vec!["--plain-http", "--creds", "a:b"]),
        ("no password", format!("docker://{}/app:v1", protected.host), vec!["--plain-http", "--creds", "a"]),
        ("certificate unknown", format!("docker://{}/app:v1", secured.host), vec![]),
        ("no TLS there", format!("docker://{host}/app:v1"), vec![]),
        ("TLS there", format!("docker://{}/app:v1", secured.host), vec!["--plain-http"]),
        ("no certificates", format!("docker://{host}/app:v1"), vec!["--tls-ca", "empty.pem"]),
        ("nothing there", format!("docker://127.0.0.1:{nowhere}/app:v1"), vec!["--plain-http"]),
        ("no block manifest", format!("docker://{host}/app:v1"), vec!["--plain-http", "inspect"]),
    ];
    let mut all = String::new();
    for (what, reference, options) in cases {
        let output = match options.split_last() {
            Some((&"inspect", options)) => registry.bench.coldpress(&[&["inspect", &reference], options].concat()),
            _ => registry.convert(&reference, "x", &options),
        };
        assert!(!output.status.success() && !registry.bench.path("x.cpm").exists(), "{what}");
        let said = said(&output)
            .replace(&secured.host, "SECURED")
            .replace(&protected.host, "PROTECTED")
            .replace(host, "HOST")
            .replace(&nowhere.to_string(), "PORT");
        let said = match said
            .split_once(" after ")
            .and_then(|(before, rest)| Some((before, rest.split_once(" seconds")?.1)))
        {
            Some((before, rest)) => format!("{before} after SOME seconds{rest}"),
            None => said,
        };
        // How often a wait is reported is a matter of chance.
        let said: String = said.split_inclusive('\n').filter(|line| !line.contains(": waiting for ")).collect();
        all += &format!("{what} ({})\n{said}\n", output.status.code().unwrap());
    }
    // A disk that is full: 64 KiB, for a layer of more.
    let small = registry.bench.path("small");
    fs::create_dir(&small).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "none"]).arg(&small).status().unwrap();
    assert!(mounted.success(), "mount (needs root)");
    // One layer, so that it is always the same that does not fit.
    Image::new([base()]).oci_layout(&registry.bench.path("one"), Packing::Gzip);
    registry.push("one");
    let full = registry.convert(&format!("docker://{host}/one:v1"), "x", &["--plain-http", "--temp", "small"]);
    assert!(Command::new("umount").arg(&small).status().unwrap().success());
    all += &format!("disk full ({})\n{}\n", full.status.code().unwrap(), said(&full).replace(host, "HOST"));
    // A cache that may be read alone: a mount says no to root, too.
    let reference = format!("docker://{host}/one:v1");
    stdout(&registry.convert(&reference, "x", &["--plain-http", "--cache", "cache"]));
    let cache = registry.bench.path("cache");
    let mount = |args: &[&str]| assert!(Command::new("mount").args(args).arg(&cache).status().unwrap().success());
    mount(&["--bind", cache.to_str().unwrap()]);
    mount(&["-o", "remount,bind,ro"]);
    let learns_nothing = registry.convert(&reference, "x", &["--plain-http", "--cache", "cache", "--scope", "other"]);
    let none = registry.convert(&reference, "x", &["--plain-http", "--cache", "cache/none"]);
    assert!(Command::new("umount").arg(&cache).status().unwrap().success());
    fs::remove_file(registry.bench.path("x.cpm")).unwrap();
    for (what, output) in [("read-only cache", learns_nothing), ("read-only place for a cache", none)] {
        all += &format!("{what} ({})\n{}\n", output.status.code().unwrap(), said(&output));
    }
    let output = Command::new(env!("CARGO_BIN_EXE_coldpress"))
        .args(["convert", &format!("docker://{host}/app:v1"), "--plain-http", "--store", "store", "-o", "x.cpm"])
        .current_dir(registry.bench.dir.path())
        .env("REGISTRY_AUTH_FILE", "bad.json")
        .env_remove("HOME")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    all += &format!("a broken login file ({})\n{}", output.status.code().unwrap(), said(&output).replace(host, "HOST"));
    // How much of the layer was written when the disk was full is the kernel's affair.
    let (before, rest) = all.split_once(" free, and ").expect("a full disk is explained");
    let (needed, after) = rest.split_once(" is needed").unwrap();
    assert!(needed.ends_with(" MiB"), "{needed}");
    let all = format!("{before} free, and SIZE is needed{after}");
    insta::assert_snapshot!("messages_of_registries", crate::hostile::without_digests(&all));
}
