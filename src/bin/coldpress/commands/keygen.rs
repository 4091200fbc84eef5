//! `coldpress keygen`.

use coldpress::crypto::{Salt, Secret};
use coldpress::keys::KeyFile;
use serde_json::json;

use crate::args::{Cli, KeygenArgs};
use crate::output;
use crate::shared::failure::CommandResult;

pub fn run(cli: &Cli, args: &KeygenArgs) -> CommandResult {
    if args.salt_only {
        let salt = Salt::new(Secret::random()?);
        KeyFile::write_new_salt(&args.output, &salt)?;
        let scope = salt.scope().to_string();
        let shown = args.output.display();
        let text = format!(
            "{shown}: salt of deduplication scope {scope}, no key\nnext: coldpress convert IMAGE --key KEY --salt-file {shown} --store STORE -o app.cpm\n"
        );
        return Ok(output::result(cli, &text, &json!({ "key_file": args.output, "scope_id": scope }))?);
    }
    let key = match &args.worker_of {
        Some(path) => KeyFile { salt: None, ..KeyFile::read(path)? },
        None => KeyFile::generate()?,
    };
    key.write_new(&args.output)?;
    let (id, scope) = (key.wrapping_key.id_text(), key.salt.as_ref().map(|salt| salt.scope().to_string()));
    let holds = match &scope {
        Some(scope) => format!("salt of deduplication scope {scope}; for converting and reading"),
        None => "no salt; for reading only".to_owned(),
    };
    let next = match &scope {
        Some(_) => "next: coldpress convert IMAGE --store STORE -o app.cpm\n".to_owned(),
        None => format!("next: coldread mount MANIFEST DIR --key file:{}\n", args.output.display()),
    };
    let text = format!("{}: wrapping key {id}, {holds}\n{next}", args.output.display());
    let json = json!({ "key_file": args.output, "wrapping_key_id": id, "scope_id": scope });
    Ok(output::result(cli, &text, &json)?)
}
