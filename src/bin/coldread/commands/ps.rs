//! `coldread ps`: the processes that mount or serve, as their entries in the run directory say.

use serde_json::json;

use super::status::table;
use crate::args::PsArgs;
use crate::run_state::{Entry, RunDirectory};
use crate::shared::failure::CommandResult;
use crate::shared::stdout::print;

pub fn run(args: &PsArgs) -> CommandResult {
    let directory = RunDirectory::open()?;
    let lock = directory.lock()?;
    let entries = directory.entries(&lock)?;
    let mut text = String::new();
    if args.json {
        for entry in &entries {
            text.push_str(&format!("{}\n", object(entry)?));
        }
    } else {
        let head = ["PID", "STATE", "COMMAND", "IMAGE", "WHERE"].map(str::to_owned);
        let rows = entries.iter().map(row).collect::<Result<Vec<_>, _>>()?;
        text = table([head].into_iter().chain(rows).collect());
    }
    drop(lock);
    Ok(print(text.as_bytes())?)
}

fn row(entry: &Entry) -> Result<[String; 5], coldpress::Error> {
    let unknown = || "?".to_owned();
    let Some(record) = entry.record() else {
        return Ok([unknown(), entry.state()?.to_owned(), unknown(), unknown(), unknown()]);
    };
    let places = match record.directory() {
        Some(directory) => vec![directory.display().to_string()],
        None => {
            record.files.iter().map(|file| format!("fuse {}", file.0.display())).chain(record.exports.clone()).collect()
        }
    };
    let cells = [record.command.clone(), record.image_names(), places.join(", ")];
    let [command, images, places] = cells.map(|text| text.chars().flat_map(printable).collect());
    Ok([record.pid.to_string(), entry.state()?.to_owned(), command, images, places])
}

/// Names come from outside; a terminal shall not act on them.
fn printable(c: char) -> Vec<char> {
    if c.is_control() { c.escape_default().collect() } else { vec![c] }
}

fn object(entry: &Entry) -> Result<serde_json::Value, coldpress::Error> {
    let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
    let devices: Vec<String> = entry.loop_devices()?.iter().map(|device| text(&device.path())).collect();
    let record = entry.record();
    Ok(json!({
        "state": entry.state()?,
        "command": record.map(|record| &record.command),
        "pid": record.map(|record| record.pid),
        "start_time": record.map(|record| record.start_time),
        "mount_namespace": record.map(|record| record.mount_namespace),
        "images": record.map(|record| &record.images),
        "directory": record.and_then(|record| record.directory()).map(text),
        "bundle": record.and_then(|record| record.bundle.as_ref()).map(|path| text(&path.0)),
        "files": record.map(|record| record.files.iter().map(|file| text(&file.0)).collect::<Vec<_>>()),
        "exports": record.map(|record| &record.exports),
        "entry": text(entry.path()),
        "loop_devices": devices,
    }))
}
