//! Settings from outside the command line: what wins over what, what a file may set, and how each mistake is reported.

use std::fs;
use std::process::{Command, Output};

use serde_json::Value;

use crate::determinism::sample;
use crate::support::common::{Bench, Packing, stdout};

/// Runs a program of this project in `bench` with these variables.
fn run(bench: &Bench, program: &str, args: &[&str], variables: &[(&str, &str)]) -> Output {
    let program = if program == "coldpress" { env!("CARGO_BIN_EXE_coldpress") } else { env!("CARGO_BIN_EXE_coldread") };
    let mut command = Command::new(program);
    command.args(args).current_dir(bench.dir.path()).env("COLDREAD_RUN_DIR", bench.path("run"));
    for name in ["COLDPRESS_KEY", "COLDPRESS_STORE", "COLDPRESS_CACHE", "COLDREAD_CACHE"] {
        command.env_remove(name);
    }
    command.envs(variables.iter().copied()).output().unwrap()
}

/// Value and origin of one setting, as `config --json` prints it.
fn setting(output: &Output, name: &str) -> (Value, String) {
    let report: Value = serde_json::from_slice(&stdout(output)).unwrap();
    let found = report["settings"].as_array().unwrap().iter().find(|setting| setting["name"] == name).unwrap();
    let more = found.get("variable").or(found.get("line")).map(Value::to_string).unwrap_or_default();
    (found["value"].clone(), format!("{} {more}", found["source"].as_str().unwrap()).trim().to_owned())
}

#[test]
fn an_option_wins_over_the_environment_that_over_the_file_and_that_over_the_default() {
    let bench = Bench::new();
    fs::write(
        bench.path("coldread.toml"),
        "requests = 5\ncache-max = '2GiB'\nzone = ['redis://u:secret@a', 'redis://b']\n",
    )
    .unwrap();
    fs::write(bench.path("coldpress.toml"), "uploads = 5\n").unwrap();
    for (program, name, variable, command, file) in [
        ("coldpress", "uploads", "COLDPRESS_UPLOADS", &["convert", "oci:i", "-o", "o"][..], ""),
        ("coldread", "requests", "COLDREAD_REQUESTS", &["mount", "m", "d"], "coldread.toml"),
    ] {
        let config = |options: &[&str], variables: &[(&str, &str)]| {
            let before = &["config", "--json", "--"][..];
            let named = if file.is_empty() { vec![] } else { vec!["--config", file] };
            setting(&run(&bench, program, &[before, command, &named, options].concat(), variables), name)
        };
        let option = format!("--{name}=7");
        assert_eq!(config(&[&option], &[(variable, "6")]), ("7".into(), "option".to_owned()));
        assert_eq!(config(&[], &[(variable, "6")]), ("6".into(), format!("environment {variable:?}")));
        // An empty variable is none.
        assert_eq!(config(&[], &[(variable, "")]), ("5".into(), "file 1".to_owned()));
    }
    fs::remove_file(bench.path("coldpress.toml")).unwrap();
    let bare = run(&bench, "coldpress", &["config", "--json"], &[]);
    assert_eq!(setting(&bare, "uploads"), ("32".into(), "default".to_owned()));
    assert_eq!(setting(&bare, "store"), (Value::Null, "default".to_owned()));
    // No secret is printed, in text neither.
    let secrets = [("COLDPRESS_CREDS", "me:secret")];
    for args in [&["config", "--config", "coldread.toml"][..], &["config", "--json", "--config", "coldread.toml"]] {
        let said = String::from_utf8(stdout(&run(&bench, "coldread", args, &secrets))).unwrap();
        assert!(
            !said.contains("secret") && said.contains("redis://***@a,redis://b") && said.contains("(hidden)"),
            "{said}"
        );
    }
}

