//! `coldread stat`.

use coldpress::fs::ext4::read::{Ext4, FileType, Node};
use coldpress::fs::path::Display;
use coldpress::fs::tree::Timestamp;
use coldpress::{Result, digest};
use serde_json::{Value, json};

use super::{bytes, mode_text, open, tell_fetched, time_text};
use crate::args::{Cli, StatArgs};
use crate::shared::failure::CommandResult;
use crate::shared::stdout::print;

pub fn run(cli: &Cli, args: &StatArgs) -> CommandResult {
    let device = open(&args.source)?;
    let fs = Ext4::open(&device)?;
    let shown = args.paths.iter().try_for_each(|path| {
        let node = fs.lookup(bytes(path), false)?;
        let json = node_json(&fs, bytes(path), &node).map_err(|error| error.within(path.display()))?;
        let text = if args.json { format!("{json}\n") } else { node_text(&node, &json) };
        print(text.as_bytes())
    });
    tell_fetched(cli, &device);
    Ok(shown?)
}

/// Everything that an inode says.
pub fn node_json(fs: &Ext4<'_>, path: &[u8], node: &Node) -> Result<Value> {
    let stat = &node.stat;
    let Timestamp { secs: seconds, nanos } = stat.mtime;
    let mut json = json!({
        "path": Display(path).to_string(),
        "type": stat.file_type.name(),
        "inode": stat.ino.0,
        "mode": format!("{:04o}", stat.mode),
        "uid": stat.uid,
        "gid": stat.gid,
        "size": stat.size,
        "allocated_bytes": stat.sectors * 512,
        "links": stat.links,
        "mtime_seconds": seconds,
        "mtime_nanoseconds": nanos,
    });
    match stat.file_type {
        FileType::Symlink => json["target"] = json!(Display(&fs.read_link(node)?).to_string()),
        FileType::CharDevice(device) | FileType::BlockDevice(device) => {
            json["device"] = json!([device.major, device.minor]);
        }
        _ => {}
    }
    let xattrs = fs.xattrs(node)?;
    if !xattrs.is_empty() {
        // Values are bytes: in hexadecimal, as `getfattr -e hex` shows them.
        let values = xattrs
            .iter()
            .map(|(name, value)| (Display(name).to_string(), json!(format!("0x{}", digest::to_hex(value)))));
        json["xattrs"] = Value::Object(values.collect());
    }
    Ok(json)
}

fn node_text(node: &Node, json: &Value) -> String {
    let stat = &node.stat;
    let word = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
    let mut out = format!(
        "{}\n  type    {}\n  mode    {} ({})\n  owner   {}:{}\n  size    {} bytes, {} allocated\n  inode   {}, {} links\n  mtime   {} UTC\n",
        word("path"),
        word("type"),
        word("mode"),
        mode_text(node),
        stat.uid,
        stat.gid,
        stat.size,
        stat.sectors * 512,
        stat.ino.0,
        stat.links,
        time_text(stat.mtime),
    );
    for (key, label) in [("target", "target"), ("device", "device"), ("xattrs", "xattrs")] {
        if let Some(value) = json.get(key) {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            out.push_str(&format!("  {label}  {value}\n"));
        }
    }
    out
}
