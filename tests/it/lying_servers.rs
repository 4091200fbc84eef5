//! An S3-like store and a key service that lie. Whatever they answer, the programs end soon, within 500 MB of address space and little
//! memory, with a clear error, or with a right result where the lie does no harm.
//!
//! Lies that only the clock ends are told with COLDPRESS_LYING_SERVERS=all (`make lying-servers`).

use std::io::Write;
use std::net::TcpStream;
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::Value;

use crate::support::common::{Bench, Image, Layer, Packing, noise, stdout};
use crate::support::scripted_servers::{
    Asked, CREDENTIALS, MEMORY, Objects, Server, answer, case, chunked, endless, get, http_chunk, object, put, run,
    slow, stored, trickle, try_all,
};

fn image() -> Image {
    Image::new([Layer::new().file("greeting", b"hello\n").file("noise", &noise(2_000_000, 3))])
}

/// What a store does with an upload.
fn lie_about_puts(
    name: &str,
    to: &mut TcpStream,
    asked: &Asked,
    objects: &Mutex<Objects>,
    n: usize,
    other: &str,
) -> std::io::Result<()> {
    let tag = "etag: \"0\"\r\n";
    match name {
        "ignores the condition" => {
            objects.lock().unwrap().insert(asked.path(), asked.body.clone());
            stored(to)
        }
        "stores nothing" => stored(to),
        "has everything already" => answer(to, 412, "", b""),
        "always conflicts" => answer(to, 409, "", b""),
        "implements nothing" => answer(to, 501, "", b""),
        "long entity tag" => {
            put(to, asked, objects, &format!("etag: \"{}\"\r\nx-amz-checksum-sha256: AAAA\r\n", "A".repeat(3000)))
        }
        "no entity tag" => put(to, asked, objects, ""),
        "endless body" => endless(to, &chunked(200), &http_chunk()),
        "endless error" => endless(to, &chunked(400), &http_chunk()),
        "huge error" => {
            answer(to, 403, "", &[b"<Code>AccessDenied</Code>".to_vec(), vec![b'\xff'; 200 << 20]].concat())
        }
        "slow head" => trickle(to, "HTTP/1.1 200 OK\r\nx: ", std::iter::repeat_n(b'a', 100_000)),
        "endless headers" => endless(to, "HTTP/1.1 200 OK\r\n", &[b"x: ", &[b'a'; 8000][..], b"\r\n"].concat()),
        "endless hints" => endless(to, "", b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"),
        "redirect" => answer(to, 307, &format!("location: http://{other}{}?sig=SECRETMARK\r\n", asked.target), b""),
        "redirect to a region" => answer(to, 301, "x-amz-bucket-region: eu-west-1\r\n", b""),
        "retry after ages" => answer(to, 503, "retry-after: 99999999999999999999\r\n", b""),
        "retry after an age" => answer(
            to,
            503,
            "retry-after: Fri, 31 Dec 9999 23:59:59 GMT\r\ndate: Mon, 01 Jan 1900 00:00:00 GMT\r\n",
            b"",
        ),
        "answers out of order" => {
            std::thread::sleep(Duration::from_millis(u64::from(asked.path().bytes().last().unwrap()) * 3 % 200));
            put(to, asked, objects, tag)
        }
        "loses answers" => {
            let new = !objects.lock().unwrap().contains_key(&asked.path());
            objects.lock().unwrap().entry(asked.path()).or_insert_with(|| asked.body.clone());
            match (new, n % 3) {
                (true, 0) => Err(std::io::ErrorKind::Other.into()),
                _ => answer(to, if new { 200 } else { 412 }, tag, b""),
            }
        }
        "answers twice" => {
            put(to, asked, objects, tag)?;
            stored(to)
        }
        _ => unreachable!("{name}"),
    }
}

#[test]
fn a_store_that_lies_about_uploads() {
    let cases = [
        case("ignores the condition", 0, &["warning", "ignores If-None-Match"]),
        case("stores nothing", 0, &[]),
        case("has everything already", 0, &[]),
        slow("always conflicts", 4, &["409", "given up after"]),
        case("implements nothing", 1, &["501"]),
        case("long entity tag", 0, &[]),
        case("no entity tag", 0, &[]),
        case("endless body", 0, &[]),
        case("endless error", 1, &["answered 400"]),
        case("huge error", 1, &["answered 403 (AccessDenied)"]),
        slow("slow head", 4, &["given up after"]),
        case("endless headers", 4, &["head is too large"]),
        slow("endless hints", 4, &["given up after"]),
        case("redirect", 1, &["answered 307 and redirects to 127.0.0.1:", "not followed"]),
        case("redirect to a region", 1, &["give --store-region eu-west-1"]),
        slow("retry after ages", 4, &["503", "given up after"]),
        slow("retry after an age", 4, &["503", "given up after"]),
        case("answers out of order", 0, &[]),
        case("loses answers", 0, &[]),
        case("answers twice", 0, &[]),
    ];
    try_all(&cases, |case| {
        let bench = Bench::new();
        image().oci_layout(&bench.path("app"), Packing::Gzip);
        let other = Server::start(Objects::new(), |to, _, _, _| stored(to));
        let (name, host) = (case.name, other.host.clone());
        let store = Server::start(Objects::new(), move |to, asked, objects, n| match asked.method.as_str() {
            "PUT" => lie_about_puts(name, to, asked, objects, n, &host),
            _ => answer(to, 403, "", b""),
        });
        let args = [
            "convert",
            "oci:app",
            "--no-cache",
            "--store",
            "s3://b/p",
            "--store-endpoint",
            &store.url(),
            "-o",
            "m.cpm",
            "--json",
        ];
        let end = run(&bench, env!("CARGO_BIN_EXE_coldpress"), &args);
        case.check(&end);
        assert_eq!(other.heads(), Vec::<String>::new(), "{name}: another host is asked");
        let harmless = [
            "ignores the condition",
            "long entity tag",
            "no entity tag",
            "answers out of order",
            "loses answers",
            "answers twice",
        ];
        if harmless.contains(&name) {
            // What was stored is the image.
            for (path, bytes) in store.objects.lock().unwrap().iter() {
                let path = bench.path("store").join(path.strip_prefix("/b/p/").unwrap());
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, bytes).unwrap();
            }
            stdout(&bench.coldpress(&["verify", "m.cpm", "--store", "store"]));
        }
    });
}