#[test]
fn settings_take_effect_and_give_way_to_options_that_exclude_them() {
    let bench = Bench::new();
    sample().oci_layout(&bench.path("image"), Packing::Gzip);
    let convert = |options: &[&str], variables: &[(&str, &str)]| {
        let args = [&["convert", "oci:image", "--json", "--no-cache"], options].concat();
        let output = run(&bench, "coldpress", &args, variables);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (serde_json::from_slice::<Value>(&stdout(&output)).unwrap()["root_digest"].clone(), said)
    };
    let dry = &["--dry-run"][..];
    let (usual, said) = convert(dry, &[]);
    assert!(!said.contains("coldpress.toml"), "{said}");
    let (none, _) = convert(&["--dry-run", "--compression", "none", "--free", "32MiB"], &[]);
    assert_ne!(usual, none);
    assert_eq!(convert(dry, &[("COLDPRESS_COMPRESSION", "none"), ("COLDPRESS_FREE", "32MiB")]).0, none);
    fs::write(bench.path("coldpress.toml"), "# of the project\ncompression = \"none\"\nfree = '32MiB'\n").unwrap();
    let (by_file, said) = convert(dry, &[]);
    assert_eq!(by_file, none);
    assert!(said.contains("coldpress: coldpress.toml sets "), "{said}");
    assert_eq!(convert(dry, &[("COLDPRESS_CONFIG", "/dev/null")]).0, usual);
    // A named file may say where data goes, and the command uses it.
    fs::write(bench.path("ci.toml"), "store = './by-file'\nkey = 'file:coldpress.key'\nsalt-file = 'none.salt'\n")
        .unwrap();
    let salt = [("COLDPRESS_CONFIG", "ci.toml"), ("COLDPRESS_SALT_FILE", "coldpress.key")];
    assert_eq!(convert(&["-o", "app.cpm"], &salt).0, usual);
    assert!(bench.path("by-file").is_dir() && bench.path("app.cpm").is_file());
    // What an option excludes is left out: --heal cannot be used with any of these.
    let variables = [("COLDPRESS_STORE", "by-file"), ("COLDPRESS_COMPRESSION", "none"), ("COLDPRESS_ROOT", "other")];
    stdout(&run(&bench, "coldpress", &["convert", "oci:image", "--heal", "app.cpm"], &variables));
}

#[test]
fn a_switch_of_the_environment_is_on_unless_it_says_no_and_gives_way_to_a_value() {
    let bench = Bench::new();
    fs::write(bench.path("coldread.toml"), "cache = 'by-file'\n").unwrap();
    let of = |name: &str, variables: &[(&str, &str)]| {
        let args = ["config", "--json", "--", "mount", "m", "d", "--config", "coldread.toml"];
        setting(&run(&bench, "coldread", &args, variables), name)
    };
    let (cache, off) = (("COLDREAD_CACHE", "dir"), ("COLDREAD_NO_CACHE", "true"));
    let by_file = (Value::from("by-file"), "file 1".to_owned());
    for (value, is_on) in [("true", true), ("1", true), ("yes", true), ("false", false), ("0", false)] {
        let variables = [("COLDREAD_NO_CACHE", value)];
        assert_eq!(
            of("no-cache", &variables),
            (is_on.to_string().into(), "environment \"COLDREAD_NO_CACHE\"".to_owned())
        );
        let expected = if is_on { (Value::Null, "default".to_owned()) } else { by_file.clone() };
        assert_eq!(of("cache", &variables), expected, "{value}");
    }
    assert_eq!(of("cache", &[("COLDREAD_NO_CACHE", "")]), by_file);
    assert_eq!(of("cache", &[cache, off]), ("dir".into(), "environment \"COLDREAD_CACHE\"".to_owned()));
    assert_eq!(of("no-cache", &[cache, off]).1, "default");
}

