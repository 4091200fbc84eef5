//! `coldread report`: a recorded startup as a picture, a page or numbers, with the names of layers and files where the image is given.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use coldpress::read::ChunkDevice;
use coldpress::read::picture::{ImageMap, Numbers, html, svg};
use coldpress::read::profile::Profile;
use coldpress::{Error, ErrorKind};

use crate::args::{ReportArgs, name_of};
use crate::shared::failure::{CommandResult, Failure, result_is_printed};
use crate::shared::files::{read_profile, write_whole};
use crate::shared::manifests::{ManifestArgs, ManifestRef};
use crate::shared::stdout::print;

pub fn run(args: &ReportArgs) -> CommandResult {
    let profile = read_profile(&args.profile)?;
    let image = args.manifest.as_ref().map(|manifest| image_map(args, manifest, &profile)).transpose()?;
    let image = image.as_ref();
    let numbers = Numbers::of(&profile, image);
    let write = |path: &Path, text: String| {
        write_whole(path, |mut file| file.write_all(text.as_bytes()).map_err(|error| Error::file(path, error)))
    };
    if let Some(path) = &args.output {
        write(path, svg(&profile, image))?;
    }
    if let Some(path) = &args.html {
        write(path, html(&profile, image))?;
    }
    let text = match (args.json, args.output.is_some() || args.html.is_some()) {
        (true, _) => serde_json::to_string(&numbers).map_err(|error| Error::io("JSON", error.into()))? + "\n",
        (false, true) => format!("{}\n{}", numbers.sentence(), numbers.slowest_text()),
        (false, false) => svg(&profile, image),
    };
    print(text.as_bytes())?;
    if args.json {
        result_is_printed();
    }
    Ok(())
}

/// Reads which files are in the chunks of the profile; refuses a profile of another image, whose names would be wrong.
fn image_map(args: &ReportArgs, named: &ManifestRef, profile: &Profile) -> Result<ImageMap, Failure> {
    let key = args.key.require()?;
    let manifest = ManifestArgs { manifest: named.clone(), expect: args.expect, registry: args.registry.clone() };
    let manifest = manifest.open(&*key)?;
    let (found, recorded) = (manifest.clear.root_digest, profile.root_digest);
    if found != recorded {
        let message = format!(
            "{}: recorded from an image of root digest {recorded}, but {named} is of root digest {found}",
            args.profile.display()
        );
        let hint = "name the manifest of the image that was started, or leave it out";
        return Err(Error::new(ErrorKind::Input, message).with_hint(hint).into());
    }
    let store = args.store.open(&manifest)?;
    let chunks: BTreeSet<u32> = profile.uses.iter().map(|used| used.index.0).collect();
    let name = name_of(named).unwrap_or_else(|| named.to_string());
    Ok(ImageMap::read(&name, &ChunkDevice::plain(manifest, store), &chunks)?)
}