/// What a store does with a download.
fn lie_about_gets(
    name: &str,
    to: &mut TcpStream,
    asked: &Asked,
    objects: &Mutex<Objects>,
    other: &str,
) -> std::io::Result<()> {
    let Some(bytes) = object(asked, objects) else { return answer(to, 404, "", b"") };
    let half = &bytes[..bytes.len() / 2];
    let head = |length: u64| format!("HTTP/1.1 200 OK\r\netag: \"0\"\r\ncontent-length: {length}\r\n\r\n");
    match name {
        "the truth" => get(to, asked, objects),
        "no length" => {
            to.write_all(chunked(200).as_bytes())?;
            for piece in bytes.chunks(1000) {
                write!(to, "{:x}\r\n", piece.len())?;
                to.write_all(&[piece, b"\r\n"].concat())?;
            }
            to.write_all(b"0\r\n\r\n")
        }
        "half of it" => answer(to, 200, "", half),
        "ends early" => {
            to.write_all(&[head(bytes.len() as u64).as_bytes(), half].concat())?;
            Err(std::io::ErrorKind::Other.into())
        }
        "endless body" => endless(to, &chunked(200), &http_chunk()),
        "endless error" => endless(to, &chunked(404), &http_chunk()),
        "a length of terabytes" => endless(to, &head(1_000_000_000_000), &[b'x'; 65_536]),
        "an error of terabytes" => {
            endless(to, "HTTP/1.1 404 No\r\ncontent-length: 1000000000000\r\n\r\n", &[b'x'; 65_536])
        }
        "a byte a second" => trickle(to, &head(bytes.len() as u64), bytes.into_iter()),
        "redirect" => answer(to, 302, &format!("location: http://{other}{}?sig=SECRETMARK\r\n", asked.target), b""),
        "gzip" => answer(to, 200, "content-encoding: gzip\r\n", &Packing::Gzip.pack(&vec![0; 64 << 20])),
        "a part" => answer(to, 206, &format!("content-range: bytes 0-99/{}\r\n", bytes.len()), &bytes[..100]),
        "another object" => {
            let other = objects.lock().unwrap().values().next().unwrap().clone();
            answer(to, 200, "", &other)
        }
        _ => unreachable!("{name}"),
    }
}

