//! What a build pipeline does with us: the action and the GitLab template, their steps run in a shell.

use std::process::{Command, Output};

use serde_json::Value;

use crate::support::common::{Bench, Image, Layer, Packing, noise, stdout};
use crate::support::servers::python;

fn image(version: &[u8]) -> Image {
    Image::new([Layer::new().file("bin/app", &noise(800_000, 1)), Layer::new().file("version", version)])
}

/// Runs the pipeline `file` of the project in the bench's directory.
fn run(bench: &Bench, file: &str, given: &[&str]) -> Output {
    let project = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let programs = std::path::Path::new(env!("CARGO_BIN_EXE_coldpress")).parent().unwrap();
    Command::new(python("python"))
        .arg(project.join("tools/pipeline.py"))
        .arg(project.join(file))
        .args(given)
        .current_dir(bench.dir.path())
        .env("PATH", format!("{}:/usr/bin:/bin", programs.display()))
        .env_remove("HOME")
        .output()
        .unwrap()
}

fn outputs(output: &Output) -> Value {
    serde_json::from_slice(&stdout(output)).unwrap()
}

#[test]
fn the_action_converts_keeps_a_cache_and_hands_on_its_results() {
    let bench = Bench::new();
    image(b"1").oci_layout(&bench.path("one"), Packing::Gzip);
    image(b"2").oci_layout(&bench.path("two"), Packing::Gzip);
    let given = ["store=store", "key=file:coldpress.key"];
    let first = outputs(&run(&bench, "action.yml", &[&["image=oci:one"], &given[..]].concat()));
    assert_eq!(first["manifest"], "image.cpm");
    let with = ["image=oci:two", "output=two.cpm", "options=--threads 2 --free 16MiB", "max-new-bytes=100MiB"];
    let second = outputs(&run(&bench, "action.yml", &[&with[..], &given].concat()));
    let inspected: Value =
        serde_json::from_slice(&stdout(&bench.coldpress(&["inspect", "two.cpm", "--json"]))).unwrap();
    assert_eq!(second["root_digest"], inspected["root_digest"]);
    assert_ne!(first["root_digest"], second["root_digest"]);
    assert!(bench.path(".coldpress-cache").is_dir());
    let summary = std::fs::read_to_string(bench.path("summary.md")).unwrap();
    insta::assert_snapshot!("action_summary", without_figures(&summary));
    // A build that bloats its image fails.
    let refused = run(
        &bench,
        "action.yml",
        &[&["image=oci:two", "max-new-bytes=1KiB", "options=--root r2"], &given[..]].concat(),
    );
    assert_eq!(refused.status.code(), Some(3));
}

#[test]
fn the_gitlab_template_converts_keeps_a_cache_and_hands_on_its_results() {
    let bench = Bench::new();
    image(b"1").oci_layout(&bench.path("one"), Packing::Gzip);
    let given = ["IMAGE=oci:one", "COLDPRESS_STORE=store", "COLDPRESS_KEY=file:coldpress.key"];
    let first = outputs(&run(&bench, "templates/coldpress.yml", &given));
    assert_eq!(first["manifest"], "image.cpm");
    assert!(bench.path(".coldpress-cache").is_dir() && bench.path("coldpress.md").exists());
    // Everything is known, also which of the keys was set by hand.
    let dry = ["OPTIONS=--dry-run --compression none", "COLDPRESS_CACHE=other"];
    let second = outputs(&run(&bench, "templates/coldpress.yml", &[&given[..], &dry].concat()));
    assert_eq!((&second["manifest"], &second["artifact"]), (&"".into(), &"".into()));
    assert_ne!(second["new_bytes"], "0");
    let keys: Vec<&str> = second.as_object().unwrap().keys().map(String::as_str).collect();
    assert!(keys.iter().all(|key| key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')), "{keys:?}");
}

/// Times vary.
fn without_figures(summary: &str) -> String {
    let lines = summary.lines().map(|line| match line.rsplit_once("; ") {
        Some((before, time)) if time.ends_with(" s") => format!("{before}; TIME"),
        _ => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}
