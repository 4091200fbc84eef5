//! No wait for a service is silent: against real sockets that refuse, that accept and say nothing, and that answer 503, each program says
//! within two seconds what it waits for, since when and until when; and what is logged of all this has no secret in it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::common::{Bench, Image, Layer, Packing};

/// The longest silence that a loaded machine makes of two seconds.
const SILENCE: Duration = Duration::from_millis(3500);
/// What is looked for in logs.
const SECRETS: [&str; 5] = ["SECRETMARK", "TOKENMARK", "PASSWORDMARK", "SIGNATUREMARK", "UEFTU1dPUkRNQVJL"];

/// How a service does not do what it is asked to.
#[derive(Debug, Clone, Copy)]
enum Down {
    Refuses,
    SaysNothing,
    Answers503,
}

/// The address of a service that is down.
fn down(how: Down) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    match how {
        // The port is closed from here on.
        Down::Refuses => drop(listener),
        Down::SaysNothing => drop(std::thread::spawn(move || listener.incoming().collect::<Vec<_>>())),
        Down::Answers503 => drop(std::thread::spawn(move || {
            listener.incoming().flatten().for_each(|client| drop(std::thread::spawn(|| answer_503(client))));
        })),
    }
    address
}

fn answer_503(client: TcpStream) {
    let mut to = client.try_clone().unwrap();
    for line in BufReader::new(client).lines() {
        if line.is_ok_and(|line| line.is_empty()) {
            let _ = to.write_all(b"HTTP/1.1 503 Down\r\ncontent-length: 0\r\n\r\n");
        }
    }
}

/// An image, converted and not, and a key.
fn bench() -> Bench {
    let bench = Bench::new();
    let image = Image::new([Layer::new().file("a", b"hello\n")]);
    image.oci_layout(&bench.path("image"), Packing::Plain);
    bench.convert(&image, "app", &[]);
    bench
}

fn command(bench: &Bench, program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).current_dir(bench.dir.path()).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.env("HOME", bench.dir.path()).env("AWS_EC2_METADATA_DISABLED", "true").env("AWS_REGION", "us-east-1");
    command.env("AWS_ACCESS_KEY_ID", "KEY").env("AWS_SECRET_ACCESS_KEY", "SECRETMARK");
    command.env("AWS_SESSION_TOKEN", "TOKENMARK");
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Runs a program for as long as it takes to report twice, and checks that it did so in time.
fn reports(bench: &Bench, program: &str, args: &[&str], service: &str) {
    let mut child = command(bench, program, args).spawn().unwrap();
    let (mut last, mut found, mut all) = (Instant::now(), 0, String::new());
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        let line = line.unwrap();
        assert!(last.elapsed() < SILENCE, "{args:?}: silent for {:?} before: {line}", last.elapsed());
        last = Instant::now();
        let report = line.split_once(&format!("waiting for {service}")).map(|(_, rest)| rest);
        if let Some(rest) = report {
            assert!(rest.contains(" s; ") && rest.contains(" in ") && rest.ends_with(" s"), "{line}");
            found += 1;
        }
        all = format!("{all}{line}\n");
        if found == 2 {
            break;
        }
    }
    let _ = child.kill();
    let _ = child.wait();
    assert_eq!(found, 2, "{args:?}: {all}");
}

#[test]
fn every_wait_is_reported_within_two_seconds() {
    let bench = bench();
    let (coldpress, coldread) = (env!("CARGO_BIN_EXE_coldpress"), env!("CARGO_BIN_EXE_coldread"));
    std::thread::scope(|scope| {
        for how in [Down::Refuses, Down::SaysNothing, Down::Answers503] {
            let host = down(how);
            let (url, bench) = (format!("http://{host}"), &bench);
            let (registry, manifest) = (format!("docker://{host}/app:v1"), format!("registry {host}"));
            let store = ["--store", "s3://b/p", "--store-endpoint", &url];
            let kms = ["--key", "aws-kms://k", "--kms-endpoint", &url];
            let convert = ["convert", "oci:image", "-o", "new.cpm", "--salt-file", "coldpress.key", "--no-cache"];
            let cases: [(&str, Vec<&str>, &str); 8] = [
                (coldpress, [&convert[..], &store].concat(), "store s3://b/p at "),
                (coldpress, [&convert[..], &kms, &["--store", "other"]].concat(), "the key service of aws-kms://k at "),
                (coldpress, vec!["convert", &registry, "--plain-http", "--store", "other", "-o", "new.cpm"], &manifest),
                (coldpress, [&["verify", "app.cpm"][..], &store].concat(), "store s3://b/p at "),
                (coldpress, [&["scrub", "app.cpm"][..], &store].concat(), "store s3://b/p at "),
                (
                    coldpress,
                    vec!["rewrap", "app.cpm", "--to", "aws-kms://k", "--kms-endpoint", &url, "-o", "new.cpm"],
                    "the key service of aws-kms://k at ",
                ),
                (coldread, [&["cat", "app.cpm", "/a"][..], &store].concat(), "store s3://b/p at "),
                (coldread, vec!["ls", &registry, "--plain-http", "--store", "store"], &manifest),
            ];
            for (program, args, service) in cases {
                let (args, service) = (args.into_iter().map(str::to_owned).collect::<Vec<_>>(), service.to_owned());
                scope.spawn(move || {
                    reports(bench, program, &args.iter().map(String::as_str).collect::<Vec<_>>(), &service);
                });
            }
        }
    });
}

