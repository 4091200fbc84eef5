//! Which options of `coldread` the environment and a configuration file can set.
//!
//! The file in /etc is refused if others than root can write it.
//! docs/reference/configuration.md lists the same settings; a test compares the two.

use crate::shared::settings::{InFile, Program, Setting};

/// The settings of this program.
pub const PROGRAM: Program = Program {
    name: "coldread",
    settings: &SETTINGS,
    variable: "COLDREAD_CONFIG",
    file: "/etc/coldread/coldread.toml",
    is_untrusted: false,
};

const SETTINGS: [Setting; 34] = [
    setting("store", Some("COLDPRESS_STORE"), InFile::Trusted),
    setting("store-endpoint", Some("COLDPRESS_STORE_ENDPOINT"), InFile::Trusted),
    setting("store-allow-http", None, InFile::Trusted),
    setting("store-region", Some("COLDPRESS_STORE_REGION"), InFile::Trusted),
    setting("store-style", Some("COLDPRESS_STORE_STYLE"), InFile::Trusted),
    setting("store-requester-pays", None, InFile::Trusted),
    setting("key", Some("COLDPRESS_KEY"), InFile::Trusted),
    setting("kms-endpoint", None, InFile::Trusted),
    setting("creds", Some("COLDPRESS_CREDS"), InFile::None),
    setting("tls-ca", Some("COLDPRESS_TLS_CA"), InFile::Trusted),
    setting("plain-http", None, InFile::Trusted),
    setting("cache", Some("COLDREAD_CACHE"), InFile::Trusted),
    setting("no-cache", Some("COLDREAD_NO_CACHE"), InFile::Trusted),
    setting("cache-max", Some("COLDREAD_CACHE_MAX"), InFile::Trusted),
    setting("memory", Some("COLDREAD_MEMORY"), InFile::Trusted),
    setting("requests", Some("COLDREAD_REQUESTS"), InFile::Any),
    setting("on-origin-loss", Some("COLDREAD_ON_ORIGIN_LOSS"), InFile::Trusted),
    setting("zone", Some("COLDREAD_ZONE"), InFile::Trusted),
    setting("zone-password-file", Some("COLDREAD_ZONE_PASSWORD_FILE"), InFile::Trusted),
    setting("zone-tls-ca", Some("COLDREAD_ZONE_TLS_CA"), InFile::Trusted),
    setting("zone-code", Some("COLDREAD_ZONE_CODE"), InFile::Trusted),
    setting("zone-deadline", Some("COLDREAD_ZONE_DEADLINE"), InFile::Trusted),
    setting("zone-lease", Some("COLDREAD_ZONE_LEASE"), InFile::Trusted),
    setting("zone-start-rate", Some("COLDREAD_ZONE_START_RATE"), InFile::Trusted),
    setting("prefetch", Some("COLDREAD_PREFETCH"), InFile::Trusted),
    setting("no-learn", Some("COLDREAD_NO_LEARN"), InFile::Trusted),
    setting("slow", Some("COLDREAD_SLOW"), InFile::Trusted),
    setting("threads", Some("COLDREAD_THREADS"), InFile::Any),
    setting("fill", None, InFile::Trusted),
    setting("sandbox", None, InFile::Trusted),
    setting("cow", None, InFile::Trusted),
    setting("cow-max", None, InFile::Trusted),
    setting("max-clients", None, InFile::Trusted),
    setting("client-memory", None, InFile::Trusted),
];

const fn setting(name: &'static str, variable: Option<&'static str>, file: InFile) -> Setting {
    Setting { name, variable, file }
}
