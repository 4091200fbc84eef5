//! `--version`, and with `--verbose` what decides the bytes that a program reads and writes.
//!
//! The commit is that of `$COLDPRESS_COMMIT` while the program was built (`make build` sets it): a build script would rebuild everything
//! after each commit, and the same sources give the same program.

use clap::error::ErrorKind;
use coldpress::fs::ext4::layout::EPOCH;
use coldpress::manifest::v1;
use zstd::zstd_safe;

/// Prints the long version and exits, if `error` is about to print the short one, and the command line asks for more.
pub fn print_long(program: &clap::Command, error: &clap::Error, args: &[std::ffi::OsString]) {
    let is_long = args.iter().any(|arg| arg == "--verbose" || arg == "-v");
    if error.kind() == ErrorKind::DisplayVersion && is_long {
        let _ = super::stdout::print(long(program).as_bytes());
        std::process::exit(0);
    }
}

fn long(program: &clap::Command) -> String {
    let features = if cfg!(feature = "age") { "age" } else { "none" };
    format!(
        "{} {}\n\
         commit           {}\n\
         features         {features}\n\
         layout epoch     {EPOCH}\n\
         block manifest   version {}\n\
         libzstd          {}\n",
        program.get_name(),
        program.get_version().unwrap_or_default(),
        option_env!("COLDPRESS_COMMIT").filter(|commit| !commit.is_empty()).unwrap_or("unknown"),
        v1::VERSION,
        zstd_safe::version_string(),
    )
}
