//! Completions and manual pages: bash completes with the ones, groff has no word against the others.

use std::process::Command;

use crate::support::common::{Bench, stdout};

/// What bash offers for the last of `words`, by the completions that the program prints.
fn completed(program: &str, words: &[&str]) -> Vec<String> {
    let bench = Bench::new();
    let script = run(&bench, program, &["completions", "bash"]);
    std::fs::write(bench.path("script"), script).unwrap();
    let bash = |line: &str| {
        let output = Command::new("bash").args(["--norc", "-c", line]).current_dir(bench.dir.path()).output().unwrap();
        assert!(output.stderr.is_empty(), "{output:?}");
        String::from_utf8(stdout(&output)).unwrap()
    };
    bash("bash -n script");
    let last = words.len() - 1;
    let before = words[last - 1];
    let line = format!(
        "source ./script; complete -p {program} >/dev/null; COMP_WORDS=({}); COMP_CWORD={last}; _{program} {program} '{}' {before}; \
         printf '%s\n' \"${{COMPREPLY[@]}}\"",
        words.join(" "),
        words[last],
    );
    bash(&line).lines().map(str::to_owned).collect()
}

fn run(bench: &Bench, program: &str, args: &[&str]) -> Vec<u8> {
    stdout(&match program {
        "coldpress" => bench.coldpress(args),
        _ => bench.coldread(args),
    })
}

#[test]
fn bash_completes_commands_options_and_their_values() {
    assert_eq!(completed("coldpress", &["coldpress", "con"]), ["convert", "config"]);
    assert_eq!(completed("coldpress", &["coldpress", "diff", "--no"]), ["--no-files"]);
    assert_eq!(completed("coldpress", &["coldpress", "verify", "--store-style", "v"]), ["virtual-host"]);
    assert_eq!(completed("coldpress", &["coldpress", "completions", "fi"]), ["fish"]);
    assert_eq!(completed("coldread", &["coldread", "mo"]), ["mount"]);
    assert_eq!(completed("coldread", &["coldread", "ls", "--rec"]), ["--recursive"]);
}

/// What bash offers at the end of `line`, as readline asks for it.
fn offered(program: &str, line: &str) -> Vec<String> {
    let bench = Bench::new();
    std::fs::write(bench.path("script"), run(&bench, program, &["completions", "bash"])).unwrap();
    std::fs::write(bench.path("app image.tar"), "").unwrap();
    std::fs::write(bench.path("app.cpm"), "").unwrap();
    let words: Vec<&str> = line.split(' ').collect();
    let words = words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
    let script = format!(
        "source ./script; COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
         function=$(complete -p {program} | sed 's/.*-F \\([^ ]*\\).*/\\1/'); \
         $function {program} \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD - 1]}}\"; printf '%s\n' \"${{COMPREPLY[@]}}\""
    );
    let output = Command::new("bash").args(["--norc", "-c", &script]).current_dir(bench.dir.path()).output().unwrap();
    assert!(output.stderr.is_empty(), "{output:?}");
    let mut words: Vec<String> = String::from_utf8(stdout(&output)).unwrap().lines().map(str::to_owned).collect();
    words.sort();
    words
}

#[test]
fn bash_completes_transports_stores_keys_and_the_files_behind_them() {
    assert_eq!(offered("coldpress", "coldpress convert docker-"), ["docker-archive:", "docker-daemon:"]);
    assert_eq!(offered("coldpress", "coldpress convert docker-archive:app"), ["app image.tar", "app.cpm"]);
    assert_eq!(offered("coldpress", "coldpress convert docker://host/na"), [""]);
    assert_eq!(offered("coldpress", "coldpress verify app.cpm --source oc"), ["oci-archive:", "oci:"]);
    assert_eq!(offered("coldpress", "coldpress convert x --store s"), ["s3://", "script"]);
    assert_eq!(offered("coldpress", "coldpress inspect app.cpm --key fi"), ["file:"]);
    assert_eq!(offered("coldpress", "coldpress con"), ["config", "convert"]);
    assert_eq!(offered("coldread", "coldread mount d"), ["docker://"]);
    assert_eq!(offered("coldread", "coldread ls app.c"), ["app.cpm"]);
    assert_eq!(offered("coldread", "coldread ls --rec"), ["--recursive"]);
}

