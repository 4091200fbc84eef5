//! What a registry wants to see before it answers: a challenge, and the header that meets it.

use serde::Deserialize;

/// What stands in `WWW-Authenticate`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// Name and password with each request.
    Basic,
    /// A token from elsewhere.
    Bearer {
        /// Who gives it.
        realm: String,
        /// What the token is for.
        service: Option<String>,
        /// What it must allow.
        scope: Option<String>,
    },
}

/// A token service's answer.
#[derive(Deserialize)]
pub(super) struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
}

impl TokenAnswer {
    pub(super) fn token(self) -> Option<String> {
        self.token
            .or(self.access_token)
            .filter(|token| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()))
    }
}

impl Challenge {
    /// The strongest that we can meet of a header's challenges.
    #[must_use]
    pub fn parse(header: &str) -> Option<Self> {
        let mut basic = None;
        let mut rest = header.trim_start();
        while !rest.is_empty() {
            let (scheme, after) = rest.split_once(' ').unwrap_or((rest, ""));
            let (fields, after) = fields(after);
            let field = |name: &str| {
                fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone())
            };
            if scheme.eq_ignore_ascii_case("bearer")
                && let Some(realm) = field("realm")
            {
                return Some(Self::Bearer { realm, service: field("service"), scope: field("scope") });
            }
            if scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Self::Basic);
            }
            rest = after;
        }
        basic
    }
}

/// `key=value, key="value"`, up to what is no field: the next challenge.
fn fields(text: &str) -> (Vec<(String, String)>, &str) {
    let (mut fields, mut rest) = (Vec::new(), text.trim_start());
    while let Some((key, after)) = rest.split_once('=') {
        if key.contains([' ', ',', '"']) {
            break;
        }
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => {
                let end = quoted.find('"').unwrap_or(quoted.len());
                (&quoted[..end], quoted[end..].strip_prefix('"').unwrap_or(""))
            }
            None => after.split_at(after.find([',', ' ', '"']).unwrap_or(after.len())),
        };
        fields.push((key.to_owned(), value.to_owned()));
        rest = after.trim_start_matches([',', ' ']);
    }
    (fields, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_as_servers_write_them() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| {
            let owned = |text: Option<&str>| text.map(str::to_owned);
            Some(Challenge::Bearer { realm: realm.to_owned(), service: owned(service), scope: owned(scope) })
        };
        let full = r#"Bearer realm="https://a/token",service="r.x",scope="repository:a/b:pull,push""#;
        assert_eq!(Challenge::parse(full), bearer("https://a/token", Some("r.x"), Some("repository:a/b:pull,push")));
        assert_eq!(Challenge::parse("bearer realm=https://a, service=r"), bearer("https://a", Some("r"), None));
        assert_eq!(Challenge::parse(r#"Basic realm="Registry Realm""#), Some(Challenge::Basic));
        let both = r#"Basic realm="x", Bearer realm="https://a""#;
        assert_eq!(Challenge::parse(both), bearer("https://a", None, None));
        assert_eq!(
            Challenge::parse("Bearer realm=er\"\"x"),
            bearer("er", None, None),
            "a token ends where a quote begins"
        );
        for nonsense in
            ["", "Negotiate", "Bearer", "Bearer realm", "=", "\"", "Bearer =\"", "Digest realm=\"x\", nonce=\"y"]
        {
            assert_eq!(Challenge::parse(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn a_token_is_no_header_injection() {
        let token = |json: &str| serde_json::from_str::<TokenAnswer>(json).unwrap().token();
        assert_eq!(token(r#"{"token":"abc"}"#).as_deref(), Some("abc"));
        assert_eq!(token(r#"{"access_token":"abc"}"#).as_deref(), Some("abc"));
        assert_eq!(token(r#"{"token":"a\r\nX: y"}"#), None);
        assert_eq!(token("{}"), None);
    }
}
