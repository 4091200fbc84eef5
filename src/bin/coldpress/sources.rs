//! How the places that images come from are reached, as the command line and the environment say it.

use std::path::PathBuf;

use coldpress::digest::Sha256;
use coldpress::manifest::BlockManifest;
use coldpress::registry::RegistryRef;
use coldpress::source::{Access, Engine, ImageRef, Platform};

use crate::shared::failure::Failure;
use crate::shared::keys::environment;
use crate::shared::manifests::{ManifestRef, RegistryArgs};

/// The same for the library.
pub fn access(registry: &RegistryArgs) -> Result<Access, Failure> {
    Ok(Access { registry: registry.settings()?, engine: engine()? })
}

/// By docker's own variables.
fn engine() -> Result<Engine, Failure> {
    let certificates = match environment("DOCKER_CERT_PATH")? {
        Some(directory) => Some(PathBuf::from(directory)),
        None => environment("HOME")?.map(|home| PathBuf::from(home).join(".docker")),
    };
    Ok(Engine { host: environment("DOCKER_HOST")?, tls: environment("DOCKER_TLS_VERIFY")?.is_some(), certificates })
}

/// Reads a block manifest, still sealed; where a registry has it for several keys, the last.
pub fn read_manifest(
    manifest: &ManifestRef,
    registry: &RegistryArgs,
    expect: Option<Sha256>,
) -> Result<BlockManifest, Failure> {
    read_manifest_for(None, manifest, registry, expect)
}

/// The same; of an image for several platforms, that of `platform`, else of this machine's.
pub fn read_manifest_for(
    platform: Option<&Platform>,
    manifest: &ManifestRef,
    registry: &RegistryArgs,
    expect: Option<Sha256>,
) -> Result<BlockManifest, Failure> {
    Ok(manifest.read_for(platform, registry, expect)?.pop().expect("there is one"))
}

/// The registries that images and manifests of a command are in.
pub fn registries<'a>(
    images: impl IntoIterator<Item = &'a ImageRef>,
    manifests: impl IntoIterator<Item = &'a ManifestRef>,
) -> Vec<&'a RegistryRef> {
    let images = images.into_iter().filter_map(|image| match image {
        ImageRef::Registry(name) => Some(name),
        _ => None,
    });
    let manifests = manifests.into_iter().filter_map(|manifest| match manifest {
        ManifestRef::Registry(name) => Some(name),
        ManifestRef::File(_) => None,
    });
    images.chain(manifests).collect()
}

/// Refuses a login that would go to several registries.
pub fn check_logins<'a>(
    registry: &RegistryArgs,
    named: impl IntoIterator<Item = &'a RegistryRef>,
) -> Result<(), Failure> {
    let mut hosts: Vec<&str> = named.into_iter().map(|name| name.host.as_str()).collect();
    hosts.sort_unstable();
    hosts.dedup();
    if hosts.len() > 1 && registry.settings()?.credentials.given.iter().any(|(host, _)| host.is_none()) {
        let message =
            format!("--creds would be sent to each of {}; name its registry: HOST=USER:PASSWORD", hosts.join(", "));
        return Err(Failure::Usage(message));
    }
    Ok(())
}
