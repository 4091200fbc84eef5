//! Random stacks of layers against a naive overlay, written from the table of docs/design.md ("Flattening") alone.
//!
//! Few names, so that layers collide. What the overlay refuses must be refused by name; everything else is converted and
//! exported by the real programs, checked by e2fsck, and what the kernel mounts must be the overlay, line by line. The seed is
//! fixed; `COLDPRESS_PROPERTY_CASES` asks for more cases than the usual ones.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write;
use std::rc::Rc;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::support::common::{
    self, Bench, IMPLIED_ROOT, Image, Meta, Mounted, Packing, listing, noise, shown, shown_time,
};

const CASES: u32 = 96;
/// `-` sorts before `/`: path order is not the order of the bytes.
const NAMES: [&str; 4] = ["a", "a-", "b", "c"];
/// As ext4 stores them, up to 2310-04-04: the 68 years behind it e2fsck takes for times before 1970 that an old kernel wrote.
const SECONDS: std::ops::Range<i64> = -2_147_483_648..10_737_418_240;

#[test]
fn random_layers_are_what_a_naive_overlay_makes_of_them() {
    #[expect(clippy::disallowed_methods, reason = "a person asks a test for more cases here")]
    let cases = std::env::var("COLDPRESS_PROPERTY_CASES").map_or(CASES, |cases| cases.parse().unwrap());
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 500, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let stacks = (vec(vec(step(), 1..14), 1..=5), 0..4);
    let outcome = runner.run(&stacks, |(layers, refusals)| {
        match overlay(&layers, refusals == 0) {
            Stack { layers, result: Ok(tree) } => prop_assert_eq!(converted(&layers), lines(&tree), "{:#?}", layers),
            Stack { layers, result: Err(path) } => {
                let message = refusal(&layers);
                prop_assert!(message.contains(&format!("`{path}`: ")), "not named: {path}: {message}{layers:#?}");
            }
        }
        Ok(())
    });
    outcome.unwrap();
}

