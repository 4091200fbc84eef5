//! Documents: their links lead somewhere, and the commands of the tutorial work as they stand there.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::Bench;
use crate::engines::Engine;

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the Markdown files of the project, the README first.
fn pages() -> Vec<PathBuf> {
    let mut pages = vec![project().join("README.md"), project().join("CHANGELOG.md")];
    let mut directories = vec![project().join("docs")];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    pages
}

/// Returns the anchor that a heading gets: lower case, spaces as `-`, without punctuation.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|letter| letter.is_alphanumeric() || [' ', '-', '_'].contains(letter));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

/// Returns the targets of the links and pictures in `text`, outside code.
fn links(text: &str) -> Vec<&str> {
    let mut is_code = false;
    let lines = text.lines().filter(|line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    });
    lines.flat_map(|line| line.split("](").skip(1).filter_map(|rest| rest.split(')').next())).collect()
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let mut dead = Vec::new();
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for link in links(&text).into_iter().filter(|link| !link.contains("://")) {
            let (path, fragment) = link.split_once('#').map_or((link, None), |(path, fragment)| (path, Some(fragment)));
            let target = if path.is_empty() { page.clone() } else { page.with_file_name(path) };
            let has = |fragment: &str| {
                let text = std::fs::read_to_string(&target).unwrap_or_default();
                let headings = text.lines().filter(|line| line.starts_with('#'));
                headings.map(|line| anchor(line.trim_start_matches('#').trim())).any(|found| found == fragment)
            };
            if !target.exists() || !fragment.is_none_or(has) {
                dead.push(format!("{}: {link}", page.strip_prefix(project()).unwrap().display()));
            }
        }
    }
    assert!(dead.is_empty(), "dead links:\n{}", dead.join("\n"));
}

#[test]
fn links_are_found_outside_code_alone() {
    assert_eq!(links("[a](b.md) and ![c](d.svg#x)\n```\n[e](f)\n```\n"), ["b.md", "d.svg#x"]);
    assert_eq!(anchor("In a build pipeline"), "in-a-build-pipeline");
}

/// A command of a page, and the lines that it is said to print.
struct Step<'a> {
    command: &'a str,
    prints: Vec<&'a str>,
}

/// Returns the commands in the console blocks of `page`.
fn steps(page: &str) -> Vec<Step<'_>> {
    let blocks = page.split("```console\n").skip(1).filter_map(|rest| rest.split("```").next());
    let mut steps: Vec<Step<'_>> = Vec::new();
    for line in blocks.flat_map(str::lines) {
        match line.strip_prefix("$ ") {
            Some(command) => steps.push(Step { command, prints: Vec::new() }),
            None => steps.last_mut().expect("a command comes first").prints.push(line),
        }
    }
    steps
}

/// Runs the console blocks of `page` in one shell, as a reader would, and checks what they print: `…` stands for anything.
///
/// A reader waits until a command in the background says that it is ready; so does the shell. `sudo` is the test's own, since it runs as root.
fn run_page(bench: &Bench, page: &str, environment: &[(&str, &str)]) -> usize {
    let text = std::fs::read_to_string(project().join(page)).unwrap();
    let steps = steps(&text);
    let mut script = String::from("set -e\n");
    for (number, step) in steps.iter().enumerate() {
        script.push_str(&format!("echo '@@{number}'\n"));
        match step.command.strip_suffix(" &") {
            Some(command) => script.push_str(&format!(
                "{command} >ready.{number} 2>&1 &\nfor i in $(seq 300); do [ -s ready.{number} ] && break; sleep 0.1; done\ncat ready.{number}\n"
            )),
            None => script.push_str(&format!("{}\n", step.command)),
        }
    }
    let tools = bench.path("tools");
    std::fs::create_dir(&tools).unwrap();
    std::fs::write(tools.join("sudo"), "#!/bin/sh\nexec \"$@\"\n").unwrap();
    std::fs::set_permissions(tools.join("sudo"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let work = bench.path("work");
    std::fs::create_dir(&work).unwrap();
    let programs = Path::new(env!("CARGO_BIN_EXE_coldpress")).parent().unwrap();
    let output = Command::new("bash")
        .args(["-c", &format!("exec 2>&1\n{script}")])
        .current_dir(&work)
        .env_clear()
        .env("PATH", format!("{}:{}:/usr/sbin:/usr/bin:/sbin:/bin", tools.display(), programs.display()))
        .env("HOME", &work)
        .env("COLDREAD_RUN_DIR", bench.path("run"))
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{page}: a command failed:\n{printed}");
    for (number, step) in steps.iter().enumerate() {
        let of_step = printed.split(&format!("@@{number}\n")).nth(1).unwrap().split("@@").next().unwrap();
        for line in &step.prints {
            let parts: Vec<&str> = line.split('…').collect();
            let is_like = |found: &str| match parts[..] {
                [whole] => found == whole,
                _ => found.starts_with(parts[0]) && found.ends_with(parts[parts.len() - 1]),
            };
            assert!(of_step.lines().any(is_like), "{page}: `{}` printed no line `{line}`:\n{of_step}", step.command);
        }
    }
    steps.len()
}

/// From `docker build` to a program that runs from chunks, by the tutorial alone.
#[test]
fn the_tutorial_works_as_it_stands() {
    let engine = Engine::docker("");
    let bench = Bench::new();
    let environment = [("DOCKER_HOST", engine.host()), ("DOCKER_BUILDKIT", "0")];
    let commands = run_page(&bench, "docs/tutorial/getting-started.md", &environment);
    assert!((8..=11).contains(&commands), "{commands} commands");
}
