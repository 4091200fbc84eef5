//! Documents: their links lead somewhere, and the commands of the README, the tutorial and the how-to pages work as they stand there.

use std::path::PathBuf;

use crate::blocks::{self, Part, project};
use crate::engines::Engine;

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

/// The site has each page once, by `docs/SUMMARY.md`.
#[test]
fn the_summary_lists_every_page() {
    let docs = project().join("docs");
    let summary = std::fs::read_to_string(docs.join("SUMMARY.md")).unwrap();
    let mut listed: Vec<PathBuf> = links(&summary).into_iter().map(|link| docs.join(link)).collect();
    listed.push(docs.join("SUMMARY.md"));
    listed.sort();
    let mut pages: Vec<PathBuf> = pages().into_iter().filter(|page| page.starts_with(&docs)).collect();
    pages.sort();
    assert_eq!(listed, pages);
}

#[test]
fn links_are_found_outside_code_alone() {
    assert_eq!(links("[a](b.md) and ![c](d.svg#x)\n```\n[e](f)\n```\n"), ["b.md", "d.svg#x"]);
    assert_eq!(anchor("In a build pipeline"), "in-a-build-pipeline");
}

/// Blocks that cannot run on a test machine, as their pages say. Each line here is a promise that no test holds.
const NOT_RUN: [(&str, &str); 10] = [
    ("README.md", "a release build takes minutes"),
    ("docs/how-to/firecracker-qemu-cloud-hypervisor.md", "needs a guest kernel, and minutes without KVM"),
    ("docs/how-to/gcs-azure.md", "needs a Google Cloud account"),
    ("docs/how-to/gcs-azure.md", "needs an Azure account"),
    ("docs/how-to/install.md", "a release build takes minutes; `make demo` and the pipeline do it"),
    ("docs/how-to/mount-on-a-host.md", "needs systemd as the init process"),
    ("docs/how-to/nbd.md", "needs the kernel module nbd"),
    ("docs/how-to/pin-and-verify.md", "needs a registry and credentials for it"),
    (
        "docs/how-to/s3-and-kms.md",
        "moto does not enforce the policy of step 5, so doctor reports that uploads can overwrite",
    ),
    ("docs/how-to/s3-and-kms.md", "moto ignores the condition of this policy, and would refuse every upload"),
];

/// Runs each page in a test of its own; `docker` has it run beside an engine of its own.
macro_rules! pages_that_run {
    ($($test:ident: $page:literal $(with $docker:ident)?;)*) => {
        const RUN: &[&str] = &[$($page),*];
        $(
            #[test]
            fn $test() {
                $(
                    let $docker = Engine::docker("");
                    let environment = [("DOCKER_HOST", $docker.host()), ("DOCKER_BUILDKIT", "0")];
                )?
                let commands = blocks::run($page, pages_that_run!(@ $(environment $docker)?));
                assert!(commands > 0, "{} has no commands", $page);
            }
        )*
    };
    (@) => { &[] };
    (@ $environment:ident $docker:ident) => { &$environment };
}

pages_that_run! {
    the_session_of_the_readme: "README.md" with docker;
    getting_started: "docs/tutorial/getting-started.md" with docker;
    installing: "docs/how-to/install.md";
    convert_in_a_pipeline: "docs/how-to/convert-in-a-pipeline.md";
    github_actions: "docs/how-to/github-actions.md";
    s3_and_kms: "docs/how-to/s3-and-kms.md";
    mount_on_a_host: "docs/how-to/mount-on-a-host.md";
    run_with_runc: "docs/how-to/run-with-runc.md";
    virtual_machines: "docs/how-to/firecracker-qemu-cloud-hypervisor.md";
    nbd: "docs/how-to/nbd.md";
    startup_profiles: "docs/how-to/startup-profiles.md";
    writable_images: "docs/how-to/writable-images.md";
    zone_cache: "docs/how-to/zone-cache.md";
    read_the_logs: "docs/how-to/read-the-logs.md";
    monitor_and_alert: "docs/how-to/monitor-and-alert.md";
    restrict_a_reader: "docs/how-to/restrict-a-reader.md";
    pin_and_verify: "docs/how-to/pin-and-verify.md";
    scrub_and_repair: "docs/how-to/scrub-and-repair.md";
    delete_old_images: "docs/how-to/delete-old-images.md";
    rotate_keys: "docs/how-to/rotate-keys.md";
    shrink_updates: "docs/how-to/shrink-updates.md";
    troubleshooting: "docs/how-to/troubleshooting.md";
    upgrade: "docs/how-to/upgrade.md";
}

/// From `docker build` to a program that runs from chunks, by the tutorial alone.
#[test]
fn the_tutorial_has_few_commands() {
    let text = std::fs::read_to_string(project().join("docs/tutorial/getting-started.md")).unwrap();
    let is_command = |part: &&Part| matches!(part, Part::Step(_));
    let commands = blocks::parts(&text).unwrap().iter().filter(is_command).count();
    assert!(commands < 10, "{commands} commands");
}

/// Every page with commands is run by a test; what is left out is listed, with its reason.
#[test]
fn no_command_is_left_out_silently() {
    let (mut not_run, mut forgotten) = (Vec::new(), Vec::new());
    for page in pages() {
        let name = page.strip_prefix(project()).unwrap().to_str().unwrap().to_owned();
        if !["README.md", "docs/tutorial/", "docs/how-to/"].iter().any(|place| name.starts_with(place)) {
            continue;
        }
        let parts =
            blocks::parts(&std::fs::read_to_string(&page).unwrap()).unwrap_or_else(|wrong| panic!("{name}: {wrong}"));
        if parts.iter().any(|part| matches!(part, Part::Step(_))) && !RUN.contains(&name.as_str()) {
            forgotten.push(name.clone());
        }
        not_run.extend(parts.into_iter().filter_map(|part| match part {
            Part::NotRun(reason) => Some((name.clone(), reason)),
            _ => None,
        }));
    }
    assert!(forgotten.is_empty(), "no test runs the commands of {forgotten:?}");
    not_run.sort();
    let expected: Vec<_> = NOT_RUN.iter().map(|(page, reason)| ((*page).to_owned(), (*reason).to_owned())).collect();
    assert_eq!(not_run, expected);
}

/// Files whose bytes are the formats: golden root digests and vectors.
const FORMATS: [&str; 6] = [
    "testdata/golden-epoch-1.txt",
    "testdata/vectors/image.cpm",
    "testdata/vectors/none.cpm",
    "testdata/vectors/zstd.cpm",
    "testdata/vectors/shards.json",
    "testdata/vectors/learned.json",
];

#[test]
fn a_changed_format_has_an_entry_in_the_changelog() {
    let changelog = std::fs::read_to_string(project().join("CHANGELOG.md")).unwrap();
    let entries = changelog.split("### Formats").nth(1).unwrap().split("\n#").next().unwrap();
    for file in FORMATS {
        let digest = coldpress::digest::Sha256::of(&std::fs::read(project().join(file)).unwrap()).to_hex();
        let entry = format!("- `{file}` is `{}`: ", &digest[..16]);
        assert!(
            entries.contains(&entry),
            "{file} changed: CHANGELOG.md needs the line `{entry}…` under \"Formats\", with the reason"
        );
    }
}
