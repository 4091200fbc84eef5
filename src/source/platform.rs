//! Platforms, as OCI indexes and configs name them.

use std::fmt;
use std::str::FromStr;

/// Most characters of an operating system, an architecture or a variant.
const MAX_PART: usize = 64;

/// An operating system and processor: `os/arch[/variant]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, ….
    pub architecture: String,
    /// `v7`, ….
    pub variant: Option<String>,
}

/// A text that is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a platform of the form os/arch[/variant], such as linux/amd64")]
pub struct ParsePlatformError(String);

impl Platform {
    /// From its parts; `None` where one is empty, long, or not of plain characters.
    #[must_use]
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Option<Self> {
        let plain = |part: &str| {
            (1..=MAX_PART).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/')
        };
        let all = plain(os) && plain(architecture) && variant.is_none_or(plain);
        let variant = variant.map(str::to_owned);
        all.then(|| Self { os: os.to_owned(), architecture: architecture.to_owned(), variant })
    }

    /// The one that this program was built for.
    #[must_use]
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            other => other,
        };
        Self { os: "linux".to_owned(), architecture: architecture.to_owned(), variant: None }
    }

    /// Whether what is `offered` is what was asked for: a variant counts where one is asked.
    #[must_use]
    pub fn accepts(&self, offered: &Self) -> bool {
        self.os == offered.os
            && self.architecture == offered.architecture
            && (self.variant.is_none() || self.variant == offered.variant)
    }
}

impl FromStr for Platform {
    type Err = ParsePlatformError;

    fn from_str(text: &str) -> Result<Self, ParsePlatformError> {
        let parts: Vec<&str> = text.split('/').take(4).collect();
        let platform = match parts[..] {
            [os, architecture] => Self::new(os, architecture, None),
            [os, architecture, variant] => Self::new(os, architecture, Some(variant)),
            _ => None,
        };
        platform.ok_or_else(|| ParsePlatformError(text.chars().take(4 * MAX_PART).collect()))
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variant_counts_only_where_it_is_asked_for() {
        let offered: Platform = "linux/arm/v7".parse().unwrap();
        for (asked, accepted) in
            [("linux/arm", true), ("linux/arm/v7", true), ("linux/arm/v6", false), ("linux/arm64", false)]
        {
            assert_eq!(asked.parse::<Platform>().unwrap().accepts(&offered), accepted, "{asked}");
        }
        assert!("linux".parse::<Platform>().is_err());
        assert!("linux//v7".parse::<Platform>().is_err());
    }
}
