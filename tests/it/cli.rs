//! What a person meets at the terminal: every page of help, usage errors, figures.

use serde_json::{Value, json};

use crate::determinism::sample;
use crate::support::common::{Bench, Layer, Packing, noise, stdout};

/// Every command, by the words that name it.
const COMMANDS: [(&str, &[&str]); 2] = [
    (
        "coldpress",
        &[
            "",
            "keygen",
            "convert",
            "verify",
            "inspect",
            "diff",
            "export",
            "rewrap",
            "profile",
            "profile attach",
            "scrub",
            "doctor",
            "config",
            "completions",
            "man",
        ],
    ),
    (
        "coldread",
        &[
            "",
            "ls",
            "cat",
            "stat",
            "du",
            "find",
            "cp",
            "tar",
            "mount",
            "bundle",
            "serve",
            "ps",
            "umount",
            "profile",
            "profile record",
            "status",
            "top",
            "report",
            "zone",
            "zone status",
            "zone plan",
            "config",
            "completions",
            "man",
        ],
    ),
];

/// Returns `(command, page)` of every command's help, by `-h` or `--help`.
pub fn help_pages(bench: &Bench, flag: &str) -> Vec<(String, String)> {
    let all = COMMANDS.iter().flat_map(|(program, commands)| commands.iter().map(move |command| (*program, *command)));
    let page = |(program, command): (&str, &str)| {
        // As in coreutils, -h is --human-readable there.
        let flag = if ["ls", "du"].contains(&command) { "--help" } else { flag };
        let args: Vec<&str> = command.split_whitespace().chain([flag]).collect();
        let output = if program == "coldpress" { bench.coldpress(&args) } else { bench.coldread(&args) };
        (format!("{program} {}", args.join(" ")), String::from_utf8(stdout(&output)).unwrap())
    };
    all.map(page).collect()
}

/// `insta` keeps the pages in tests/it/snapshots; `INSTA_UPDATE=always` writes them anew.
#[test]
fn every_page_of_help_is_as_it_was_read_last() {
    let pages = help_pages(&Bench::new(), "--help");
    let all: String = pages.iter().map(|(command, page)| format!("$ {command}\n{page}\n")).collect();
    insta::assert_snapshot!("help", all);
}

/// A summary that scrolls away is none. All commands are listed, so that none is without a page.
#[test]
fn short_help_fits_a_screen() {
    let pages = help_pages(&Bench::new(), "-h");
    for (command, page) in &pages {
        // Of `ls` and `du`, these are the long ones.
        let is_short = command.ends_with(" -h");
        let most = if command == "coldread mount -h" { 60 } else { 50 };
        assert!(!is_short || page.lines().count() <= most, "{command}: {} lines\n{page}", page.lines().count());
        // The page of a program has its example behind its exit codes, in the long form.
        assert!(page.contains("Example:\n") || command.split(' ').count() == 2, "{command}: no example\n{page}");
    }
    for (program, commands) in COMMANDS {
        let (_, page) = pages.iter().find(|(command, _)| *command == format!("{program} -h")).unwrap();
        let listed = page.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
        let listed: Vec<&str> = listed.lines().filter_map(|line| line.split_whitespace().next()).collect();
        let known: Vec<&str> =
            commands.iter().copied().filter(|name| !name.is_empty() && !name.contains(' ')).collect();
        assert_eq!(listed, [known, vec!["help"]].concat());
    }
    insta::assert_snapshot!(
        "short_help",
        pages.iter().map(|(command, page)| format!("$ {command}\n{page}\n")).collect::<String>()
    );
}

