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

    /// Returns the platform under its usual names, by the rules of containerd's package `platforms` (`Normalize`):
    /// lower case, `x86_64` is `amd64`, `aarch64` is `arm64`, `armhf` is `arm/v7`, `armel` is `arm/v6`; the variants
    /// `amd64/v1` and `arm64/v8` say nothing more than their architecture, and `arm` alone means `arm/v7`.
    #[must_use]
    pub fn normalized(&self) -> Self {
        let lower = |part: &str| part.to_ascii_lowercase();
        let variant = lower(self.variant.as_deref().unwrap_or_default());
        let (architecture, variant) = match (lower(&self.architecture).as_str(), variant.as_str()) {
            ("i386", _) => ("386".to_owned(), String::new()),
            ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64".to_owned(), String::new()),
            ("x86_64" | "x86-64", _) => ("amd64".to_owned(), variant),
            ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64".to_owned(), String::new()),
            ("aarch64" | "arm64", "9" | "9.0" | "v9.0") => ("arm64".to_owned(), "v9".to_owned()),
            ("aarch64", _) => ("arm64".to_owned(), variant),
            ("armhf", _) => ("arm".to_owned(), "v7".to_owned()),
            ("armel", _) => ("arm".to_owned(), "v6".to_owned()),
            ("arm", "" | "7") => ("arm".to_owned(), "v7".to_owned()),
            ("arm", "5" | "6" | "8") => ("arm".to_owned(), format!("v{variant}")),
            (architecture, _) => (architecture.to_owned(), variant),
        };
        let os = match lower(&self.os).as_str() {
            "macos" => "darwin".to_owned(),
            os => os.to_owned(),
        };
        Self { os, architecture, variant: Some(variant).filter(|variant| !variant.is_empty()) }
    }

    /// Returns how well an image for `offered` serves a request for this platform: 0 for the same platform, more for each
    /// step down to an older variant (`arm/v7` runs `arm/v6`, `amd64/v3` runs `amd64/v2`), `None` where it cannot run.
    ///
    /// Other than containerd, a 64-bit request is never served by a 32-bit image (`386`, `arm`): the result of a conversion is
    /// kept, and who asked would not learn of it.
    #[must_use]
    pub fn distance(&self, offered: &Self) -> Option<u32> {
        let (wanted, offered) = (self.normalized(), offered.normalized());
        if wanted.os != offered.os || wanted.architecture != offered.architecture {
            return None;
        }
        if wanted.variant == offered.variant {
            return Some(0);
        }
        wanted.level()?.checked_sub(offered.level()?)
    }

    /// Returns whether an image that says that it is for `said` can serve a request for this platform. A config often leaves the
    /// variant out that its index names; that is no contradiction.
    #[must_use]
    pub fn admits(&self, said: &Self) -> bool {
        let same = |platform: &Self| {
            let Self { os, architecture, .. } = platform.normalized();
            (os, architecture)
        };
        match said.variant {
            None => same(self) == same(said),
            Some(_) => self.distance(said).is_some(),
        }
    }

    /// The number of a normalized variant, where variants of this architecture run what older ones run.
    fn level(&self) -> Option<u32> {
        let number = |variant: &str| variant.strip_prefix('v')?.parse().ok();
        match (self.architecture.as_str(), self.variant.as_deref()) {
            ("amd64", None) => Some(1),
            ("arm64", None) => Some(8),
            ("amd64" | "arm" | "arm64", Some(variant)) => number(variant),
            _ => None,
        }
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

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    /// Source of the values: containerd/platforms, `Normalize` and `platformVector`.
    #[test]
    fn platforms_have_one_name() {
        for (text, normalized) in [
            ("linux/x86_64", "linux/amd64"),
            ("linux/amd64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("Linux/AARCH64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm64/v9.0", "linux/arm64/v9"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/6", "linux/arm/v6"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("linux/i386", "linux/386"),
            ("macos/arm64", "darwin/arm64"),
            ("linux/riscv64", "linux/riscv64"),
        ] {
            assert_eq!(platform(text).normalized().to_string(), normalized, "{text}");
        }
    }

    #[test]
    fn an_older_variant_serves_and_a_newer_never() {
        for (wanted, offered, distance) in [
            ("linux/amd64", "linux/amd64", Some(0)),
            ("linux/amd64", "linux/amd64/v3", None),
            ("linux/amd64/v3", "linux/amd64", Some(2)),
            ("linux/amd64/v3", "linux/amd64/v2", Some(1)),
            ("linux/arm", "linux/arm/v6", Some(1)),
            ("linux/arm/v6", "linux/arm/v7", None),
            ("linux/arm/v6", "linux/arm", None),
            ("linux/arm64/v8", "linux/arm64", Some(0)),
            ("linux/arm64/v9", "linux/arm64", Some(1)),
            ("linux/arm64", "linux/arm/v7", None),
            ("linux/amd64", "linux/386", None),
            ("linux/amd64", "windows/amd64", None),
            ("linux/mips/softfloat", "linux/mips/hardfloat", None),
        ] {
            assert_eq!(platform(wanted).distance(&platform(offered)), distance, "{wanted} by {offered}");
        }
    }

    #[test]
    fn a_config_without_a_variant_contradicts_none() {
        for (wanted, said, admitted) in [
            ("linux/arm/v6", "linux/arm", true),
            ("linux/arm/v6", "linux/arm/v7", false),
            ("linux/amd64/v3", "linux/x86_64", true),
            ("linux/amd64", "linux/amd64/v2", false),
            ("linux/arm64", "linux/amd64", false),
        ] {
            assert_eq!(platform(wanted).admits(&platform(said)), admitted, "{wanted} by {said}");
        }
        assert!("linux".parse::<Platform>().is_err());
        assert!("linux//v7".parse::<Platform>().is_err());
    }
}
