//! `coldpress rewrap`.

use coldpress::Error;
use coldpress::digest::Sha256;
use coldpress::keys::KeyWrap;
use coldpress::manifest::BlockManifest;
use coldpress::output_file::Destination;
use coldpress::store::{IN_FLIGHT, ObjectName, StoreUrl, open_put};
use serde_json::json;

use crate::args::{Cli, RewrapArgs};
use crate::output;
use crate::shared::failure::{CommandResult, Failure};
use crate::shared::keys::open_key;

pub fn run(cli: &Cli, args: &RewrapArgs) -> CommandResult {
    let path = output::named(&args.output);
    output::check(path)?;
    let (from, to) = (args.key.require()?, open_key(&args.to, &args.key.kms)?);
    args.manifest.check_pinned(&*from)?;
    let named = &args.manifest.manifest;
    let mut rewrapped = None;
    // A registry can have it for several keys.
    for manifest in named.read(&args.manifest.registry, args.manifest.expect)? {
        let bytes = manifest.rewrap(&*from, &*to);
        rewrapped = Some(bytes.map(|bytes| (bytes, manifest)));
        if matches!(rewrapped, Some(Ok(_))) {
            break;
        }
    }
    let (bytes, manifest) = rewrapped.expect("there is one").map_err(|error| error.within(named))?;
    // First of all: what no manifest in the store names may be collected.
    let (url, object) = put(args, &manifest, &*from, &bytes)?;
    output::write_manifest(path, &bytes)?;
    let digest = manifest.clear.root_digest;
    let text = format!(
        "{0}: root digest {digest}, encrypted for the new key only\n  stored        in {url} as {object}\nnext: coldread mount {0} DIR, with the new key\n",
        path.display()
    );
    let store = url.to_string();
    let json = json!({ "manifest": path, "root_digest": digest, "store": store, "object": object.to_string() });
    Ok(output::result_beside(cli, &Destination::of(path)?, &text, &json)?)
}

/// Uploads the new manifest to the store of the chunks that it names; returns the store, and the object's name there.
fn put(
    args: &RewrapArgs,
    old: &BlockManifest,
    from: &dyn KeyWrap,
    new: &[u8],
) -> Result<(StoreUrl, ObjectName), Failure> {
    let url = match &args.store.store {
        Some(url) => url.clone(),
        None => args.store.of(&old.clone().open(from)?)?,
    };
    let root = &old.clear.root;
    let object = ObjectName::manifest(root, Sha256::of(new));
    let within = |error: Error| error.within(format!("store {url}: the new manifest"));
    let store = open_put(&url, &args.store.settings(IN_FLIGHT)?, root).map_err(within)?;
    store.put_if_absent(&object, new).map_err(within)?;
    Ok((url, object))
}
