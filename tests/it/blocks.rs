//! Runs the command blocks of documents as a reader would, and compares what they print with what the page shows.
//!
//! Each page runs in one shell, in a directory, mounts, processes and a network of its own. In the page's source:
//! - ```` ```sh ```` blocks are run; of ```` ```console ```` blocks, lines after `$ ` are run (`> ` continues one) and the others are the expected output.
//!   In these, `…` stands for any text, and a line `…` for any lines.
//! - `<!-- setup`, up to `-->`, is run and not shown.
//! - `<!-- file: PATH -->` has the next block written to PATH.
//! - `<!-- not run: REASON -->` excludes the next block. `documents::NOT_RUN` lists all of these.
//!
//! A command that ends in `&` stays in the background; the shell waits until it reports that it serves.

use std::fmt::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::support::common::Bench;

/// Returns the root directory of the project.
pub fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A command of a page, and the lines that the page shows as its output.
#[derive(Debug, Default, PartialEq)]
pub struct Step {
    command: String,
    prints: Vec<String>,
}

/// What a page has the shell do, in order.
#[derive(Debug, PartialEq)]
pub enum Part {
    Setup(String),
    File { path: String, text: String },
    Step(Step),
    NotRun(String),
}

/// What a comment says about the block that follows it.
enum Directive {
    File(String),
    NotRun(String),
}

/// Languages of blocks that show data.
const DATA: [&str; 9] = ["yaml", "json", "ini", "toml", "text", "dockerfile", "promql", "mermaid", "python"];

/// Returns the parts of a page in Markdown, or what is wrong with its blocks.
pub fn parts(page: &str) -> Result<Vec<Part>, String> {
    let (mut parts, mut directive) = (Vec::new(), None);
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let comment = line.strip_prefix("<!-- ").map(|rest| rest.trim_end_matches(" -->"));
        if comment == Some("setup") {
            parts.push(Part::Setup(lines.by_ref().take_while(|line| *line != "-->").fold(String::new(), append)));
        } else if let Some(path) = comment.and_then(|comment| comment.strip_prefix("file: ")) {
            directive = Some(Directive::File(path.to_owned()));
        } else if let Some(reason) = comment.and_then(|comment| comment.strip_prefix("not run: ")) {
            directive = Some(Directive::NotRun(reason.to_owned()));
        } else if let Some(language) = line.trim_start().strip_prefix("```") {
            let indent = line.len() - line.trim_start().len();
            let block = lines.by_ref().take_while(|line| line.trim() != "```");
            let block = block.map(|line| line.get(indent..).unwrap_or("")).fold(String::new(), append);
            add_block(&mut parts, language, &block, directive.take())?;
        } else if line.starts_with("    ") && ["coldpress ", "coldread "].iter().any(|name| line[4..].starts_with(name))
        {
            return Err(format!("commands stand in fenced blocks: `{line}`"));
        } else if directive.is_some() && !line.trim().is_empty() {
            return Err(format!("no block follows the comment before `{line}`"));
        }
    }
    Ok(parts)
}

fn append(mut text: String, line: &str) -> String {
    text.push_str(line);
    text.push('\n');
    text
}

fn add_block(parts: &mut Vec<Part>, language: &str, block: &str, directive: Option<Directive>) -> Result<(), String> {
    match (language, directive) {
        ("sh" | "console", Some(Directive::NotRun(reason))) => parts.push(Part::NotRun(reason)),
        (_, Some(Directive::File(path))) => parts.push(Part::File { path, text: block.to_owned() }),
        ("sh", None) => parts.extend(script(block).into_iter().map(Part::Step)),
        ("console", None) => parts.extend(session(block)?.into_iter().map(Part::Step)),
        (data, None) if DATA.contains(&data) => {}
        (other, _) => return Err(format!("a block of the language `{other}`: use sh, console, or one of {DATA:?}")),
    }
    Ok(())
}

/// Returns whether the shell needs further lines after `command`.
fn is_open(command: &str) -> bool {
    let here =
        command.split("<<").nth(1).map(|rest| rest.trim_start_matches('\'').split(['\'', ' ', '\n', ')']).next());
    let is_closed = here.flatten().is_none_or(|word| command.lines().skip(1).any(|line| line.trim() == word));
    ['\\', '|', '&'].iter().any(|&end| command.ends_with(end)) && !command.ends_with(" &") || !is_closed
}

