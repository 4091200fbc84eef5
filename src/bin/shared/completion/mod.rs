//! Shell completions: those that clap generates, and for bash, zsh and fish the transports of images, stores and keys.
//!
//! clap completes values from fixed lists and file names; `docker-archive:` is a beginning of a word that a file name follows. The same
//! bytes on any day.

use clap::Command;
use clap_complete::Shell;

/// Beginnings of images, as `convert` takes them.
const IMAGES: &str = "docker:// docker-archive: docker-daemon: oci: oci-archive: dir: containers-storage: tar:";
const MANIFESTS: &str = "docker://";
const STORES: &str = "s3:// gs:// az://";
const KEYS: &str = if cfg!(feature = "age") { "file: aws-kms:// age:" } else { "file: aws-kms://" };

/// Returns the completions of `program` for `shell`.
pub fn script(program: &mut Command, shell: Shell) -> String {
    let (name, mut script) = (program.get_name().to_owned(), Vec::new());
    clap_complete::generate(shell, program, name, &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    match shell {
        Shell::Bash => script + &filled(include_str!("bash.sh"), program),
        Shell::Zsh => zsh(&script, program),
        Shell::Fish => fish(&script, program),
        _ => script,
    }
}

/// Returns a template with the names of `program` and the beginnings.
fn filled(template: &str, program: &Command) -> String {
    template
        .replace("PROGRAM", program.get_name())
        .replace("COMMANDS", &with_positional(program, "MANIFEST").join(" | "))
        .replace("IMAGES", IMAGES)
        .replace("MANIFESTS", MANIFESTS)
        .replace("STORES", STORES)
        .replace("KEYS", KEYS)
}

/// Returns the names of the commands that take `value` as a positional argument.
fn with_positional(program: &Command, value: &str) -> Vec<String> {
    let takes = |command: &&Command| {
        command.get_positionals().any(|arg| {
            arg.get_value_names().is_some_and(|names| names.iter().any(|name| name.as_str().ends_with(value)))
        })
    };
    program.get_subcommands().filter(takes).map(|command| command.get_name().to_owned()).collect()
}

/// Gives arguments, which clap's script takes for any words, functions by the names of their values.
fn zsh(script: &str, program: &Command) -> String {
    let name = program.get_name();
    let end = format!("if [ \"$funcstack[1]\" = \"_{name}\" ]");
    let (body, end_of_script) = script.split_at(script.find(&end).unwrap_or(script.len()));
    let line = |line: &str| {
        let is_positional =
            |value: &str| line.starts_with(&format!("':{value} -- ")) || line.starts_with(&format!("'*::{value} -- "));
        for (value, function) in [("image", "image"), ("manifest", "manifest"), ("store", "store"), ("key", "key")] {
            let option = format!(":{}:_default'", value.to_uppercase());
            if line.contains(&option) {
                return line.replace(&option, &format!(":{}:_{name}_{function}'", value.to_uppercase()));
            }
            if is_positional(value) {
                return line.replace(":_default'", &format!(":_{name}_{function}'"));
            }
        }
        line.to_owned()
    };
    let body: Vec<String> = body.lines().map(line).collect();
    format!("{}\n{}{end_of_script}", body.join("\n"), filled(include_str!("zsh.sh"), program))
}

/// Adds the beginnings to options, and to commands by their positional arguments.
fn fish(script: &str, program: &Command) -> String {
    let name = program.get_name();
    let options = [
        ("store", STORES),
        ("key", KEYS),
        ("to", KEYS),
        ("salt-key", "aws-kms://"),
        ("source", IMAGES),
        ("base", MANIFESTS),
        ("heal", MANIFESTS),
    ];
    let line = |line: &str| {
        let option =
            options.iter().find(|(option, _)| line.contains(&format!(" -l {option} ")) && line.ends_with(" -r"));
        option.map_or_else(|| line.to_owned(), |(_, words)| format!("{line} -a '{words}'"))
    };
    let mut lines: Vec<String> = script.lines().map(line).collect();
    for (value, words) in [("IMAGE", IMAGES), ("MANIFEST", MANIFESTS)] {
        for command in with_positional(program, value) {
            lines.push(format!("complete -c {name} -n '__fish_{name}_using_subcommand {command}' -a '{words}'"));
        }
    }
    lines.join("\n") + "\n"
}