#[test]
fn zsh_and_fish_take_their_completions() {
    let bench = Bench::new();
    for program in ["coldpress", "coldread"] {
        let zsh = String::from_utf8(run(&bench, program, &["completions", "zsh"])).unwrap();
        assert!(zsh.contains(&format!(":STORE:_{program}_store'")) && !zsh.contains(":MANIFEST:_default"), "{zsh}");
        let fish = String::from_utf8(run(&bench, program, &["completions", "fish"])).unwrap();
        assert!(fish.contains("-a 's3:// gs:// az://'") && fish.contains("-a 'docker://'"), "{fish}");
        for (shell, script) in [("zsh", zsh), ("fish", fish)] {
            std::fs::write(bench.path("script"), script).unwrap();
            let output = Command::new(shell).args(["-n", "script"]).current_dir(bench.dir.path()).output();
            let output = output.unwrap_or_else(|error| panic!("{shell} (make test-tools): {error}"));
            assert!(output.status.success() && output.stderr.is_empty(), "{program} {shell}: {output:?}");
        }
    }
    std::fs::write(bench.path("script"), run(&bench, "coldpress", &["completions", "fish"])).unwrap();
    let line = "source script; complete -C 'coldpress convert docker-a'";
    let output = Command::new("fish").args(["-N", "-c", line]).current_dir(bench.dir.path()).output().unwrap();
    assert_eq!(String::from_utf8(stdout(&output)).unwrap().trim(), "docker-archive:");
}

#[test]
fn every_shell_has_its_completions_and_they_are_the_same_each_time() {
    let bench = Bench::new();
    for program in ["coldpress", "coldread"] {
        for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
            let script = run(&bench, program, &["completions", shell]);
            assert!(script.len() > 1000, "{program} {shell}");
            assert_eq!(script, run(&bench, program, &["completions", shell]), "{program} {shell}");
        }
        let output = match program {
            "coldpress" => bench.coldpress(&["completions", "tcsh"]),
            _ => bench.coldread(&["completions", "tcsh"]),
        };
        assert_eq!(output.status.code(), Some(2));
    }
}

#[test]
fn groff_takes_every_manual_page_without_a_warning() {
    let bench = Bench::new();
    let mut pages = Vec::new();
    for program in ["coldpress", "coldread"] {
        assert_eq!(run(&bench, program, &["man", "share/man1"]), b"");
        let main = run(&bench, program, &["man"]);
        assert_eq!(main, std::fs::read(bench.path(&format!("share/man1/{program}.1"))).unwrap());
        // One of each command that the help names.
        let help = String::from_utf8(run(&bench, program, &["--help"])).unwrap();
        let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
        let commands = commands
            .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
            .filter(|command| !["", "help"].contains(command));
        pages.push(format!("{program}.1"));
        pages.extend(commands.map(|command| format!("{program}-{command}.1")));
    }
    // Commands of commands have pages of their own.
    pages.extend(
        ["coldpress-profile-attach.1", "coldread-profile-record.1", "coldread-zone-plan.1", "coldread-zone-status.1"]
            .map(str::to_owned),
    );
    let mut written: Vec<String> = std::fs::read_dir(bench.path("share/man1"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    pages.sort();
    written.sort();
    assert_eq!(written, pages);
    for page in &pages {
        let path = bench.path("share/man1").join(page);
        let output = Command::new("groff").args(["-man", "-ww", "-z", "-K", "utf8"]).arg(&path).output();
        let output = output.expect("groff (Debian's groff-base) is installed");
        assert!(output.status.success() && output.stderr.is_empty(), "{page}: {output:?}");
        let text = std::fs::read_to_string(&path).unwrap();
        let program = page.split(['-', '.']).next().unwrap();
        let title = format!(".TH {} 1  \"{program} {}\"", page.trim_end_matches(".1"), env!("CARGO_PKG_VERSION"));
        assert!(text.lines().any(|line| line.trim_end() == title), "{page}: no date, and whose it is: {text}");
    }
}