/// Returns the commands of a script, each with the lines that continue it.
fn script(block: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in block.lines() {
        match steps.last_mut() {
            Some(last) if is_open(&last.command) => last.command.extend(["\n", line]),
            _ if line.trim().is_empty() => {}
            _ => steps.push(Step { command: line.to_owned(), prints: Vec::new() }),
        }
    }
    steps
}

/// Returns the commands of a session, each with what it prints.
fn session(block: &str) -> Result<Vec<Step>, String> {
    let mut steps: Vec<Step> = Vec::new();
    for line in block.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step { command: command.to_owned(), prints: Vec::new() });
            continue;
        }
        let last = steps.last_mut().ok_or(format!("a session begins with a command, not with `{line}`"))?;
        match line.strip_prefix("> ") {
            Some(more) if last.prints.is_empty() => last.command.extend(["\n", more]),
            _ => last.prints.push(line.to_owned()),
        }
    }
    Ok(steps)
}

/// Returns the command without ` &`, if it stays in the background.
fn background(command: &str) -> Option<&str> {
    let last = command.rfind('\n').map_or(0, |at| at + 1);
    let end = command[last..].find("  #").map_or(command.len(), |at| last + at);
    command[..end].trim_end().strip_suffix(" &")
}

/// Returns whether `line` is like `pattern`, in which `…` stands for any text.
fn is_like(pattern: &str, line: &str) -> bool {
    let mut pieces = pattern.split('…');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    let pieces: Vec<&str> = pieces.collect();
    let Some((last, middle)) = pieces.split_last() else { return rest.is_empty() };
    for piece in middle {
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Returns whether the printed lines are those of the page.
fn are_like(patterns: &[String], lines: &[&str]) -> bool {
    match (patterns, lines) {
        ([], lines) => lines.is_empty(),
        ([any, patterns @ ..], lines) if any == "…" => (0..=lines.len()).any(|at| are_like(patterns, &lines[at..])),
        ([pattern, patterns @ ..], [line, lines @ ..]) => is_like(pattern, line) && are_like(patterns, lines),
        _ => false,
    }
}

/// Places that pages write to: each is empty, or a copy, for the page alone.
const ISOLATE: &str = r#"
exec 2>&1
ip link set lo up
mkdir "$BENCH/layers"
mount -t tmpfs tmpfs "$BENCH/layers"
is_ours() { case "$PROJECT/ $BENCH/" in "$1"/*|*" $1"/*) false;; esac; }
for place in /mnt /srv /run /var/lib /var/cache /var/tmp; do
    if [ -d "$place" ] && is_ours "$place"; then mount -t tmpfs tmpfs "$place"; fi
done
for place in etc usr/local; do
    mkdir -p "$BENCH/layers/$place/upper" "$BENCH/layers/$place/work"
    mount -t overlay overlay -o "lowerdir=/$place,upperdir=$BENCH/layers/$place/upper,workdir=$BENCH/layers/$place/work" "/$place"
done
wait_ready() {
    for _ in $(seq 300); do
        if grep -qE 'mounted at|listening|is served' "$1" 2>/dev/null; then break; fi
        kill -0 "$2" 2>/dev/null || break
        sleep 0.1
    done
    cat "$1"
}
finish() { for job in $(jobs -p); do kill "$job" 2>/dev/null || true; done; wait; }
trap finish EXIT
set -eE -o pipefail
trap 'echo "@@failed: $BASH_COMMAND"' ERR
"#;

/// Returns the script that runs `parts`, and prints `@@N` before each step.
fn shell(parts: &[Part]) -> String {
    let mut script = String::from(ISOLATE);
    for (number, part) in parts.iter().enumerate() {
        let _ = match part {
            Part::Setup(commands) => writeln!(script, "echo '@@setup'\n{commands}"),
            Part::File { path, text } => {
                writeln!(script, "mkdir -p \"$(dirname {path})\"\ncat >{path} <<'END OF FILE'\n{text}END OF FILE")
            }
            Part::Step(step) => match background(&step.command) {
                Some(command) => {
                    writeln!(
                        script,
                        "echo '@@{number}'\n{command} >ready.{number} 2>&1 &\nwait_ready ready.{number} $!"
                    )
                }
                None => writeln!(script, "echo '@@{number}'\n{}", step.command),
            },
            Part::NotRun(_) => Ok(()),
        };
    }
    script
}

/// Prepares tools that stand for those of a reader: `sudo` of one who is root already.
fn tools(bench: &Bench) -> std::path::PathBuf {
    let tools = bench.path("tools");
    std::fs::create_dir(&tools).unwrap();
    let sudo = "#!/bin/sh\nwhile case \"$1\" in -*) true;; *=*) true;; *) false;; esac; do case \"$1\" in *=*) export \"$1\";; esac; shift; done\nexec \"$@\"\n";
    std::fs::write(tools.join("sudo"), sudo).unwrap();
    std::fs::set_permissions(tools.join("sudo"), PermissionsExt::from_mode(0o755)).unwrap();
    tools
}

/// Runs the blocks of `page`; returns how many commands they have.
pub fn run(page: &str, environment: &[(&str, &str)]) -> usize {
    let text = std::fs::read_to_string(project().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
    let parts = parts(&text).unwrap_or_else(|wrong| panic!("{page}: {wrong}"));
    let bench = Bench::new();
    let work = bench.path("work");
    std::fs::create_dir(&work).unwrap();
    let programs = Path::new(env!("CARGO_BIN_EXE_coldpress")).parent().unwrap();
    let (venv, tools) = (project().join("target/venv/bin"), tools(&bench));
    let path =
        [&tools, programs, &venv, Path::new("/usr/sbin:/usr/bin:/sbin:/bin")].map(|path| path.display().to_string());
    let output = Command::new("unshare")
        .args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", &shell(&parts)])
        .current_dir(&work)
        .env_clear()
        .env("PATH", path.join(":"))
        .envs([("HOME", &work), ("COLDREAD_RUN_DIR", &bench.path("run"))])
        .envs([("PROJECT", project()), ("BENCH", bench.dir.path())])
        .envs(environment.iter().copied())
        .output()
        .expect("unshare (util-linux)");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{page}: a command failed:\n{printed}");
    let steps = parts.iter().enumerate().filter_map(|(number, part)| match part {
        Part::Step(step) => Some((number, step)),
        _ => None,
    });
    for (number, step) in steps.clone().filter(|(_, step)| !step.prints.is_empty()) {
        let of_step = printed.split(&format!("@@{number}\n")).nth(1).unwrap_or_default().split("@@").next().unwrap();
        let lines: Vec<&str> = of_step.lines().collect();
        assert!(
            are_like(&step.prints, &lines),
            "{page}: `{}` printed\n{of_step}\nand the page shows\n{}\n",
            step.command,
            step.prints.join("\n")
        );
    }
    steps.count()
}

#[test]
fn blocks_become_commands() {
    let page = "text\n<!-- setup\nhidden\n-->\n```console\n$ one \\\n> two\na…c\n$ three\n```\n\n<!-- not run: needs a cloud -->\n```sh\nfour\n```\n\
                - item\n  ```sh\n  cat >x <<EOF\n  five six\n  EOF\n  seven |\n    eight &  # stays\n  ```\n<!-- file: /etc/x -->\n```ini\n[nine]\n```\n";
    let step = |command: &str, prints: &[&str]| {
        Part::Step(Step { command: command.into(), prints: prints.iter().map(|&line| line.into()).collect() })
    };
    let expected = [
        Part::Setup("hidden\n".into()),
        step("one \\\ntwo", &["a…c"]),
        step("three", &[]),
        Part::NotRun("needs a cloud".into()),
        step("cat >x <<EOF\nfive six\nEOF", &[]),
        step("seven |\n  eight &  # stays", &[]),
        Part::File { path: "/etc/x".into(), text: "[nine]\n".into() },
    ];
    assert_eq!(parts(page).unwrap(), expected);
    assert_eq!(background("seven \\\n  eight &  # stays"), Some("seven \\\n  eight"));
    for wrong in ["```\nx\n```\n", "```console\nx\n```\n", "<!-- not run: x -->\ntext\n", "    coldpress keygen\n"] {
        assert!(parts(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn wildcards_stand_for_text_and_for_lines() {
    for (pattern, line, expected) in
        [("a…c", "abc", true), ("a…c", "abd", false), ("…b…", "abc", true), ("a", "ab", false), ("a…b…c", "acb", false)]
    {
        assert_eq!(is_like(pattern, line), expected, "{pattern} {line}");
    }
    let patterns = ["a", "…", "d"].map(str::to_owned);
    assert!(are_like(&patterns, &["a", "b", "c", "d"]) && are_like(&patterns, &["a", "d"]));
    assert!(!are_like(&patterns, &["a", "b"]) && !are_like(&patterns[..1], &["a", "b"]));
}