#[test]
fn mistakes_name_the_file_the_line_and_the_key() {
    let bench = Bench::new();
    let mut all = String::new();
    for (program, text) in [
        ("coldpress", "compresion = 'zstd'\n"),
        ("coldpress", "\n\nthreads = \"many\"\n"),
        ("coldpress", "threads = true\n"),
        ("coldpress", "threads = 4096\n"),
        ("coldpress", "compression = 'zip'\n"),
        ("coldpress", "compression = ['zstd']\n"),
        ("coldpress", "creds = 'me:secret'\n"),
        ("coldpress", "plain-http = 'yes'\n"),
        ("coldpress", "store-style = 'dns'\n"),
        ("coldpress", "[convert]\nthreads = 4\n"),
        ("coldpress", "threads = \n"),
        ("coldpress", "salt-file = 'a'\nsalt-key = 'aws-kms://b'\n"),
        ("coldread", "cache_max = '8GiB'\n"),
        ("coldread", "memory = 'much'\n"),
        ("coldread", "zone = ['redis://a', 3]\n"),
        ("coldread", "sandbox = 'maybe'\n"),
        ("coldread", "something-else = 1\n"),
    ] {
        fs::write(bench.path("named.toml"), text).unwrap();
        let args: &[&str] = if program == "coldpress" {
            &["convert", "oci:image", "-o", "o", "--config", "named.toml"]
        } else {
            &["mount", "m", "d", "--config", "named.toml"]
        };
        let output = run(&bench, program, args, &[]);
        assert!(!output.status.success());
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("named.toml:") && !said.contains("secret"), "{said}");
        all.push_str(&format!("{text}    {}\n\n", said.trim_end().replace('\n', "\n    ")));
    }
    // The same from the working directory: what could do harm is refused.
    for name in [
        "store = 's3://theirs'",
        "key = 'age:theirs'",
        "store-endpoint = 'https://theirs'",
        "plain-http = true",
        "max-size = '1TiB'",
    ] {
        fs::write(bench.path("coldpress.toml"), format!("{name}\n")).unwrap();
        let output = run(&bench, "coldpress", &["inspect", "app.cpm"], &[]);
        assert_eq!(output.status.code(), Some(1), "{name}");
        let said = String::from_utf8(output.stderr).unwrap();
        all.push_str(&format!("coldpress.toml: {name}\n    {}\n\n", said.trim_end().replace('\n', "\n    ")));
    }
    fs::remove_file(bench.path("coldpress.toml")).unwrap();
    let output = run(&bench, "coldread", &["config", "--config", "missing.toml"], &[]);
    all.push_str(&String::from_utf8(output.stderr).unwrap());
    let output = run(&bench, "coldpress", &["config"], &[("COLDPRESS_THREADS", "0")]);
    all.push_str(&String::from_utf8(output.stderr).unwrap());
    insta::assert_snapshot!("mistakes", all);
}

/// The machine's own /etc stays as it is: the file is in a mount namespace of this test.
#[test]
fn the_file_in_etc_is_read_unless_others_can_write_it() {
    let bench = Bench::new();
    let config = |mode: &str| {
        let script = format!(
            "mount -t tmpfs none /etc && mkdir /etc/coldread && echo 'memory = \"64MiB\"' >/etc/coldread/coldread.toml && \
             chmod {mode} /etc/coldread/coldread.toml && exec {} config",
            env!("CARGO_BIN_EXE_coldread")
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script]).current_dir(bench.dir.path()).output().unwrap()
    };
    let said = String::from_utf8(stdout(&config("644"))).unwrap();
    assert!(said.contains("/etc/coldread/coldread.toml:1"), "{said}");
    let output = config("666");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("its mode is 666, so others can write it") && said.contains("chmod go-w"), "{said}");
}

#[test]
fn every_setting_is_documented() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reference/configuration.md")).unwrap();
    let tables = page.split("## Settings of ").skip(1);
    for (program, table) in ["coldpress", "coldread"].into_iter().zip(tables) {
        let bench = Bench::new();
        let report: Value = serde_json::from_slice(&stdout(&run(&bench, program, &["config", "--json"], &[]))).unwrap();
        let known: Vec<&str> =
            report["settings"].as_array().unwrap().iter().map(|setting| setting["name"].as_str().unwrap()).collect();
        let documented: Vec<&str> =
            table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
        assert_eq!(known, documented, "{program}");
    }
}
