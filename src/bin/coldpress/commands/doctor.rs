//! `coldpress doctor`.

use std::fmt::Write;

use coldpress::doctor::policy::{Policy, configured_region, policies};
use coldpress::doctor::{Finding, examine_key, examine_store};
use coldpress::store::{Found, Probe, StoreUrl};
use coldpress::{Error, ErrorKind};
use serde_json::{Value, json};

use crate::args::{Cli, DoctorArgs};
use crate::output;
use crate::sealing::require_store;
use crate::shared::failure::CommandResult;
use crate::shared::keys::KeyRef;

pub fn run(cli: &Cli, args: &DoctorArgs) -> CommandResult {
    let url = match require_store(&args.store)? {
        StoreUrl::Bucket(url) => url,
        StoreUrl::Directory(path) => {
            let message = format!(
                "{}: is a directory, whose mode and owner decide who has access; doctor checks s3://, gs:// and az://",
                path.display()
            );
            return Err(Error::new(ErrorKind::Unsupported, message).into());
        }
    };
    let key = match args.key.named() {
        Some(KeyRef::AwsKms(id)) => Some(id),
        // No service decides about these.
        Some(KeyRef::File(_) | KeyRef::Age(_)) | None => None,
    };
    let region = args.store.settings(1)?.region.or_else(configured_region);
    let policies = policies(args.role, (&url, &args.root), (key.as_deref(), &args.application), region.as_deref());
    let mut findings = Vec::new();
    if !args.print {
        let probe = Probe::open(&url, &args.store.settings(1)?, &args.root)?;
        findings = examine_store(args.role, &probe)?;
        if let Some(id) = &key {
            findings.extend(examine_key(args.role, &args.key.kms.open(id)?, &args.application)?);
        }
    }
    let named = |is: fn(&Finding) -> bool| {
        let list: Vec<_> = findings
            .iter()
            .filter(|finding| is(finding))
            .map(|found| format!("{} {}", found.of, found.operation))
            .collect();
        list.join(", ")
    };
    let (too_much, too_little) = (named(Finding::is_too_much), named(Finding::is_too_little));
    let json = json!({
        "role": args.role.name(),
        "policies": policies.iter().map(|policy| json!({ "title": policy.title, "policy": policy.body })).collect::<Vec<_>>(),
        "findings": findings.iter().map(finding_json).collect::<Vec<_>>(),
        "fits": too_much.is_empty() && too_little.is_empty(),
    });
    output::result(cli, &text(&policies, &findings), &json)?;
    if !too_much.is_empty() {
        let message = format!("these credentials allow more than a {} needs: {too_much}", args.role);
        return Err(Error::new(ErrorKind::Difference, message).into());
    }
    if !too_little.is_empty() {
        // Without the right to list, a service answers alike for what is refused and what is not there.
        let perhaps = match too_little.contains("store get") {
            true => "; or nothing is stored there yet: `coldpress doctor --as converter` uploads the probe object",
            false => "",
        };
        let message = format!("these credentials do not allow what a {} needs: {too_little}{perhaps}", args.role);
        return Err(Error::new(ErrorKind::Denied, message).into());
    }
    Ok(())
}

fn word(found: &Found) -> &str {
    match found {
        Found::Allowed => "allowed",
        Found::Refused => "refused",
        Found::Unclear(_) => "unclear",
    }
}

fn finding_json(finding: &Finding) -> Value {
    json!({
        "of": finding.of, "operation": finding.operation, "needed": finding.needed, "found": word(&finding.found),
        "fits": !finding.is_too_much() && !finding.is_too_little(),
    })
}

fn text(policies: &[Policy], findings: &[Finding]) -> String {
    let mut out = String::new();
    for policy in policies {
        let _ = writeln!(out, "{}", policy.title);
        if !policy.body.is_null() {
            let _ = writeln!(out, "{:#}", policy.body);
        }
        out.push('\n');
    }
    for finding in findings {
        let verdict = match (finding.is_too_much(), finding.is_too_little()) {
            (true, _) => "TOO MUCH",
            (_, true) => "MISSING",
            _ => "ok",
        };
        let found = match &finding.found {
            Found::Unclear(why) => why,
            found => word(found),
        };
        let needed = if finding.needed { "needed" } else { "not needed" };
        let _ = writeln!(out, "{:5} {:15} {needed:10}  {found:8}  {verdict}", finding.of, finding.operation);
    }
    out
}