#[test]
fn quiet_is_quiet_and_standard_output_has_no_reports() {
    let bench = bench();
    let url = format!("http://{}", down(Down::SaysNothing));
    let args = ["verify", "app.cpm", "--store", "s3://b/p", "--store-endpoint", &url];
    for (more, wanted) in [(&["--quiet"][..], false), (&["--json"], true)] {
        let mut command = command(&bench, env!("CARGO_BIN_EXE_coldpress"), &[&args[..], more].concat());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(4500));
        child.kill().unwrap();
        let output = child.wait_with_output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(message.contains("waiting for store"), wanted, "{more:?}: {message}");
        assert!(output.stdout.is_empty() && (wanted || message.is_empty()), "{more:?}: {message}");
    }
}

/// `.invalid` never exists (RFC 6761).
#[test]
fn a_host_that_does_not_exist_is_not_waited_for() {
    let bench = bench();
    for args in [
        &["verify", "app.cpm", "--store", "s3://b/p", "--store-endpoint", "https://store.invalid"][..],
        &["convert", "docker://registry.invalid/app", "--store", "store", "-o", "new.cpm"],
    ] {
        let begun = Instant::now();
        let output = command(&bench, env!("CARGO_BIN_EXE_coldpress"), args).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && message.contains(".invalid"), "{message}");
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}: {message}", begun.elapsed());
    }
}

