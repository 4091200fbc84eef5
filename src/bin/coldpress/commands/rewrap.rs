//! `coldpress rewrap`.

use std::io::Write;

use coldpress::Error;
use serde_json::json;

use crate::args::{Cli, RewrapArgs};
use crate::output;
use crate::shared::failure::CommandResult;
use crate::shared::files::write_whole;
use crate::shared::keys::open_key;

pub fn run(cli: &Cli, args: &RewrapArgs) -> CommandResult {
    let (from, to) = (args.key.require()?, open_key(&args.to, &args.key.kms)?);
    args.manifest.check_pinned(&*from)?;
    let named = &args.manifest.manifest;
    let mut rewrapped = None;
    // A registry can have it for several keys.
    for manifest in named.read(&args.manifest.registry, args.manifest.expect)? {
        rewrapped = Some(manifest.rewrap(&*from, &*to).map(|bytes| (bytes, manifest.clear.root_digest)));
        if matches!(rewrapped, Some(Ok(_))) {
            break;
        }
    }
    let (bytes, digest) = rewrapped.expect("there is one").map_err(|error| error.within(named))?;
    let fail = |error| Error::file(&args.output, error);
    write_whole(&args.output, |mut file| file.write_all(&bytes).map_err(fail))?;
    let text = format!("{}: root digest {digest}, for the new key alone\n", args.output.display());
    Ok(output::result(cli, &text, &json!({ "manifest": args.output, "root_digest": digest }))?)
}
