//! `coldpress rewrap`.

use std::io::Write;

use coldpress::Error;
use serde_json::json;

use crate::args::{Cli, RewrapArgs};
use crate::output;
use crate::shared::failure::CommandResult;
use crate::shared::keys::open_key;

pub fn run(cli: &Cli, args: &RewrapArgs) -> CommandResult {
    let (from, to) = (args.key.require()?, open_key(&args.to, &args.key.kms)?);
    args.manifest.check_pinned(&*from)?;
    let manifest = args.manifest.read()?;
    let bytes = manifest.rewrap(&*from, &*to).map_err(|error| error.within(args.manifest.manifest.display()))?;
    let fail = |error| Error::file(&args.output, error);
    output::write_whole(&args.output, |mut file| file.write_all(&bytes).map_err(fail))?;
    let digest = manifest.clear.root_digest;
    let text = format!("{}: root digest {digest}, for the new key alone\n", args.output.display());
    Ok(output::result(cli, &text, &json!({ "manifest": args.output, "root_digest": digest }))?)
}