#[test]
fn a_store_that_lies_about_downloads() {
    let cases = [
        case("the truth", 0, &[]),
        case("no length", 0, &[]),
        case("half of it", 1, &["chunk"]),
        slow("ends early", 4, &["given up after"]),
        case("endless body", 1, &["longer than"]),
        case("endless error", 1, &["answered 404"]),
        case("a length of terabytes", 1, &["longer than"]),
        case("an error of terabytes", 1, &["answered 404"]),
        slow("a byte a second", 4, &["given up after"]),
        case("redirect", 1, &["answered 302 and redirects to 127.0.0.1:", "not followed"]),
        case("gzip", 1, &["chunk"]),
        case("a part", 1, &["chunk"]),
        case("another object", 1, &["chunk"]),
    ];
    let made = Bench::new();
    made.convert(&image(), "app", &[]);
    let objects = objects_of(&made);
    try_all(&cases, |case| {
        let other = Server::start(objects.clone(), |to, asked, objects, _| get(to, asked, objects));
        let (name, host) = (case.name, other.host.clone());
        let store = Server::start(objects.clone(), move |to, asked, objects, _| {
            lie_about_gets(name, to, asked, objects, &host)
        });
        let args = ["cat", "app.cpm", "/noise", "--store", "s3://b/p", "--store-endpoint", &store.url()];
        let end = run(&made, env!("CARGO_BIN_EXE_coldread"), &args);
        case.check(&end);
        assert_eq!(end.output.stdout, if case.code == 0 { noise(2_000_000, 3) } else { Vec::new() }, "{name}");
        assert_eq!(other.heads(), Vec::<String>::new(), "{name}: another host is asked");
    });
}

/// The objects of a directory's store as those of the bucket `b` below `p`.
fn objects_of(bench: &Bench) -> Objects {
    let mut objects = Objects::new();
    for directory in ["main", "manifests/main"] {
        for entry in std::fs::read_dir(bench.path("store").join(directory)).unwrap() {
            let entry = entry.unwrap();
            let name = format!("/b/p/{directory}/{}", entry.file_name().to_str().unwrap());
            objects.insert(name, std::fs::read(entry.path()).unwrap());
        }
    }
    objects
}

fn page(names: impl Iterator<Item = String>, token: Option<&str>) -> Vec<u8> {
    let token = token
        .map(|token| format!("<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>"));
    let names = names.map(|name| {
        format!("<Contents><Key>{name}</Key><LastModified>2020-01-01T00:00:00.000Z</LastModified><ETag>\"a\"</ETag><Size>1</Size></Contents>")
    });
    format!("<ListBucketResult>{}{}</ListBucketResult>", token.unwrap_or_default(), names.collect::<String>())
        .into_bytes()
}

#[test]
fn a_store_that_lies_about_its_listing() {
    let cases = [
        case("the truth", 0, &[]),
        case("the same page", 1, &["repeats a continuation token"]),
        case("two pages in turn", 1, &["repeats a continuation token"]),
        slow("pages without end", 1, &["more than 1000000"]),
        slow("empty pages without end", 1, &["more than 10000 pages"]),
        case("a manifest of garbage", 3, &["manifests that cannot be read: 1"]),
        case("endless page", 1, &["longer than"]),
        case("redirect", 1, &["redirects to 127.0.0.1:"]),
    ];
    let made = Bench::new();
    made.convert(&image(), "app", &[]);
    let objects = objects_of(&made);
    try_all(&cases, |case| {
        let (name, other) = (case.name, Server::start(Objects::new(), |to, _, _, _| stored(to)));
        let host = other.host.clone();
        let store = Server::start(objects.clone(), move |to, asked, objects, n| {
            if !asked.target.contains("list-type=2") {
                return match asked.path().ends_with("/0000000000000000000000000000000000000000000000000000000000000007")
                {
                    true => endless(
                        to,
                        &format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 3_u64 << 30),
                        &[b'x'; 65_536],
                    ),
                    false => get(to, asked, objects),
                };
            }
            let number = |n: usize| (0..1000).map(move |i| format!("p/manifests/main/{:064x}", n * 1000 + i));
            let names = || {
                let objects = objects.lock().unwrap();
                let names: Vec<String> = objects
                    .keys()
                    .filter_map(|name| name.strip_prefix("/b/").filter(|name| name.starts_with("p/manifests/")))
                    .map(str::to_owned)
                    .collect();
                names.into_iter()
            };
            match name {
                "the truth" => answer(to, 200, "", &page(names(), None)),
                "a manifest of garbage" => {
                    let garbage = format!("p/manifests/main/{:064x}", 7);
                    answer(to, 200, "", &page(names().chain([garbage]), None))
                }
                "the same page" => answer(to, 200, "", &page(names(), Some("t"))),
                "two pages in turn" => answer(to, 200, "", &page(names(), Some(["a", "b"][n % 2]))),
                "pages without end" => answer(to, 200, "", &page(number(n), Some(&format!("t{n}")))),
                "empty pages without end" => answer(to, 200, "", &page(std::iter::empty(), Some(&format!("t{n}")))),
                "endless page" => endless(to, &chunked(200), &http_chunk()),
                "redirect" => answer(to, 307, &format!("location: http://{host}/\r\n"), b""),
                _ => unreachable!("{name}"),
            }
        });
        let args = ["scrub", "--all", "--store", "s3://b/p", "--store-endpoint", &store.url()];
        let end = run(&made, env!("CARGO_BIN_EXE_coldpress"), &args);
        case.check_within(&end, if name.contains("without end") { 400_000 } else { MEMORY });
        assert_eq!(other.heads(), Vec::<String>::new(), "{name}: another host is asked");
    });
}

