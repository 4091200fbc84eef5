//! The field's words: help and documents use the terms of the glossary, and none of the terms that they replaced.

use crate::cli::help_pages;
use crate::support::common::Bench;

/// Terms of this project alone, each with the term that a reader knows.
const BANNED: [(&str, &str); 27] = [
    ("door", "NBD export, FUSE file or vhost-user-blk backend; exports"),
    ("doors", "exports"),
    ("tier", "cache level; of metadata: size class"),
    ("tiers", "cache levels"),
    ("least right", "least privilege"),
    ("least rights", "least privilege"),
    ("right to put", "write-only credentials"),
    ("who may only", "credentials that only allow …"),
    ("gotten", "fetched"),
    ("there already", "cached; already stored"),
    ("put again", "re-uploaded"),
    ("puts", "uploads"),
    ("a look", "a lookup"),
    ("second request", "hedged request"),
    ("second requests", "hedged requests"),
    ("takes long", "straggler"),
    ("owes", "outstanding request"),
    ("spoiled", "corrupt"),
    ("opened chunk", "decrypted chunk"),
    ("opened chunks", "decrypted chunks"),
    ("file without a name", "unlinked file"),
    ("files without a name", "unlinked files"),
    ("tells", "reports, logs, prints"),
    ("told", "reported, logged, printed"),
    ("came ahead", "prefetched"),
    ("heal", "repair"),
    ("tried again", "retried"),
];

/// Pages that are written in the field's words; a page that is rewritten joins them.
const PAGES: [&str; 12] = [
    "README.md",
    "docs/README.md",
    "docs/reference/glossary.md",
    "docs/tutorial/getting-started.md",
    "docs/how-to/monitor-and-alert.md",
    "docs/how-to/startup-profiles.md",
    "docs/how-to/troubleshooting.md",
    "docs/how-to/firecracker-qemu-cloud-hypervisor.md",
    "docs/how-to/writable-images.md",
    "docs/how-to/zone-cache.md",
    "docs/explanation/comparison.md",
    "docs/contributing/testing.md",
];

/// Returns `text` as lower-case words with single spaces, without code: blocks, spans, options and identifiers.
fn prose(text: &str) -> String {
    let mut is_code = false;
    let mut words = String::from(" ");
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
            continue;
        }
        if is_code || line.starts_with("    ") && line.trim_start().starts_with("cold") {
            continue;
        }
        // Every second part is a code span.
        for word in line.split('`').step_by(2).collect::<Vec<_>>().join(" code ").split_whitespace() {
            if word.starts_with("--") || word.contains('_') || word.contains('/') {
                words.push_str("code ");
                continue;
            }
            let letters = word.trim_matches(|letter: char| !letter.is_alphanumeric());
            words.push_str(&letters.to_lowercase());
            // No term spans the end of a sentence.
            words.push_str(if word.ends_with(['.', ':', ';']) { " . " } else { " " });
        }
        words.push_str(if line.trim().is_empty() { ". " } else { "" });
    }
    words
}

/// Returns what is wrong with `text`, a line each.
fn banned(name: &str, text: &str) -> Vec<String> {
    let prose = prose(text);
    let found = BANNED.iter().filter(|(term, _)| prose.contains(&format!(" {term} ")));
    found.map(|(term, instead)| format!("{name}: `{term}`; the field says: {instead}")).collect()
}

#[test]
fn banned_terms_are_found_in_prose_alone() {
    assert_eq!(banned("page", "Several doors, each of its\nown.").len(), 1);
    assert_eq!(banned("page", "The disk is\ntold").len(), 1);
    for fine in
        ["`convert --heal` repairs", "--heal MANIFEST", "coldread_tier_hits", "```\ndoor\n```\n", "outdoors", "indoor"]
    {
        assert!(banned("page", fine).is_empty(), "{fine}");
    }
}

/// Every message that a person can cause is in a snapshot.
#[test]
fn messages_use_the_words_of_the_field() {
    let mut wrong = Vec::new();
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/snapshots")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "snap") {
            let text = std::fs::read_to_string(&path).unwrap();
            // Names of fixtures and of images are not messages.
            let messages = text
                .lines()
                .filter(|line| [" error: ", " warning: ", "  hint: "].iter().any(|mark| line.contains(mark)));
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            wrong.extend(messages.flat_map(|message| banned(&name, message)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn help_and_documents_use_the_words_of_the_field() {
    let mut wrong = Vec::new();
    for (command, page) in help_pages(&Bench::new(), "--help") {
        wrong.extend(banned(&command, &page));
    }
    for page in PAGES {
        let text = std::fs::read_to_string(format!("{}/{page}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        wrong.extend(banned(page, &text));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