/// One layer of a stack becomes another; what a cache knows of the rest must change nothing, not even a refusal.
#[test]
fn an_edited_stack_converted_warm_is_what_it_is_cold() {
    let config = Config { cases: CASES / 2, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let edits = (vec(vec(step(), 1..14), 1..=5), vec((any::<prop::sample::Index>(), vec(step(), 0..6)), 1..4));
    let outcome = runner.run(&edits, |(layers, edits)| {
        let warm = Bench::new();
        let (mut layers, _) = (overlay(&layers, false).layers, said(&warm, &overlay(&layers, false).layers, true));
        for (at, steps) in edits {
            let at = at.index(layers.len());
            layers[at] = steps;
            prop_assert_eq!(said(&warm, &layers, true), said(&Bench::new(), &layers, false), "{:#?}", layers);
        }
        Ok(())
    });
    outcome.unwrap();
}

/// The root digest, or the refusal.
fn said(bench: &Bench, layers: &[Vec<Step>], with_cache: bool) -> String {
    image(layers).oci_layout(&bench.path("image"), Packing::Plain);
    let cache: &[&str] = if with_cache { &["--cache", "cache"] } else { &[] };
    let convert = ["convert", "oci:image", "--store", "store", "-o", "image.cpm", "--json"];
    let output = bench.coldpress(&[&convert[..], cache].concat());
    match output.status.success() {
        true => {
            let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            report["root_digest"].to_string()
        }
        false => String::from_utf8(output.stderr).unwrap(),
    }
}

// What a layer says.

type Path = Vec<&'static str>;

#[derive(Clone, Debug)]
struct Step {
    path: Path,
    action: Action,
    mode: u32,
    time: (i64, u32),
}

#[derive(Clone, Debug)]
enum Action {
    File {
        size: usize,
        seed: u64,
    },
    Directory,
    Symlink(String),
    HardLink(Path),
    Fifo,
    Whiteout,
    /// The same as overlayfs writes it.
    Device00,
    Opaque,
}

fn step() -> impl Strategy<Value = Step> {
    let action = prop_oneof![
        12 => (file_size(), 0..6u64).prop_map(|(size, seed)| Action::File { size, seed }),
        6 => Just(Action::Directory),
        4 => target().prop_map(Action::Symlink),
        6 => path().prop_map(Action::HardLink),
        1 => Just(Action::Fifo),
        4 => Just(Action::Whiteout),
        1 => Just(Action::Device00),
        2 => Just(Action::Opaque),
    ];
    let path = (path(), any::<prop::sample::Index>());
    let nanos = prop_oneof![Just(0), 0..1_000_000_000u32];
    (path, action, 0..0o10000u32, SECONDS, nanos).prop_map(|((mut path, root), action, mode, secs, nanos)| {
        // Only these can be of the root, and seldom are.
        if matches!(action, Action::Directory | Action::Opaque) && root.index(12) == 0 {
            path.clear();
        }
        let time = (secs, if secs < 0 { 0 } else { nanos });
        Step { path, action, mode, time }
    })
}

fn path() -> impl Strategy<Value = Path> {
    vec(prop::sample::select(&NAMES[..]), 1..=3)
}

fn file_size() -> impl Strategy<Value = usize> {
    prop_oneof![20 => 0..20_000usize, 1 => 524_288..1_200_000usize]
}

/// Relative, absolute, upwards and past the root, short, and too long for an inode.
fn target() -> impl Strategy<Value = String> {
    let start = prop::sample::select(&["", "", "/", "../", "./../../", "/../"][..]);
    let end = prop::sample::select(
        &["", "", "", "", "/", "/..", "/.//././././././././././././././././././././././././././././././././"][..],
    );
    (start, path(), end).prop_map(|(start, path, end)| format!("{start}{}{end}", path.join("/")))
}

impl Step {
    fn name(&self) -> String {
        let path = self.path.join("/");
        let (above, name) = path.rsplit_once('/').map_or(("", &*path), |(above, name)| (above, name));
        let above = if above.is_empty() { String::new() } else { format!("{above}/") };
        match self.action {
            Action::Whiteout => format!("{above}.wh.{name}"),
            Action::Opaque if path.is_empty() => ".wh..wh..opq".to_owned(),
            Action::Opaque => format!("{path}/.wh..wh..opq"),
            Action::Directory => format!("./{path}"),
            _ => path,
        }
    }

    fn write(&self, layer: common::Layer) -> common::Layer {
        let mut meta = Meta { mtime: self.time.0, ..Meta::mode(self.mode) };
        meta.pax.push(("mtime".to_owned(), pax_time(self.time).into_bytes()));
        let (flag, link, data) = match &self.action {
            Action::File { size, seed } => (b'0', String::new(), noise(*size, *seed)),
            Action::Directory => (b'5', String::new(), Vec::new()),
            Action::Symlink(target) => (b'2', target.clone(), Vec::new()),
            Action::HardLink(target) => (b'1', target.join("/"), Vec::new()),
            Action::Fifo => (b'6', String::new(), Vec::new()),
            Action::Whiteout | Action::Opaque => (b'0', String::new(), Vec::new()),
            Action::Device00 => (b'3', String::new(), Vec::new()),
        };
        layer.entry(flag, self.name().as_bytes(), link.as_bytes(), &data, &meta, (0, 0))
    }
}

fn pax_time((secs, nanos): (i64, u32)) -> String {
    if nanos == 0 { secs.to_string() } else { format!("{secs}.{nanos:09}") }
}

// What the programs make of it.

fn image(layers: &[Vec<Step>]) -> Image {
    Image::new(layers.iter().map(|steps| steps.iter().fold(common::Layer::new(), |layer, step| step.write(layer))))
}

fn converted(layers: &[Vec<Step>]) -> Vec<String> {
    let bench = Bench::new();
    let file = bench.block_image(&image(layers), "image", &["--free", "0"]);
    listing(Mounted::new(&file).path())
}

fn refusal(layers: &[Vec<Step>]) -> String {
    let bench = Bench::new();
    image(layers).oci_layout(&bench.path("image"), Packing::Plain);
    let output = bench.coldpress(&["convert", "oci:image", "--store", "store", "-o", "image.cpm"]);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}{layers:#?}");
    assert!(!bench.path("image.cpm").exists());
    message
}

// The naive overlay.

type Overlay = BTreeMap<Path, Entry>;

#[derive(Clone, Debug)]
enum Entry {
    Directory(Stat),
    /// Names of one inode share it.
    Other(Rc<Inode>),
}

#[derive(Clone, Copy, Debug)]
struct Stat {
    mode: u32,
    time: (i64, u32),
}

const IMPLIED: Stat = Stat { mode: 0o755, time: (0, 0) };

#[derive(Debug)]
struct Inode {
    /// A hard link's entry changes it, for all names.
    stat: Cell<Stat>,
    action: Action,
}

/// The layers that were applied, and what they make, or the name of the last layer's last entry, which is refused.
struct Stack {
    layers: Vec<Vec<Step>>,
    result: Result<Overlay, String>,
}

/// Applies `layers`. An entry that is refused is left out, or ends the stack where it is to be `refusing`.
fn overlay(layers: &[Vec<Step>], refusing: bool) -> Stack {
    let mut lower = Overlay::from([(Path::new(), Entry::Directory(IMPLIED))]);
    let mut kept = Vec::new();
    for steps in layers {
        let mut upper = Upper::default();
        kept.push(Vec::new());
        for step in steps {
            let before = upper.clone();
            let applied = upper.apply(step, &lower);
            if applied.is_ok() || refusing {
                kept.last_mut().unwrap().push(step.clone());
            }
            match applied {
                Ok(()) => {}
                Err(Refused) if refusing => return Stack { layers: kept, result: Err(step.name()) },
                Err(Refused) => upper = before,
            }
        }
        lower = upper.onto(&lower);
    }
    Stack { layers: kept, result: Ok(lower) }
}

struct Refused;

/// What one layer has said so far.
#[derive(Clone, Default)]
struct Upper {
    own: BTreeMap<Path, Own>,
    hidden: BTreeSet<Path>,
    opaque: BTreeSet<Path>,
}

#[derive(Clone)]
enum Own {
    /// Implied, where nothing is said of it.
    Directory(Option<Stat>),
    Other(Rc<Inode>),
    /// A hard link to a file of a lower layer; nothing can stand below it, though it be a symlink.
    Lower(Rc<Inode>),
}

impl Own {
    fn inode(&self) -> Option<&Rc<Inode>> {
        match self {
            Self::Directory(_) => None,
            Self::Other(inode) | Self::Lower(inode) => Some(inode),
        }
    }
}

impl Upper {
    fn apply(&mut self, step: &Step, lower: &Overlay) -> Result<(), Refused> {
        if let Action::Opaque = step.action {
            let at = self.directory(&step.path)?;
            self.opaque.insert(at);
            return Ok(());
        }
        let Some((name, above)) = step.path.split_last() else {
            self.own.insert(Path::new(), Own::Directory(Some(step.stat())));
            return Ok(());
        };
        let mut path = self.directory(above)?;
        path.push(name);
        match &step.action {
            Action::Whiteout | Action::Device00 => _ = self.hidden.insert(path),
            Action::Directory => {
                if self.own.get(&path).is_some_and(|own| own.inode().is_some()) {
                    self.forget(&path);
                }
                self.own.insert(path, Own::Directory(Some(step.stat())));
            }
            Action::HardLink(target) => {
                // What is at the link's own place goes first.
                if target.starts_with(&step.path) {
                    return Err(Refused);
                }
                let inode = linked(target, &self.onto(lower))?;
                let mode = if matches!(inode.action, Action::Symlink(_)) { 0o777 } else { step.mode };
                inode.stat.set(Stat { mode, time: step.time });
                let below =
                    lower.values().any(|entry| matches!(entry, Entry::Other(other) if Rc::ptr_eq(other, &inode)));
                self.forget(&path);
                self.own.insert(path, if below { Own::Lower(inode) } else { Own::Other(inode) });
            }
            action => {
                self.forget(&path);
                self.own
                    .insert(path, Own::Other(Rc::new(Inode { stat: Cell::new(step.stat()), action: action.clone() })));
            }
        }
        Ok(())
    }

    /// The last of duplicate entries wins: what the layer said of `path` and below it is gone.
    fn forget(&mut self, path: &Path) {
        self.own.retain(|own, _| !own.starts_with(path));
        self.hidden.retain(|hidden| hidden == path || !hidden.starts_with(path));
        self.opaque.retain(|opaque| !opaque.starts_with(path));
    }

    /// Where `parts` leads in this layer, its own symlinks followed; directories that are missing are implied.
    fn directory(&mut self, parts: &[&'static str]) -> Result<Path, Refused> {
        let (mut at, mut todo, mut followed) = (Path::new(), parts.iter().copied().collect::<VecDeque<_>>(), 0);
        while let Some(name) = todo.pop_front() {
            if name == ".." {
                at.pop();
                continue;
            }
            at.push(name);
            match self.own.entry(at.clone()).or_insert(Own::Directory(None)) {
                Own::Directory(_) => {}
                Own::Lower(_) => return Err(Refused),
                Own::Other(inode) => follow(inode, &mut at, &mut todo, &mut followed)?,
            }
        }
        Ok(at)
    }

    /// What is seen with this layer on top of `lower`.
    fn onto(&self, lower: &Overlay) -> Overlay {
        let mut seen: Overlay = lower
            .iter()
            .filter(|(path, _)| !self.covers(path))
            .map(|(path, entry)| (path.clone(), entry.clone()))
            .collect();
        for (path, own) in &self.own {
            let entry = match (own, seen.get(path)) {
                (Own::Directory(None), Some(Entry::Directory(stat))) => Entry::Directory(*stat),
                (Own::Directory(stat), _) => Entry::Directory(stat.unwrap_or(IMPLIED)),
                (Own::Other(inode) | Own::Lower(inode), _) => Entry::Other(Rc::clone(inode)),
            };
            seen.insert(path.clone(), entry);
        }
        seen
    }

    /// Whether a lower layer's `path` is hidden, or something above it is hidden, opaque or no directory any more.
    fn covers(&self, path: &Path) -> bool {
        (0..=path.len()).any(|length| {
            let (part, above) = (&path[..length], length < path.len());
            let replaced = || self.own.get(part).is_some_and(|own| own.inode().is_some());
            self.hidden.contains(part) || above && (self.opaque.contains(part) || replaced())
        })
    }
}

impl Step {
    fn stat(&self) -> Stat {
        let mode = if matches!(self.action, Action::Symlink(_)) { 0o777 } else { self.mode };
        Stat { mode, time: self.time }
    }
}

/// Goes on from the symlink at `at`, never out of the root; nothing else can be followed.
fn follow(inode: &Inode, at: &mut Path, todo: &mut VecDeque<&'static str>, followed: &mut u32) -> Result<(), Refused> {
    let Action::Symlink(target) = &inode.action else { return Err(Refused) };
    *followed += 1;
    if *followed > 40 {
        return Err(Refused);
    }
    at.pop();
    if target.starts_with('/') {
        at.clear();
    }
    let known = NAMES.into_iter().chain([".."]).collect::<Vec<_>>();
    for part in target.split('/').rev() {
        if let Some(name) = known.iter().find(|name| **name == part) {
            todo.push_front(name);
        }
    }
    Ok(())
}

/// The file that a hard link names among what is `seen`: symlinks above it are followed, it itself is not.
fn linked(target: &Path, seen: &Overlay) -> Result<Rc<Inode>, Refused> {
    let (mut at, mut todo, mut followed) = (Path::new(), target.iter().copied().collect::<VecDeque<_>>(), 0);
    while let Some(name) = todo.pop_front() {
        if name == ".." {
            at.pop();
            continue;
        }
        at.push(name);
        match seen.get(&at).ok_or(Refused)? {
            Entry::Directory(_) => {}
            Entry::Other(inode) if todo.is_empty() => return Ok(Rc::clone(inode)),
            Entry::Other(inode) => follow(inode, &mut at, &mut todo, &mut followed)?,
        }
    }
    Err(Refused)
}

/// The overlay in the form of [`listing`].
fn lines(tree: &Overlay) -> Vec<String> {
    let mut firsts: Vec<(&Rc<Inode>, String)> = Vec::new();
    let mut lines = Vec::new();
    for (path, entry) in tree {
        let name = if path.is_empty() { "/".to_owned() } else { path.join("/") };
        match entry {
            Entry::Directory(Stat { mode, time }) => {
                lines.push(format!("directory {mode:04o} {name}{}", shown_time(time.0, time.1.into())));
            }
            Entry::Other(inode) => {
                let links = tree
                    .values()
                    .filter(|other| matches!(other, Entry::Other(other) if Rc::ptr_eq(other, inode)))
                    .count();
                let mut line = inode.line(&name);
                if links > 1 {
                    write!(line, " links {links}").unwrap();
                }
                match firsts.iter().find(|(first, _)| Rc::ptr_eq(first, inode)) {
                    Some((_, first)) => write!(line, " same as {first}").unwrap(),
                    None => firsts.push((inode, name)),
                }
                lines.push(line);
            }
        }
    }
    lines.retain(|line| line != IMPLIED_ROOT);
    lines
}

impl Inode {
    fn line(&self, name: &str) -> String {
        let Stat { mode, time } = self.stat.get();
        let time = shown_time(time.0, time.1.into());
        match &self.action {
            Action::File { size, seed } => format!("file {mode:04o} {name}{time} {}", shown(&noise(*size, *seed))),
            Action::Symlink(target) => format!("symlink 0777 {name}{time} -> {target}"),
            Action::Fifo => format!("fifo {mode:04o} {name}{time}"),
            action => unreachable!("{action:?} makes no inode"),
        }
    }
}