const ARN: &str = "arn:aws:kms:us-east-1:123456789012:key/11111111-1111-1111-1111-111111111111";

/// What a key service answers to `operation`.
fn lie_about_keys(name: &str, to: &mut TcpStream, operation: &str, other: &str) -> std::io::Result<()> {
    let key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let made = |key: &str, blob: &str, arn: &str| {
        serde_json::json!({ "Plaintext": key, "CiphertextBlob": blob, "KeyId": arn }).to_string().into_bytes()
    };
    let json = "content-type: application/x-amz-json-1.1\r\n";
    let good = || made(key, "Q1Q=", ARN);
    match name {
        "redirect" => answer(to, 307, &format!("location: http://{other}/\r\n"), b""),
        "endless answer" => endless(to, &chunked(200), &http_chunk()),
        "endless error" => endless(to, &chunked(400), &http_chunk()),
        "an error of terabytes" => {
            endless(to, "HTTP/1.1 400 No\r\ncontent-length: 1000000000000\r\n\r\n", &[b'x'; 65_536])
        }
        "an error with secrets" => {
            answer(to, 400, json, br#"{"__type":"SECRETMARK\u001b[31m","message":"SECRETMARK \u001b]0;x\u0007"}"#)
        }
        "a short key" => answer(to, 200, json, &made("AAEC", "Q1Q=", ARN)),
        "a long key" => answer(to, 200, json, &made(&"AAAA".repeat(11), "Q1Q=", ARN)),
        "no key" => answer(to, 200, json, &made("", "Q1Q=", ARN)),
        "a huge key" => answer(to, 200, json, &made(&"AAAA".repeat(10 << 20), "Q1Q=", ARN)),
        "a huge blob" => answer(to, 200, json, &made(key, &"AAAA".repeat(2 << 20), ARN)),
        "a long blob" => answer(to, 200, json, &made(key, &"AAAA".repeat(3000), ARN)),
        "no blob" => answer(to, 200, json, &made(key, "", ARN)),
        "no name" => answer(to, 200, json, br#"{"Plaintext":"AAAA","CiphertextBlob":"Q1Q="}"#),
        "an evil name" => answer(to, 200, json, &made(key, "Q1Q=", "arn:\n\u{1b}[31mAAAA")),
        "another key" if operation.ends_with("Decrypt") => answer(to, 200, json, &made(&"AAAA".repeat(10), "", ARN)),
        "another name" if operation.ends_with("Decrypt") => {
            answer(to, 200, json, &made(key, "", "arn:aws:kms:us-east-1:999:key/evil"))
        }
        _ => answer(to, 200, json, &good()),
    }
}

#[test]
fn a_key_service_that_lies() {
    let cases = [
        case("the truth", 0, &[]),
        case("redirect", 1, &["answered 307 and redirects to 127.0.0.1:", "not followed"]),
        case("endless answer", 1, &["too long"]),
        case("endless error", 1, &["answered 400"]),
        case("an error of terabytes", 1, &["answered 400"]),
        case("an error with secrets", 1, &["answered 400"]),
        case("a short key", 1, &["the response does not match"]),
        case("a long key", 1, &["the response does not match"]),
        case("no key", 1, &["the response does not match"]),
        case("a huge key", 1, &["too long"]),
        case("a huge blob", 1, &["too long"]),
        case("a long blob", 1, &["the response does not match"]),
        case("no blob", 1, &["the response does not match"]),
        case("no name", 1, &["the response does not match"]),
        case("an evil name", 1, &["the response does not match"]),
        case("another key", 0, &[]),
        case("another name", 0, &[]),
    ];
    try_all(&cases, |case| {
        let bench = Bench::new();
        image().oci_layout(&bench.path("app"), Packing::Gzip);
        let (name, other) = (case.name, Server::start(Objects::new(), |to, _, _, _| stored(to)));
        let host = other.host.clone();
        let service = Server::start(Objects::new(), move |to, asked, _, _| {
            let target = asked
                .head
                .lines()
                .find_map(|line| line.split_once(": ").filter(|(name, _)| name.eq_ignore_ascii_case("x-amz-target")));
            let dry: Value = serde_json::from_slice(&asked.body).unwrap_or_default();
            match dry["DryRun"].as_bool() {
                Some(true) => answer(to, 400, "", br#"{"__type":"DryRunOperationException","message":"would"}"#),
                _ => lie_about_keys(name, to, target.map(|(_, target)| target).unwrap_or_default(), &host),
            }
        });
        let (key, url) = (format!("aws-kms://{ARN}"), service.url());
        let kms = ["--key", &key, "--kms-endpoint", &url, "--store", "store"];
        let convert = ["convert", "oci:app", "--no-cache", "--salt-file", "coldpress.key", "-o", "m.cpm"];
        let end = run(&bench, env!("CARGO_BIN_EXE_coldpress"), &[&convert[..], &kms].concat());
        case.check(&end);
        assert_eq!(bench.path("m.cpm").exists(), case.code == 0, "{name}");
        if case.code == 0 {
            let end = run(&bench, env!("CARGO_BIN_EXE_coldread"), &[&["cat", "m.cpm", "/greeting"], &kms[..]].concat());
            let (code, out) = if name == "another key" { (1, &b""[..]) } else { (0, &b"hello\n"[..]) };
            assert_eq!(
                (end.output.status.code(), &end.output.stdout[..]),
                (Some(code), out),
                "{name}: {}",
                end.message
            );
        }
        assert_eq!(other.heads(), Vec::<String>::new(), "{name}: another host is asked");
    });
}

/// An endpoint without TLS is on this machine, or a person insists.
#[test]
fn credentials_do_not_cross_the_network_in_clear() {
    let bench = Bench::new();
    bench.convert(&image(), "app", &[]);
    let cat = |endpoint: &[&str]| {
        run(
            &bench,
            env!("CARGO_BIN_EXE_coldread"),
            &[&["cat", "app.cpm", "/greeting", "--store", "s3://b/p"], endpoint].concat(),
        )
    };
    for endpoint in ["http://192.0.2.1:9000", "http://localhost:1@192.0.2.1:9000", "192.0.2.1:9000", "ftp://127.0.0.1"]
    {
        let end = cat(&["--store-endpoint", endpoint]);
        assert!(
            end.output.status.code() == Some(2) && end.message.contains("--store-endpoint: "),
            "{endpoint}: {}",
            end.message
        );
        assert!(end.took < Duration::from_secs(5));
    }
    let end = cat(&["--store-endpoint", "http://192.0.2.1:9000"]);
    assert!(end.message.contains("unencrypted; use https://, or give --store-allow-http"), "{}", end.message);
    // Insisted on, it is tried: another name of this machine stands for another machine.
    let store = Server::start(objects_of(&bench), |to, asked, objects, _| get(to, asked, objects));
    let port = store.host.rsplit_once(':').unwrap().1;
    let end = cat(&["--store-endpoint", &format!("http://0.0.0.0:{port}")]);
    assert_eq!(end.output.status.code(), Some(2), "{}", end.message);
    let end = cat(&["--store-allow-http", "--store-endpoint", &format!("http://0.0.0.0:{port}")]);
    assert_eq!(end.output.stdout, b"hello\n", "{}", end.message);
    // No object is asked for with a Referer, or with what names another than this program.
    assert!(
        store.heads().iter().all(|head| !head.to_ascii_lowercase().contains("referer") && head.contains("coldpress/"))
    );
    // The variable of the environment says no more than the option.
    let output = Command::new(env!("CARGO_BIN_EXE_coldpress"))
        .args(["scrub", "app.cpm", "--store", "s3://b/p"])
        .current_dir(bench.dir.path())
        .env_clear()
        .envs(CREDENTIALS)
        .env("AWS_ENDPOINT_URL", "http://192.0.2.1:9000")
        .output()
        .unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && message.contains("AWS_ENDPOINT_URL: "), "{message}");
}
