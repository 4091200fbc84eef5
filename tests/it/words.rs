//! The field's words: help and documents use the terms of the glossary, and none of the terms that they replaced.

use std::path::{Path, PathBuf};

use crate::cli::help_pages;
use crate::support::common::Bench;

/// Terms of this project alone, each with the term that a reader knows.
const BANNED: [(&str, &str); 44] = [
    ("door", "NBD export, FUSE file or vhost-user-blk backend; exports"),
    ("doors", "exports"),
    ("tier", "cache level; of metadata: size class"),
    ("tiers", "cache levels"),
    ("least right", "least privilege"),
    ("least rights", "least privilege"),
    ("right to put", "write-only credentials"),
    ("who may only", "credentials that only allow …"),
    ("who may put", "credentials that can upload"),
    ("gotten", "fetched"),
    ("there already", "cached; already stored"),
    ("put again", "re-uploaded"),
    ("puts", "uploads"),
    ("known puts", "upload journal"),
    ("a look", "a lookup"),
    ("second request", "hedged request"),
    ("second requests", "hedged requests"),
    ("takes long", "straggler"),
    ("took long", "straggler"),
    ("owes", "outstanding request"),
    ("spoiled", "corrupt"),
    ("opened chunk", "decrypted chunk"),
    ("opened chunks", "decrypted chunks"),
    ("sealed in another way", "encrypted differently"),
    ("file without a name", "unlinked file"),
    ("files without a name", "unlinked files"),
    ("leave free for", "reserve free space"),
    ("tell", "report, log, print; show, reveal"),
    ("tells", "reports, logs, prints; shows, reveals"),
    ("told", "reported, logged, printed"),
    ("came ahead", "prefetched"),
    ("heal", "repair"),
    ("tried again", "retried"),
    ("safe to try again", "retryable"),
    ("in vain", "without a result, timed out"),
    ("in clear", "unencrypted"),
    ("hung up on", "disconnected"),
    ("broke off", "aborted"),
    ("at hand", "available"),
    ("one behind the other", "in sequence"),
    ("what cannot be", "an impossible value"),
    ("as it must be", "the specific next step"),
    ("dedup scope", "deduplication scope"),
    ("dedup scopes", "deduplication scopes"),
];

/// Pages whose prose is not rewritten yet. None may join them.
const NOT_YET: [&str; 3] = ["docs/design.md", "docs/explanation/performance.md", "docs/explanation/threat-model.md"];

/// Returns all pages: those at the root of the project, and all below docs/.
fn pages() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = below(&root.join("docs"), "md");
    pages.extend(std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()));
    pages.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    let name = |path: &PathBuf| path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
    pages.iter().map(name).collect()
}

/// Returns the files below `directory` with this extension.
fn below(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.extend(below(&path, extension)),
            false if path.extension().is_some_and(|own| own == extension) => files.push(path),
            false => {}
        }
    }
    files
}

/// Returns the string literals of Rust source, without those of comments and of a test module at its end. Raw strings are texts, too.
fn literals(source: &str) -> Vec<String> {
    let source = source.split("#[cfg(test)]\nmod tests").next().unwrap();
    let (mut literals, mut rest) = (Vec::new(), source);
    while let Some(at) = rest.find(['"', '/', '\'', 'r']) {
        let (found, is_in_word) = (&rest[at..], rest[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'));
        let hashes = found[1..].len() - found[1..].trim_start_matches('#').len();
        let length = if found.starts_with("//") {
            found.find('\n').unwrap_or(found.len())
        } else if found.starts_with("/*") {
            found.find("*/").map_or(found.len(), |end| end + 2)
        } else if let Some(literal) = found.strip_prefix('"') {
            let mut is_escaped = false;
            let end = literal.find(|c| {
                let ends = c == '"' && !is_escaped;
                is_escaped = c == '\\' && !is_escaped;
                ends
            });
            let end = end.unwrap() + 2;
            literals.push(found[1..end - 1].to_owned());
            end
        } else if found.starts_with('r') && !is_in_word && found[1 + hashes..].starts_with('"') {
            let close = format!("\"{}", "#".repeat(hashes));
            let start = 2 + hashes;
            let end = start + found[start..].find(&close).unwrap();
            literals.push(found[start..end].to_owned());
            end + close.len()
        } else if found.starts_with("'\\") {
            // A character that is escaped, such as '\'' and '\u{1b}'.
            found[3..].find('\'').map_or(1, |end| end + 4)
        } else if found.starts_with("'\"'") {
            3
        } else {
            1
        };
        rest = &found[length..];
    }
    literals
}

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
fn literals_are_found_and_comments_and_tests_are_not() {
    let source = r##"
        // not "this"
        /* nor "that" */
        let quotes = ['"', '\'', '\\', 'r']; let lifetime: &'static str = "one \" and \\"; // "no"
        let raw = (r"two", r#"a "three""#, expr"four");
        #[error("five {0}")]
        #[cfg(test)]
        mod tests { "six" }
    "##;
    let source = source.replace("        ", "");
    assert_eq!(literals(&source), ["one \\\" and \\\\", "two", "a \"three\"", "four", "five {0}"]);
}

/// Every error, warning, hint and log line of the programs is a string literal, also those that no test causes.
#[test]
fn string_literals_use_the_words_of_the_field() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut wrong, mut count) = (Vec::new(), 0);
    for path in below(&root.join("src"), "rs").into_iter().filter(|path| !path.ends_with("tests.rs")) {
        let name = path.strip_prefix(root).unwrap().display().to_string();
        for literal in literals(&std::fs::read_to_string(&path).unwrap()) {
            // Prefixes of derived keys and digests are bytes of formats.
            if literal.contains(' ') && !literal.ends_with(" v1\\n") {
                count += 1;
                wrong.extend(banned(&name, &literal).iter().map(|found| format!("{found}: {literal}")));
            }
        }
    }
    assert!(count > 1_500, "{count}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
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
    let pages = pages();
    assert!(pages.len() > 40 && NOT_YET.iter().all(|page| pages.iter().any(|own| own == page)), "{pages:?}");
    for page in pages.iter().filter(|page| !NOT_YET.contains(&page.as_str())) {
        let text = std::fs::read_to_string(format!("{}/{page}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        wrong.extend(banned(page, &text));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
