//! Which options of `coldpress` the environment and a configuration file can set.
//!
//! A file in the working directory can come with a checked-out repository, so it may set only what is harmless.
//! docs/reference/configuration.md lists the same settings; a test compares the two.

use crate::shared::settings::{InFile, Program, Setting};

/// The settings of this program.
pub const PROGRAM: Program = Program {
    name: "coldpress",
    settings: &SETTINGS,
    variable: "COLDPRESS_CONFIG",
    file: "coldpress.toml",
    is_untrusted: true,
};

const SETTINGS: [Setting; 33] = [
    setting("store", Some("COLDPRESS_STORE"), InFile::Trusted),
    setting("store-endpoint", Some("COLDPRESS_STORE_ENDPOINT"), InFile::Trusted),
    setting("store-allow-http", None, InFile::Trusted),
    setting("store-region", Some("COLDPRESS_STORE_REGION"), InFile::Trusted),
    setting("store-style", Some("COLDPRESS_STORE_STYLE"), InFile::Trusted),
    setting("store-requester-pays", None, InFile::Trusted),
    setting("store-sse", None, InFile::Trusted),
    setting("store-sse-key", None, InFile::Trusted),
    setting("store-acl", None, InFile::Trusted),
    setting("root", Some("COLDPRESS_ROOT"), InFile::Trusted),
    setting("base", Some("COLDPRESS_BASE"), InFile::Trusted),
    setting("max-new-bytes", Some("COLDPRESS_MAX_NEW_BYTES"), InFile::Trusted),
    setting("uploads", Some("COLDPRESS_UPLOADS"), InFile::Any),
    setting("key", Some("COLDPRESS_KEY"), InFile::Trusted),
    setting("kms-endpoint", None, InFile::Trusted),
    setting("salt-file", Some("COLDPRESS_SALT_FILE"), InFile::Trusted),
    setting("salt-key", Some("COLDPRESS_SALT_KEY"), InFile::Trusted),
    setting("scope", Some("COLDPRESS_SCOPE"), InFile::Trusted),
    setting("application", Some("COLDPRESS_APPLICATION"), InFile::Trusted),
    setting("creds", Some("COLDPRESS_CREDS"), InFile::None),
    setting("tls-ca", Some("COLDPRESS_TLS_CA"), InFile::Trusted),
    setting("plain-http", None, InFile::Trusted),
    setting("platform", Some("COLDPRESS_PLATFORM"), InFile::Any),
    setting("free", Some("COLDPRESS_FREE"), InFile::Any),
    setting("compression", Some("COLDPRESS_COMPRESSION"), InFile::Any),
    setting("max-size", Some("COLDPRESS_MAX_SIZE"), InFile::Trusted),
    setting("max-entries", Some("COLDPRESS_MAX_ENTRIES"), InFile::Trusted),
    setting("cache", Some("COLDPRESS_CACHE"), InFile::Trusted),
    setting("cache-max", Some("COLDPRESS_CACHE_MAX"), InFile::Trusted),
    setting("summary", Some("COLDPRESS_SUMMARY"), InFile::None),
    setting("outputs", Some("COLDPRESS_OUTPUTS"), InFile::None),
    setting("threads", Some("COLDPRESS_THREADS"), InFile::Any),
    setting("temp", None, InFile::Trusted),
];

const fn setting(name: &'static str, variable: Option<&'static str>, file: InFile) -> Setting {
    Setting { name, variable, file }
}
