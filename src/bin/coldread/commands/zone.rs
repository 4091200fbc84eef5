//! `coldread zone`: what the zone's cache servers hold, and how large they should be.

use std::fmt::Write;
use std::io::Write as _;

use coldpress::inspect::zone_picture::svg;
use coldpress::inspect::zone_sizing::{Plan, Prices};
use coldpress::zone::stripe::Code;
use coldpress::zone::trace::{Asked, decode};
use coldpress::zone::{ServerState, Settings};
use coldpress::{Error, ErrorKind};
use serde::Serialize;

use super::status::{share, size, table};
use crate::args::{ZoneCommand, ZonePlanArgs, ZoneStatusArgs};
use crate::shared::failure::{CommandResult, Failure, result_is_printed};
use crate::shared::files::write_whole;
use crate::shared::stdout::print;

pub fn run(command: &ZoneCommand) -> CommandResult {
    match command {
        ZoneCommand::Status(args) => status(args),
        ZoneCommand::Plan(args) => plan(args),
    }
}

#[derive(Serialize)]
struct Said {
    servers: Vec<ServerState>,
}

fn status(args: &ZoneStatusArgs) -> CommandResult {
    let settings =
        Settings { code: Code::default(), deadline: std::time::Duration::ZERO, lease: std::time::Duration::ZERO };
    let zone = args.servers.open(settings)?;
    let zone = zone.ok_or_else(|| Failure::Usage("no servers: name them with --zone".to_owned()))?;
    let servers = zone.states();
    let text = if args.json { json(&Said { servers: servers.clone() })? } else { shown(&servers) };
    print(text.as_bytes())?;
    if args.json {
        result_is_printed();
    }
    let why = |server: &ServerState| server.why.as_ref().map_or(String::new(), |why| format!(" ({why})"));
    let down: Vec<String> =
        servers.iter().filter(|server| !server.up).map(|server| server.name.clone() + &why(server)).collect();
    if !down.is_empty() {
        return Err(Error::new(ErrorKind::Unavailable, format!("no answer from {}", down.join(", "))).into());
    }
    Ok(())
}

fn json(value: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string(value).map(|text| text + "\n").map_err(|error| Error::io("JSON", error.into()))
}

fn shown(servers: &[ServerState]) -> String {
    let head = ["server", "state", "shards", "memory", "of", "hit rate", "evicted", "filled", "repaired"];
    let row = |server: &ServerState| {
        let bytes = |bytes: u64| if bytes == 0 { "-".to_owned() } else { size(bytes as f64) };
        [
            server.name.clone(),
            if server.up { "up".to_owned() } else { "down".to_owned() },
            server.keys.to_string(),
            bytes(server.memory_bytes),
            bytes(server.max_memory_bytes),
            share(server.hits, server.hits.saturating_add(server.misses)),
            server.evicted.to_string(),
            server.filled.to_string(),
            server.repaired.to_string(),
        ]
    };
    table([head.map(str::to_owned)].into_iter().chain(servers.iter().map(row)).collect())
}

fn plan(args: &ZonePlanArgs) -> CommandResult {
    let trace = trace(args)?;
    let overhead = args.code.shards() as f64 / args.code.data() as f64;
    let millis = |wait: crate::reading::Wait| wait.0.as_secs_f64() * 1000.0;
    let prices = Prices {
        memory_gib_month: args.memory_price,
        thousand_requests: args.request_price,
        transfer_gib: args.transfer_price,
        overhead,
        zone_millis: millis(args.zone_latency),
        origin_millis: millis(args.origin_latency),
        goal_millis: millis(args.goal),
    };
    let plan = Plan::of(&trace, prices)?;
    if let Some(path) = &args.output {
        let picture = svg(&plan, &args.currency);
        write_whole(path, |mut file| file.write_all(picture.as_bytes()).map_err(|error| Error::file(path, error)))?;
    }
    let text = if args.json { json(&plan)? } else { told(&plan, &args.currency) };
    Ok(print(text.as_bytes())?)
}

/// Of the files, and what was made, together.
fn trace(args: &ZonePlanArgs) -> Result<Vec<Asked>, Failure> {
    let mut files = Vec::new();
    for path in &args.trace {
        let text = std::fs::read_to_string(path).map_err(|error| Error::file(path, error))?;
        files.push((path.display().to_string(), text));
    }
    let mut asked = decode(files.iter().map(|(name, text)| (&**name, &**text)))?;
    let mut first = asked.iter().map(|asked| asked.chunk + 1).max().unwrap_or(0);
    let begins = asked.first().map_or(0, |asked| asked.millis);
    for (seed, made) in args.make.iter().enumerate() {
        let trace = made.trace(args.seed + seed as u64, first);
        asked.extend(trace.into_iter().map(|made| Asked { millis: made.millis + begins, ..made }));
        first = first.saturating_add(made.chunks());
    }
    asked.sort_by_key(|asked| asked.millis);
    Ok(asked)
}

fn told(plan: &Plan, currency: &str) -> String {
    let cost = format!("{currency} a month");
    let head = ["chunks held", "memory", "hit rate", &cost, "latency", ""].map(str::to_owned);
    let rows = plan.sizes.iter().enumerate().map(|(at, of)| {
        let mut notes = Vec::new();
        if at == plan.for_cost {
            notes.push("costs least");
        }
        if Some(at) == plan.for_latency {
            notes.push("fast enough");
        }
        if at == plan.chosen() {
            notes.push("<- take this");
        }
        [
            size(of.bytes as f64),
            size(of.memory_bytes as f64),
            format!("{:.1} %", of.hit_rate * 100.0),
            format!("{:.2}", of.cost_month),
            format!("{:.2} ms", of.latency_millis),
            notes.join(", "),
        ]
    });
    let mut text = format!(
        "{} requests for {} chunks in {:.1} hours\n\n",
        plan.asked,
        plan.chunks,
        plan.span_millis as f64 / 3_600_000.0
    );
    text += &table([head].into_iter().chain(rows).collect());
    let chosen = &plan.sizes[plan.chosen()];
    let _ = writeln!(text, "\n{} of memory, of all servers together", size(chosen.memory_bytes as f64));
    if plan.for_latency.is_none() {
        let _ =
            writeln!(text, "no size is fast enough: {:.2} ms at best", plan.sizes[plan.sizes.len() - 1].latency_millis);
    }
    text
}