/// Answers one request after the other: a challenge for a token, the token, a redirect with a signature in it, and then nothing but 404.
fn registry_with_tokens() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let here = host.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let here = here.clone();
            std::thread::spawn(move || {
                let mut to = client.try_clone().unwrap();
                let (mut path, mut login) = (String::new(), false);
                for line in BufReader::new(client).lines() {
                    let Ok(line) = line else { return };
                    login |= line.to_ascii_lowercase().starts_with("authorization: bearer");
                    if let Some(target) = line.strip_prefix("GET ") {
                        path = target.to_owned();
                    }
                    if !line.is_empty() {
                        continue;
                    }
                    let challenge = format!("www-authenticate: Bearer realm=\"http://{here}/token\",service=\"s\"\r\n");
                    let location = format!("location: http://{here}/blobs?sig=SIGNATUREMARK\r\n");
                    let (status, headers, body) = match () {
                        () if path.starts_with("/token") => (200, "", r#"{"token":"TOKENMARK"}"#),
                        () if path.starts_with("/blobs") => (404, "", ""),
                        () if login => (307, location.as_str(), ""),
                        () => (401, challenge.as_str(), ""),
                    };
                    let head = format!("HTTP/1.1 {status} X\r\n{headers}content-length: {}\r\n\r\n{body}", body.len());
                    login = false;
                    if to.write_all(head.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    host
}

/// All that is logged by a program at its most talkative level.
fn logged(bench: &Bench, program: &str, args: &[&str]) -> String {
    let mut command = command(bench, program, args);
    command.env("COLDPRESS_LOG", "trace").env("COLDREAD_LOG", "trace").env("RUST_LOG", "trace");
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    child.wait().unwrap();
    for secret in SECRETS {
        assert!(!text.contains(secret), "{secret}: {text}");
    }
    text
}

#[test]
fn logs_say_what_was_asked_of_whom_and_no_secret() {
    let bench = bench();
    let host = registry_with_tokens();
    let login = ["--creds", "user:PASSWORDMARK", "--plain-http"];
    let image = format!("docker://{host}/app:v1");
    let convert = ["convert", image.as_str(), "--store", "store", "-o", "new.cpm"];
    let text = logged(&bench, env!("CARGO_BIN_EXE_coldpress"), &[&convert[..], &login].concat());
    for wanted in [
        "registry login from --creds",
        "request to the registry method=GET host=\"127.0.0.1\" path=\"/v2/app/manifests/v1\" status=401",
        "path=\"/token\" status=200",
        "status=404",
        "took_ms=",
        "attempt=1",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    let url = format!("http://{host}");
    let store = ["verify", "app.cpm", "--store", "s3://b/p", "--store-endpoint", &url];
    let text = logged(&bench, env!("CARGO_BIN_EXE_coldpress"), &store);
    for wanted in [
        "endpoint of the store endpoint=\"http://127.0.0.1:",
        "source=\"--store-endpoint\"",
        "AWS region region=\"us-east-1\" source=\"AWS_REGION or AWS_DEFAULT_REGION\"",
        "AWS credentials sources=[CredentialsEnvVars]",
        "request to the store method=GET host=\"127.0.0.1\"",
        "path=\"/b/p/main/",
        "status=401",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
}

#[test]
fn decisions_of_the_conversion_cache_are_logged() {
    let bench = bench();
    let convert = ["convert", "oci:image", "--store", "store", "-o", "new.cpm", "--cache", "cache"];
    let convert = || logged(&bench, env!("CARGO_BIN_EXE_coldpress"), &convert);
    let text = convert();
    assert!(
        text.contains("conversion cache: miss entry=") && text.contains("conversion cache: written entry="),
        "{text}"
    );
    assert!(convert().contains("conversion cache: hit entry=\"chunks-"), "{}", convert());
}

/// Reads all of a served image by another program; what the server logged.
fn serve(bench: &Bench) -> String {
    let serve = ["serve", "app.cpm", "--nbd", "unix:n.sock", "--cache", "cache", "--fill", "off"];
    let mut command = command(bench, env!("CARGO_BIN_EXE_coldread"), &serve);
    let mut child = command.env("COLDREAD_LOG", "debug").env("COLDREAD_RUN_DIR", bench.path("run")).spawn().unwrap();
    let (mut stderr, mut text) = (BufReader::new(child.stderr.take().unwrap()), String::new());
    while !text.contains("listening for NBD clients") {
        assert_ne!(stderr.read_line(&mut text).unwrap(), 0, "{text}");
    }
    let copied = Command::new("nbdcopy")
        .args(["nbd+unix:///app?socket=n.sock", "copy.img"])
        .current_dir(bench.dir.path())
        .status();
    assert!(copied.unwrap().success());
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    stderr.read_to_string(&mut text).unwrap();
    child.wait().unwrap();
    text
}

#[test]
fn decisions_of_the_disk_cache_and_prefetching_are_logged() {
    let bench = bench();
    let text = serve(&bench);
    for wanted in ["disk cache: miss", "disk cache: written", "chunk chunk=0 from=origin", "prefetch"] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    let text = serve(&bench);
    assert!(text.contains("disk cache: hit") && text.contains("from=disk"), "{text}");
}

#[test]
fn a_filter_chooses_targets_of_the_program_itself() {
    let bench = bench();
    let output = |filter: &str| {
        let mut command = command(&bench, env!("CARGO_BIN_EXE_coldread"), &["cat", "app.cpm", "/a"]);
        let output = command.env("COLDREAD_LOG", filter).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(output("off"), (Some(0), String::new()));
    let (_, text) = output("coldpress::read::device=debug");
    let is_own = |line: &str| line.contains(" DEBUG coldpress::read::device: ");
    assert!(text.lines().count() > 0 && text.lines().all(is_own), "{text}");
    let (code, text) = output("aws_sigv4=trace");
    assert!(code == Some(2) && text.contains("COLDREAD_LOG: `aws_sigv4`: only events of coldpress"), "{text}");
}

#[test]
fn each_line_is_a_json_object_where_that_is_asked_for() {
    let bench = bench();
    let url = format!("http://{}", down(Down::Answers503));
    let args = ["cat", "app.cpm", "/a", "--store", "s3://b/p", "--store-endpoint", &url, "-v", "--log-format", "json"];
    let output = command(&bench, env!("CARGO_BIN_EXE_coldread"), &args).output().unwrap();
    assert_eq!(output.status.code(), Some(4));
    let lines: Vec<serde_json::Value> = std::str::from_utf8(&output.stderr)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    assert!(lines.iter().all(|line| line["timestamp"].is_string() && line["message"].is_string()), "{lines:?}");
    assert!(lines.iter().any(|line| line["message"].as_str().unwrap().starts_with("waiting for store")), "{lines:?}");
    let last = lines.last().unwrap();
    assert_eq!((&last["level"], &last["exit_code"]), (&"ERROR".into(), &4.into()), "{last}");
    assert!(last["message"].as_str().unwrap().contains("given up after"), "{last}");
}
