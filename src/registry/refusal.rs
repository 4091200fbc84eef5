//! Why a registry or its token service refuses a request, in its own words, as far as they may be repeated.

use serde_json::Value;

/// Most characters of a reason that are repeated.
const MOST: usize = 200;

/// Returns the reason that the JSON document `body` gives; `None` where it gives none, or where it repeats `secret`.
///
/// The forms are those of the distribution specification (`errors` with `code` and `message`), of OAuth 2.0 (`error` and
/// `error_description`), and of token services that are in use (`details`, `detail`, `message`).
pub(super) fn reason(body: &[u8], secret: Option<&str>) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let error = &body["errors"][0];
    let of = |pairs: [&Value; 2]| {
        let parts: Vec<&str> = pairs.iter().filter_map(|part| part.as_str()).filter(|part| !part.is_empty()).collect();
        (!parts.is_empty()).then(|| parts.join(": "))
    };
    let reason = of([&error["code"], &error["message"]])
        .or_else(|| of([&body["error"], &body["error_description"]]))
        .or_else(|| of([&body["details"], &Value::Null]))
        .or_else(|| of([&body["detail"], &Value::Null]))
        .or_else(|| of([&body["message"], &Value::Null]))?;
    if secret.is_some_and(|secret| !secret.is_empty() && reason.contains(secret)) {
        return None;
    }
    let line = reason.lines().next().unwrap_or_default();
    Some(line.chars().take(MOST).collect())
}

/// Returns the code of the first error, such as `NAME_UNKNOWN`, in the distribution specification's form.
pub(super) fn code(body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    body["errors"][0]["code"].as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_found_in_every_form_that_is_in_use() {
        for (body, expected) in [
            (
                r#"{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}"#,
                Some("DENIED: requested access to the resource is denied"),
            ),
            (r#"{"errors":[{"code":"MANIFEST_INVALID","message":""}]}"#, Some("MANIFEST_INVALID")),
            (r#"{"error":"invalid_grant","error_description":"token expired"}"#, Some("invalid_grant: token expired")),
            (r#"{"details":"incorrect username or password"}"#, Some("incorrect username or password")),
            (r#"{"message":"first line\nsecond"}"#, Some("first line")),
            (r#"{"details":"the password hunter2 is wrong"}"#, None),
            (r#"{"errors":[]}"#, None),
            ("<html>", None),
        ] {
            assert_eq!(reason(body.as_bytes(), Some("hunter2")).as_deref(), expected, "{body}");
        }
        let long = format!(r#"{{"message":"{}"}}"#, "a".repeat(1_000));
        assert_eq!(reason(long.as_bytes(), None).map(|reason| reason.len()), Some(MOST));
    }
}