/// Every message here is one that a person can cause; paths and digests are made equal.
#[test]
fn messages_are_as_they_were_read_last() {
    let bench = Bench::new();
    sample().oci_layout(&bench.path("image"), Packing::Gzip);
    bench.convert_from("oci:image", "app", &[]);
    std::fs::write(bench.path("text"), "not an image\n").unwrap();
    std::fs::write(bench.path("bad.key"), "wrapping-key = 1\n").unwrap();
    std::fs::set_permissions(bench.path("bad.key"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::write(bench.path("passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
    let key = std::fs::read(bench.path("coldpress.key")).unwrap();
    std::fs::write(bench.path("shared.key"), key).unwrap();
    for shared in ["passwd", "shared.key"] {
        std::fs::set_permissions(bench.path(shared), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    }
    let press: [&[&str]; 19] = [
        &["convert", "app", "--store", "s", "-o", "x"],
        &["convert", "oci:nowhere", "--store", "s", "-o", "x"],
        &["convert", "oci:text", "--store", "s", "-o", "x"],
        &["convert", "oci-archive:text", "--store", "s", "-o", "x"],
        &["convert", "docker-archive:text", "--store", "s", "-o", "x"],
        &["convert", "tar:text", "--store", "s", "-o", "x"],
        &["convert", "oci:image", "-o", "x"],
        &["convert", "oci:image", "--store", "s"],
        &["convert", "oci:image", "--store", "s", "-o", "x", "--compression", "gzip"],
        &["convert", "oci:image", "--store", "s", "-o", "x", "--free", "12XB"],
        &["convert", "oci:image", "--store", "s", "-o", "nowhere/x"],
        &["convert", "oci:image", "--store", "s", "-o", "x", "--key", "file:bad.key"],
        &["convert", "oci:image", "--store", "s", "-o", "x", "--key", "vault://k"],
        // A system file must not be changed on the advice of a message.
        &["convert", "oci:image", "--store", "s", "-o", "x", "--key", "file:passwd"],
        &["convert", "oci:image", "--store", "s", "-o", "x", "--key", "file:shared.key"],
        &["convert", "oci:image", "--store", "s3:bucket", "-o", "x"],
        &["convert", "oci:image", "--store", "~/s", "-o", "x"],
        &["verify", "text"],
        &["verify", "app.cpm", "--expect", "sha256:0000000000000000000000000000000000000000000000000000000000000000"],
    ];
    let read: [&[&str]; 6] = [
        &["ls", "app.cpm", "/nowhere"],
        &["cat", "app.cpm", "/etc"],
        &["cat", "app.cpm", "/etc/capable/x"],
        &["cp", "app.cpm", "/etc", "out"],
        &["ls", "app.cpm", "--store", "nowhere"],
        &["mount", "app.cpm", "nowhere"],
    ];
    let mut said = String::new();
    let runs = press
        .iter()
        .map(|args| ("coldpress", args, bench.coldpress(args)))
        .chain(read.iter().map(|args| ("coldread", args, bench.coldread(args))));
    for (program, args, output) in runs {
        let error = String::from_utf8(output.stderr).unwrap().replace(bench.dir.path().to_str().unwrap(), "DIR");
        said.push_str(&format!("$ {program} {}\n{error}[exit {}]\n\n", args.join(" "), output.status.code().unwrap()));
    }
    insta::assert_snapshot!("messages", said);
}

/// One object on standard output, whose parts are those of the message, and the same exit code.
#[test]
fn a_failure_with_json_is_one_object() {
    let bench = Bench::new();
    sample().oci_layout(&bench.path("image"), Packing::Gzip);
    bench.convert_from("oci:image", "app", &[]);
    std::fs::set_permissions(bench.path("coldpress.key"), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let shared = "run: chmod 600 coldpress.key";
    std::fs::remove_dir_all(bench.path("store")).unwrap();
    let convert: &[&str] = &["convert", "oci:nowhere", "--store", "s", "-o", "x", "--json"];
    let with_key: &[&str] = &["inspect", "app.cpm", "--json"];
    let unknown: &[&str] = &["convert", "--json", "--nonsense"];
    let no_store: &[&str] = &["verify", "app.cpm", "--json", "--store", "~/s"];
    for (args, kind, code, object, hint) in [
        (with_key, "denied", 1, json!("coldpress.key"), json!(shared)),
        (unknown, "usage", 2, Value::Null, Value::Null),
        (no_store, "usage", 2, Value::Null, Value::Null),
    ] {
        let output = bench.coldpress(args);
        let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
        let error = &printed["error"];
        assert_eq!(output.status.code(), Some(code), "{args:?}");
        assert_eq!((&error["kind"], &error["exit_code"]), (&json!(kind), &json!(code)), "{printed:#}");
        assert_eq!((&error["object"], &error["hint"]), (&object, &hint), "{printed:#}");
        let message = error["message"].as_str().unwrap();
        assert!(String::from_utf8_lossy(&output.stderr).contains(message), "{message}: {output:?}");
    }
    std::fs::set_permissions(bench.path("coldpress.key"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let output = bench.coldpress(convert);
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&printed["error"]["kind"], &printed["error"]["object"]), (&json!("not_found"), &json!("oci:nowhere")));
    // A result that is a difference is the one object; a limit is named in it.
    let limited = ["convert", "oci:image", "--dry-run", "--store", "new", "--max-new-bytes", "1", "--json"];
    let output = bench.coldpress(&limited);
    assert_eq!(output.status.code(), Some(3));
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(printed["new_bytes"].as_u64() > Some(1));
    assert_eq!((&printed["error"]["kind"], &printed["error"]["exit_code"]), (&json!("difference"), &json!(3)));
    let output = bench.coldread(&["ls", "app.cpm", "--json", "--store", "gone"]);
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(printed["error"]["kind"], "not_found", "{printed:#}");
}

/// Adds what breaks the rules of names and numbers in `value` to `wrong`.
fn check_json(place: &str, value: &Value, wrong: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let place = format!("{place}.{key}");
                let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
                if !key.chars().all(is_name) {
                    wrong.push(format!("{place}: not snake_case"));
                }
                // Names of the image, and prices in a currency of the user's.
                if !["config", "xattrs", "prices"].contains(&key.as_str()) {
                    check_json(&place, value, wrong);
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| check_json(place, value, wrong)),
        Value::Number(number) => {
            let name = place.rsplit('.').next().unwrap();
            // Durations, shares and prices are the only fractions; sizes are whole bytes.
            let is_fraction = ["seconds", "millis", "share", "rate", "month"].iter().any(|unit| name.ends_with(unit));
            if number.is_f64() && !is_fraction {
                wrong.push(format!("{place}: {number} without a unit"));
            }
            for bare in ["time", "duration", "took", "latency", "wait", "timeout"] {
                // Clock ticks, as in /proc/PID/stat; the position of a size in a list.
                let is_other = ["start_time", "for_latency"].contains(&name);
                if (name == bare || name.ends_with(&format!("_{bare}"))) && !is_other {
                    wrong.push(format!("{place}: a duration without a unit"));
                }
            }
        }
        _ => {}
    }
}

/// Names are in snake_case, sizes whole bytes, and durations have their unit in their names.
#[test]
fn json_has_one_style_in_all_commands() {
    let bench = Bench::new();
    bench.convert(&sample(), "app", &[]);
    let mut other = sample();
    other.layers.push(Layer::new().file("more", &noise(10_000, 3)));
    bench.convert(&other, "other", &[]);
    let press: [&[&str]; 12] = [
        &["keygen", "-o", "new.key"],
        &["convert", "oci:other", "--dry-run", "--base", "app.cpm"],
        &["convert", "oci:other", "--store", "store", "-o", "again.cpm", "--base", "app.cpm", "--max-new-bytes", "1"],
        &["convert", "oci:other", "--heal", "other.cpm", "--store", "store"],
        &["verify", "app.cpm", "--source", "oci:other", "--store", "store"],
        &["inspect", "app.cpm"],
        &["diff", "app.cpm", "other.cpm"],
        &["export", "app.cpm", "-o", "app.img"],
        &["rewrap", "app.cpm", "--to", "file:new.key", "-o", "new.cpm"],
        &["scrub", "app.cpm", "--store", "store"],
        &["config"],
        &["inspect", "none.cpm"],
    ];
    let read: [&[&str]; 7] = [
        &["ls", "app.cpm", "/"],
        &["stat", "app.cpm", "/etc"],
        &["du", "-a", "app.cpm"],
        &["find", "app.cpm", "/etc"],
        &["zone", "plan", "--make", "zipf:20,0.9,500"],
        &["config"],
        &["ps"],
    ];
    let mut wrong = Vec::new();
    let runs = press.iter().map(|args| (args, bench.coldpress(&[*args, &["--json"]].concat())));
    let runs = runs.chain(read.iter().map(|args| (args, bench.coldread(&[*args, &["--json"]].concat()))));
    for (args, output) in runs {
        let values = serde_json::Deserializer::from_slice(&output.stdout).into_iter::<Value>();
        let values: Vec<Value> = values.collect::<Result<_, _>>().unwrap_or_else(|error| panic!("{args:?}: {error}"));
        assert!(!values.is_empty() || args[0] == "ps", "{args:?}: {output:?}");
        values.iter().for_each(|value| check_json(args[0], value, &mut wrong));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What CI sets once for all jobs; an option wins over it.
#[test]
fn the_salt_and_the_scope_come_from_the_environment() {
    let bench = Bench::new();
    sample().oci_layout(&bench.path("image"), Packing::Gzip);
    stdout(&bench.coldpress(&["keygen", "--salt-only", "-o", "team.salt"]));
    let scope_of = |options: &[&str], environment: &[(&str, &str)]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_coldpress"));
        command.args([&["convert", "oci:image", "--dry-run", "--no-cache", "--json"], options].concat());
        ["COLDPRESS_KEY", "COLDPRESS_STORE", "HOME"].into_iter().for_each(|name| _ = command.env_remove(name));
        command.current_dir(bench.dir.path()).envs(environment.iter().copied()).output().unwrap()
    };
    let scope = |options: &[&str], environment: &[(&str, &str)]| {
        let report: Value = serde_json::from_slice(&stdout(&scope_of(options, environment))).unwrap();
        report["scope_id"].as_str().unwrap().to_owned()
    };
    let file = ("COLDPRESS_SALT_FILE", "team.salt");
    let by_options = scope(&["--salt-file", "team.salt", "--scope", "web"], &[]);
    assert_eq!(by_options, scope(&[], &[file, ("COLDPRESS_SCOPE", "web")]));
    assert_eq!(by_options, scope(&["--scope", "web"], &[file, ("COLDPRESS_SCOPE", "other")]));
    assert_eq!(scope(&[], &[]), scope(&["--salt-file", "coldpress.key"], &[file]));
    assert_ne!(scope(&[], &[]), by_options);
    let both = scope_of(&[], &[file, ("COLDPRESS_SALT_KEY", "aws-kms://alias/s")]);
    assert_eq!(both.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&both.stderr).contains("COLDPRESS_SALT_FILE and COLDPRESS_SALT_KEY"), "{both:?}");
}

/// What only the salt decides needs no wrapping key: counting, comparing with the source, re-uploading.
#[test]
fn no_wrapping_key_is_needed_where_the_salt_is_enough() {
    let bench = Bench::new();
    sample().oci_layout(&bench.path("image"), Packing::Gzip);
    let app = bench.convert_from("oci:image", "app", &[]);
    std::fs::rename(bench.path("coldpress.key"), bench.path("team.salt")).unwrap();
    let json = |args: &[&str]| {
        let output = bench.coldpress(&[args, &["--salt-file", "team.salt", "--json"]].concat());
        serde_json::from_slice::<Value>(&stdout(&output)).unwrap()
    };
    assert_eq!(json(&["convert", "oci:image", "--dry-run"])["root_digest"], app["root_digest"]);
    let verified = json(&["verify", "app.cpm", "--source", "oci:image"]);
    assert_eq!((&verified["verified"], &verified["image_digest"]), (&json!(true), &Value::Null));
    let chunk = std::fs::read_dir(bench.path("store/main")).unwrap().next().unwrap().unwrap().path();
    std::fs::remove_file(&chunk).unwrap();
    assert_eq!(json(&["convert", "oci:image", "--heal", "app.cpm", "--store", "store"])["put_chunks"], 1);
    assert!(chunk.exists());
    // A manifest cannot be written, nor a chunk decrypted.
    for args in [&["convert", "oci:image", "--store", "store", "-o", "b.cpm"][..], &["verify", "app.cpm"]] {
        let output = bench.coldpress(&[args, &["--salt-file", "team.salt"]].concat());
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("no key: give --key"), "{output:?}");
    }
    let mut other = sample();
    other.layers.push(Layer::new().file("more", b"more"));
    other.oci_layout(&bench.path("other"), Packing::Gzip);
    let output = bench.coldpress(&["verify", "app.cpm", "--source", "oci:other", "--salt-file", "team.salt"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stdout).contains("give --key to see which chunks and files differ"));
}

/// A global option is refused where it has no effect, before the command and behind it.
#[test]
fn global_options_are_refused_where_they_have_no_effect() {
    let bench = Bench::new();
    let pages = help_pages(&bench, "--help");
    for (program, commands) in COMMANDS {
        let globals = ["--json", "--quiet", "--verbose", "--log-format=json", "--config=/dev/null"];
        let own = |page: &str, option: &str| {
            let name = option.split('=').next().unwrap();
            page.lines().any(|line| line.split_whitespace().any(|word| word.trim_end_matches("...") == name))
        };
        let (_, top) = pages.iter().find(|(name, _)| *name == format!("{program} --help")).unwrap();
        for command in commands.iter().filter(|command| !command.is_empty()) {
            let name = format!("{program} {command} --help");
            let (_, page) = pages.iter().find(|(page, _)| *page == name).unwrap();
            let options = page.split_once("Global options:").map_or("", |(_, rest)| rest);
            for option in globals.into_iter().filter(|option| own(top, option)) {
                let words: Vec<&str> = command.split(' ').collect();
                let run =
                    |args: &[&str]| if program == "coldpress" { bench.coldpress(args) } else { bench.coldread(args) };
                // An option of the command itself has the same name there.
                let is_local = own(page, option) && !own(options, option);
                for args in [
                    [&words[..], &[option, "--no-such-option"]].concat(),
                    [&[option], &words[..], &["--no-such-option"]].concat(),
                ] {
                    let output = run(&args);
                    let said = String::from_utf8_lossy(&output.stderr).into_owned();
                    assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
                    let refused =
                        said.contains(&format!("unexpected argument '{}'", option.split('=').next().unwrap()));
                    if !is_local && args[0] != option {
                        assert_eq!(refused, !own(options, option), "{args:?}: {said}");
                    }
                }
            }
        }
    }
    for args in [&["--json", "man"][..], &["man", "--json"], &["-q", "completions", "bash"], &["-v", "keygen"]] {
        let output = bench.coldpress(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("error: unexpected argument"), "{output:?}");
    }
    for args in [
        &["status", "unix:none", "-v"][..],
        &["--verbose", "status", "unix:none"],
        &["--config", "x", "ps"],
        &["zone", "-v", "plan", "--make", "zipf:20,0.9,500"],
    ] {
        assert_eq!(bench.coldread(args).status.code(), Some(2), "{args:?}");
    }
    // Before the command and behind it, together.
    sample().oci_layout(&bench.path("image"), Packing::Gzip);
    for args in [
        &["--json", "convert", "oci:image", "--dry-run", "-q"][..],
        &["-q", "convert", "oci:image", "--dry-run", "--json"],
    ] {
        let output = bench.coldpress(args);
        assert!(serde_json::from_slice::<Value>(&stdout(&output)).unwrap()["root_digest"].is_string());
        assert!(output.stderr.is_empty(), "{output:?}");
    }
}

#[test]
fn no_key_and_no_store_are_usage_errors() {
    let bench = Bench::new();
    sample().oci_layout(&bench.path("image"), Packing::Gzip);
    let output = bench.coldpress(&["convert", "oci:image", "-o", "x"]);
    assert_eq!(output.status.code(), Some(2));
    std::fs::remove_file(bench.path("coldpress.key")).unwrap();
    let output = bench.coldpress(&["convert", "oci:image", "--store", "s", "-o", "x"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("coldpress keygen"));
}

/// All figures, and nothing written.
#[test]
fn a_dry_run_tells_what_a_run_then_does() {
    let bench = Bench::new();
    sample().oci_layout(&bench.path("image"), Packing::Gzip);
    let dry: Value =
        serde_json::from_slice(&stdout(&bench.coldpress(&["convert", "oci:image", "--dry-run", "--json"]))).unwrap();
    assert_eq!(std::fs::read_dir(bench.dir.path()).unwrap().count(), 2, "the key and the image");
    assert_eq!(dry["new_chunks"], Value::Null, "a converter cannot ask");
    let real = bench.convert_from("oci:image", "app", &[]);
    for figure in [
        "root_digest",
        "image_digest",
        "chunks",
        "zero_chunks",
        "unique_chunks",
        "stored_bytes",
        "device_bytes",
        "layers",
    ] {
        assert_eq!(dry[figure], real[figure], "{figure}");
    }
    let mut changed = sample();
    changed.layers.push(Layer::new().file("more", &noise(10_000, 3)));
    changed.oci_layout(&bench.path("changed"), Packing::Gzip);
    let args = ["convert", "oci:changed", "--dry-run", "--base", "app.cpm", "--json"];
    let dry: Value = serde_json::from_slice(&stdout(&bench.coldpress(&args))).unwrap();
    let real = bench.convert_from("oci:changed", "changed", &[]);
    assert_eq!((&dry["new_chunks"], &dry["new_bytes"]), (&real["new_chunks"], &real["new_bytes"]));
    assert!(real["claimed_chunks"].as_u64() > Some(0));
}

#[test]
fn the_figures_of_a_conversion_are_those_of_its_store() {
    let bench = Bench::new();
    let figures = bench.convert(&sample(), "app", &[]);
    let figure = |name: &str| figures[name].as_u64().unwrap();
    let entries = std::fs::read_dir(bench.path("store/main")).unwrap();
    let sizes: Vec<u64> = entries.map(|entry| entry.unwrap().metadata().unwrap().len()).collect();
    let (count, bytes) = (sizes.len() as u64, sizes.iter().sum::<u64>());
    assert_eq!([figure("unique_chunks"), figure("new_chunks"), figure("put_chunks")], [count; 3], "{figures:#}");
    assert_eq!([figure("stored_bytes"), figure("new_bytes")], [bytes; 2], "{figures:#}");
    assert_eq!(figure("chunks") + figure("zero_chunks"), figure("device_bytes") / 524_288, "{figures:#}");
    let again = bench.convert(&sample(), "app", &[]);
    assert_eq!([&again["put_chunks"], &again["claimed_chunks"]], [&json!(0), &json!(count)], "{again:#}");
}

#[test]
fn verify_names_the_file_in_the_first_chunk_that_differs() {
    let bench = Bench::new();
    bench.convert(&sample(), "app", &[]);
    let mut other = sample();
    other.layers[1] =
        Layer::new().whiteout("etc/hosts").dir("srv").file("srv/data", &noise(20_000, 99)).file("etc/motd", b"hello\n");
    other.oci_layout(&bench.path("other"), Packing::Gzip);
    let output = bench.coldpress(&["verify", "app.cpm", "--source", "oci:other", "--json"]);
    assert_eq!(output.status.code(), Some(3));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let files: Vec<&str> =
        json["source"]["files"].as_array().unwrap().iter().map(|file| file.as_str().unwrap()).collect();
    assert!(files.contains(&"srv/data"), "{json:#}");
    assert_eq!(json["source"]["differences"][0], "layers: they differ from layer 2 on");
    let text = bench.coldpress(&["verify", "app.cpm", "--source", "oci:other"]);
    assert!(String::from_utf8_lossy(&text.stdout).contains("    srv/data\n"), "{text:?}");
}

#[test]
fn inspect_shows_the_clear_part_without_a_key_and_all_with_it() {
    let bench = Bench::new();
    let made = bench.convert(&sample(), "app", &[]);
    let full: Value = serde_json::from_slice(&stdout(&bench.coldpress(&["inspect", "app.cpm", "--json"]))).unwrap();
    assert_eq!(full["image_digest"], made["image_digest"]);
    assert_eq!(full["config"]["config"]["Cmd"][0], "/bin/app");
    assert_eq!(full["layers"].as_array().unwrap().len(), 2);
    let text = String::from_utf8(stdout(&bench.coldpress(&["inspect", "app.cpm"]))).unwrap();
    for line in ["  cmd         /bin/app", "  workdir     /", "  env         PATH=/bin"] {
        assert!(text.lines().any(|there| there == line), "{line}: {text}");
    }
    let with_key: Value =
        serde_json::from_slice(&stdout(&bench.coldpress(&["inspect", "app.cpm", "--clear", "--json"]))).unwrap();
    std::fs::remove_file(bench.path("coldpress.key")).unwrap();
    let clear: Value = serde_json::from_slice(&stdout(&bench.coldpress(&["inspect", "app.cpm", "--json"]))).unwrap();
    assert_eq!(clear["root_digest"], made["root_digest"]);
    assert_eq!(clear.get("config"), None);
    assert_eq!(clear, with_key);
    let text = String::from_utf8(stdout(&bench.coldpress(&["inspect", "app.cpm", "--clear"]))).unwrap();
    assert!(
        text.ends_with("Not authenticated: these values are not encrypted, and anyone can have changed them.\n"),
        "{text}"
    );
}

#[test]
fn a_store_is_made_for_an_image_that_is_there() {
    let bench = Bench::new();
    let convert = |image: &str| bench.coldpress(&["convert", image, "--store", "new/store", "-o", "app.cpm"]);
    assert_eq!(convert("oci:nowhere").status.code(), Some(1));
    std::fs::write(bench.path("broken.tar"), "no archive").unwrap();
    assert_eq!(convert("docker-archive:broken.tar").status.code(), Some(1));
    assert!(!bench.path("new").exists());
    sample().oci_layout(&bench.path("app"), Packing::Gzip);
    let text = String::from_utf8(stdout(&convert("oci:app"))).unwrap();
    assert!(text.contains(" in new/store (") && text.ends_with("next: coldread mount app.cpm DIR\n"), "{text}");
    // The manifest names the directory, although it was not there when the program started.
    assert!(!stdout(&bench.coldread(&["ls", "app.cpm"])).is_empty());
}

#[test]
fn the_long_version_says_what_decides_the_bytes() {
    let bench = Bench::new();
    for (program, run) in [("coldpress", Bench::coldpress as fn(&Bench, &[&str]) -> _), ("coldread", Bench::coldread)] {
        let short = String::from_utf8(stdout(&run(&bench, &["--version"]))).unwrap();
        assert_eq!(short, format!("{program} {}\n", env!("CARGO_PKG_VERSION")));
        let long = String::from_utf8(stdout(&run(&bench, &["--version", "--verbose"]))).unwrap();
        let labels: Vec<&str> = long.lines().skip(1).filter_map(|line| Some(line.split_once("  ")?.0)).collect();
        assert_eq!(labels, ["commit", "features", "layout epoch", "block manifest", "libzstd"], "{long}");
        assert!(long.starts_with(&short) && long.contains("features         age\n"), "{long}");
    }
}

#[test]
fn reading_one_file_fetches_few_chunks() {
    let bench = Bench::new();
    bench.convert(&sample(), "app", &[]);
    let output = bench.coldread(&["cat", "-v", "app.cpm", "/etc/motd"]);
    assert_eq!(output.stdout, b"hello\n");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // The first chunk, inodes of directories and of files, directory blocks of one or two layers, the data.
    let fetched: u64 = said.split_whitespace().nth(2).unwrap().parse().unwrap();
    assert!(fetched <= 6, "{said}");
}
