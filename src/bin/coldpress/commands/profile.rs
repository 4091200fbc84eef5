//! `coldpress profile`.

use std::collections::BTreeSet;
use std::io::Write;

use coldpress::Error;
use coldpress::read::profile::beside;
use serde_json::json;

use crate::args::{AttachArgs, Cli, ProfileArgs, ProfileCommand};
use crate::output;
use crate::shared::failure::{CommandResult, Failure};
use crate::shared::files::{read_profile, write_whole};
use crate::shared::manifests::{ManifestRef, read_file};

pub fn run(cli: &Cli, args: &ProfileArgs) -> CommandResult {
    match &args.command {
        ProfileCommand::Attach(args) => attach(cli, args),
    }
}

fn attach(cli: &Cli, args: &AttachArgs) -> CommandResult {
    let ManifestRef::File(file) = &args.manifest else {
        let (named, profile) = (&args.manifest, args.profile.display());
        let message = format!(
            "{named}: a profile cannot be attached to a manifest in a registry; give it to readers with --profile {profile}"
        );
        return Err(Failure::Usage(message));
    };
    let manifest = read_file(file, None)?;
    let profile = read_profile(&args.profile)?;
    let names: BTreeSet<_> = manifest.clear.names.iter().collect();
    let (all, known) = (profile.uses.len(), profile.uses.iter().filter(|used| names.contains(&used.name)).count());
    let path = beside(file);
    let fail = |error| Error::file(&path, error);
    write_whole(&path, |mut file| file.write_all(profile.encode().as_bytes()).map_err(fail))?;
    let text = format!(
        "{}: {known} of its {all} chunks are in the image\nnext: coldread mount {} DIR, which prefetches them\n",
        path.display(),
        file.display()
    );
    Ok(output::result(cli, &text, &json!({ "profile": path, "chunks": all, "known": known }))?)
}
