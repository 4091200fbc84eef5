//! The order of the library's modules: src/lib.rs states it, and no module imports one that stands behind it.
//!
//! The test reads `use` declarations and paths that begin with `crate`, `super` or `self`, follows re-exports to the file that
//! defines an item, and leaves unit tests out. Between files it looks for import cycles: a re-export of a child is no import.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A module or an item as the segments of its path below the crate: `["fs", "ext4", "layout"]`.
type ItemPath = Vec<String>;

/// Import cycles between files that are still there; the list only becomes shorter.
const REMAINING_CYCLES: [&str; 10] = [
    "net::aws net::aws::credentials",
    "read::ahead read::device",
    "read::cow read::cow::room",
    "read::diff read::diff::causes read::diff::chunks read::diff::files inspect::diff inspect::diff::causes inspect::diff::chunks inspect::diff::files",
    "simulation::reader simulation::world",
    "zone zone::lease zone::lookup",
    "registry::credentials registry::login_file",
    "serve::nbd serve::nbd::transmission serve::vhost_blk serve::vhost_blk::config serve::vhost_blk::rings",
    "source source::archive source::blob source::containers_storage source::docker_archive source::engine source::engine::api \
     source::engine::members source::engine::pass source::engine::saved source::index source::layer source::oci_layout \
     source::recognize source::registry source::skopeo_dir",
    "store::azure store::environment store::failure store::google store::open store::remote store::s3",
];

/// The code of a crate, a file a module.
struct Sources {
    code: BTreeMap<ItemPath, String>,
    /// What a module re-exports under its own name, and where that is defined.
    re_exports: BTreeMap<ItemPath, ItemPath>,
}

impl Sources {
    /// Takes files by their path below the crate's root, such as `fs/ext4/mod.rs`, with their text.
    fn new(files: impl IntoIterator<Item = (String, String)>) -> Self {
        let code = files.into_iter().map(|(path, text)| (module_of(&path), without_tests(&text))).collect();
        let mut sources = Self { code, re_exports: BTreeMap::new() };
        for (module, code) in &sources.code {
            for (is_public, path) in declarations(code) {
                let name = path.rsplit(" as ").next().unwrap_or_default().rsplit("::").next().unwrap_or_default();
                if let Some(item) = sources.absolute(module, &path).filter(|_| is_public) {
                    sources.re_exports.insert(join(module, name), item);
                }
            }
        }
        sources
    }

    /// Reads the library's own files: all below src but the programs.
    fn of_the_library() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut files = Vec::new();
        let mut directories = vec![root.clone()];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() && path != root.join("bin") {
                    directories.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
                    let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                    files.push((name, std::fs::read_to_string(&path).unwrap()));
                }
            }
        }
        Self::new(files)
    }

    /// Returns the path below the crate of what `module` calls `path`; `None` where it is of another crate.
    fn absolute(&self, module: &ItemPath, path: &str) -> Option<ItemPath> {
        let path = path.split(" as ").next()?;
        let mut segments: Vec<&str> = path.split("::").map(str::trim).collect();
        if segments.last() == Some(&"self") && segments.len() > 1 {
            segments.pop();
        }
        let mut base = match segments[0] {
            "crate" => ItemPath::new(),
            "super" | "self" => module.clone(),
            child if self.code.contains_key(&join(module, child)) => return Some(extend(module, &segments)),
            _ => return None,
        };
        let ups = segments.iter().take_while(|segment| **segment == "super").count();
        base.truncate(base.len().saturating_sub(ups));
        Some(extend(&base, &segments[ups.max(1)..]))
    }

    /// Returns the module whose file defines `item`.
    fn home(&self, item: &ItemPath) -> ItemPath {
        let mut item = item.clone();
        loop {
            let length = (0..=item.len()).rev().find(|length| self.code.contains_key(&item[..*length])).unwrap_or(0);
            let re_export = item.get(..=length).and_then(|name| self.re_exports.get(name));
            match re_export {
                Some(original) => item = extend(original, &item[length + 1..]),
                None => return item[..length].to_vec(),
            }
        }
    }

    /// Returns the modules that `module` imports from, but for what it only re-exports of its own children.
    fn imports(&self, module: &ItemPath) -> BTreeSet<ItemPath> {
        let code = &self.code[module];
        let declared = declarations(code).into_iter().filter_map(|(is_public, path)| {
            let home = self.home(&self.absolute(module, &path)?);
            (!is_public || !home.starts_with(module)).then_some(home)
        });
        let named = paths(code).into_iter().filter_map(|path| Some(self.home(&self.absolute(module, &path)?)));
        declared.chain(named).filter(|home| home != module).collect()
    }

    /// Returns a message for each import of a top module by one that stands before it in `order`, or in no order at all.
    fn upward_imports(&self, order: &[String]) -> Vec<String> {
        let place = |name: &String| order.iter().position(|other| other == name);
        let mut wrong = Vec::new();
        for module in self.code.keys().filter(|module| !module.is_empty()) {
            let Some(own) = place(&module[0]) else {
                wrong.push(format!("{} has no place in the order of src/lib.rs", module[0]));
                continue;
            };
            for import in self.imports(module).iter().filter(|import| !import.is_empty()) {
                if place(&import[0]).is_none_or(|other| other > own) {
                    let (module, import) = (module.join("::"), import.join("::"));
                    wrong.push(format!("{module} imports {import}, which stands behind it in the order of src/lib.rs"));
                }
            }
        }
        wrong.dedup();
        wrong
    }

    /// Returns the groups of files that import each other around, each group and all of them sorted.
    fn cycles(&self) -> BTreeSet<Vec<String>> {
        let imports: BTreeMap<&ItemPath, BTreeSet<ItemPath>> =
            self.code.keys().map(|module| (module, self.imports(module))).collect();
        let reached = |from: &ItemPath| {
            let mut reached = BTreeSet::new();
            let mut todo = vec![from];
            while let Some(module) = todo.pop() {
                todo.extend(imports[module].iter().filter(|import| reached.insert((*import).clone())));
            }
            reached
        };
        let reached: BTreeMap<&ItemPath, _> = self.code.keys().map(|module| (module, reached(module))).collect();
        let in_cycles = self.code.keys().filter(|module| reached[module].contains(*module));
        let group = |module: &ItemPath| {
            let both = reached[module].iter().filter(|other| reached[other].contains(module));
            both.map(|other| other.join("::")).collect::<Vec<_>>()
        };
        // The crate's root declares all modules and is imported by all of them.
        in_cycles.filter(|module| !module.is_empty()).map(group).collect()
    }
}

/// Returns the module of a file below the crate's root.
fn module_of(path: &str) -> ItemPath {
    let mut module: ItemPath = path.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if module.last().is_some_and(|last| last == "mod") || module == ["lib"] {
        module.pop();
    }
    module
}

fn join(module: &[String], name: &str) -> ItemPath {
    extend(module, &[name])
}

fn extend<S: AsRef<str>>(module: &[String], names: &[S]) -> ItemPath {
    module.iter().cloned().chain(names.iter().map(|name| name.as_ref().to_owned())).collect()
}

/// Returns `text` without comments and unit tests.
fn without_tests(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    code.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// Returns the paths of all `use` declarations, and whether each is public; of `use a::{b, c}` two.
fn declarations(code: &str) -> Vec<(bool, String)> {
    let mut found = Vec::new();
    for statement in statements(code) {
        let (is_public, path) = match statement.split_once("use ") {
            Some(("", path)) => (false, path),
            Some((before, path)) if before.starts_with("pub") => (true, path),
            _ => continue,
        };
        found.extend(expanded(path).into_iter().map(|path| (is_public, path)));
    }
    found
}

/// Returns the text of each `use` declaration, its white space single blanks.
fn statements(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut current: Option<String> = None;
    for line in code.lines().map(str::trim) {
        let begins =
            line.starts_with("use ") || line.starts_with("pub") && line.contains(" use ") && !line.contains("fn ");
        if current.is_none() && !begins {
            continue;
        }
        let statement = current.get_or_insert_default();
        statement.push_str(line);
        statement.push(' ');
        if line.ends_with(';') {
            found.extend(current.take().map(|statement| statement.trim_end_matches([';', ' ']).to_owned()));
        }
    }
    found
}

/// Returns the paths of a `use` tree: of `a::{b, c::{d, self}}` three.
fn expanded(tree: &str) -> Vec<String> {
    let Some((before, rest)) = tree.split_once('{') else { return vec![tree.trim().to_owned()] };
    let inner = rest.rsplit_once('}').map_or(rest, |(inner, _)| inner);
    let mut depth = 0;
    let parts = inner.split(|letter| {
        depth += match letter {
            '{' => 1,
            '}' => -1,
            _ => 0,
        };
        letter == ',' && depth == 0
    });
    let parts = parts.filter(|part| !part.trim().is_empty());
    parts.flat_map(|part| expanded(part).into_iter().map(|path| format!("{}{path}", before.trim()))).collect()
}

/// Returns the paths in the code itself, such as `crate::random::fill` or `child::item`.
fn paths(code: &str) -> Vec<String> {
    let is_part = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == ':';
    let mut found = Vec::new();
    let mut in_declaration = false;
    for line in code.lines() {
        let trimmed = line.trim();
        in_declaration |= trimmed.starts_with("use ") || trimmed.starts_with("pub") && trimmed.contains(" use ");
        if !in_declaration {
            let words = line.split(|letter| !is_part(letter)).map(|word| word.trim_matches(':'));
            found.extend(words.filter(|word| word.contains("::")).map(str::to_owned));
        }
        in_declaration &= !trimmed.ends_with(';');
    }
    found
}

/// Returns the rows of the table that states the order in `text`, without what comments begin with.
fn rows(text: &str) -> Vec<String> {
    let lines = text.lines().map(|line| line.trim_start_matches("//!").trim().to_owned());
    lines.skip_while(|line| !line.starts_with("| modules ")).skip(2).take_while(|line| line.starts_with('|')).collect()
}

/// Returns the modules that `rows` name in code spans in their first column, in order.
fn order(rows: &[String]) -> Vec<String> {
    let columns = rows.iter().filter_map(|row| row.split('|').nth(1));
    columns.flat_map(|column| column.split('`').skip(1).step_by(2).map(str::to_owned)).collect()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Returns the text of every page below docs.
fn pages() -> Vec<String> {
    let mut pages = Vec::new();
    let mut directories = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(std::fs::read_to_string(path).unwrap());
            }
        }
    }
    pages
}

#[test]
fn no_module_imports_one_that_stands_behind_it() {
    let order = order(&rows(&read("src/lib.rs")));
    assert!(order.len() > 20, "{order:?}");
    let wrong = Sources::of_the_library().upward_imports(&order);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn conversion_and_reading_meet_in_the_formats_alone() {
    let sources = Sources::of_the_library();
    let imports_of = |top: &str| -> BTreeSet<String> {
        let modules = sources.code.keys().filter(|module| module.first().is_some_and(|name| name == top));
        modules.flat_map(|module| sources.imports(module)).filter_map(|import| import.first().cloned()).collect()
    };
    for (top, other) in [("convert", "read"), ("convert", "serve"), ("read", "convert"), ("serve", "convert")] {
        assert!(!imports_of(top).contains(other), "{top} imports {other}");
    }
    assert!(imports_of("convert").contains("manifest"), "imports are found at all");
}

#[test]
fn the_module_map_of_the_design_is_that_of_the_code() {
    let rows_of_code = rows(&read("src/lib.rs"));
    let maps: Vec<Vec<String>> = pages().iter().map(|page| rows(page)).filter(|rows| !rows.is_empty()).collect();
    assert_eq!(maps, std::slice::from_ref(&rows_of_code), "the table of modules in docs and in src/lib.rs");
    let modules: BTreeSet<String> = read("src/lib.rs")
        .lines()
        .filter_map(|line| Some(line.strip_suffix(';')?.rsplit_once("mod ")?.1.to_owned()))
        .collect();
    assert_eq!(order(&rows_of_code).into_iter().collect::<BTreeSet<_>>(), modules);
}

#[test]
fn no_files_import_each_other_around() {
    let remains = |group: &Vec<String>| {
        REMAINING_CYCLES
            .iter()
            .any(|remaining| group.iter().all(|file| remaining.split(' ').any(|other| other == file)))
    };
    let new: Vec<_> = Sources::of_the_library().cycles().into_iter().filter(|group| !remains(group)).collect();
    assert!(new.is_empty(), "{new:?}");
}

/// Returns a crate of these files.
fn crate_of(files: &[(&str, &str)]) -> Sources {
    Sources::new(files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())))
}

#[test]
fn an_import_against_the_order_is_found() {
    let order = ["low".to_owned(), "high".to_owned()];
    let low =
        |text: &str| crate_of(&[("low/mod.rs", "mod part;"), ("low/part.rs", text), ("high.rs", "pub struct High;")]);
    for text in [
        "use crate::high::High;",
        "use crate::{\n    Error,\n    high::{self, High},\n};",
        "fn f() -> super::super::high::High { todo!() }",
        "fn f() { crate::high::run(); }",
        "pub(crate) use crate::high::High;",
    ] {
        let wrong = low(text).upward_imports(&order);
        assert_eq!(wrong, ["low::part imports high, which stands behind it in the order of src/lib.rs"], "{text}");
    }
    for text in [
        "// use crate::high::High;",
        "use other::high::High;",
        "use crate::low::Part;",
        "#[cfg(test)]\nmod tests {\n    use crate::high::High;\n}",
    ] {
        assert!(low(text).upward_imports(&order).is_empty(), "{text}");
    }
    let unknown = crate_of(&[("other.rs", "")]).upward_imports(&order);
    assert_eq!(unknown, ["other has no place in the order of src/lib.rs"]);
}

#[test]
fn an_import_cycle_between_files_is_found_and_a_re_export_is_none() {
    let parent = "mod one;\nmod two;\npub use one::One;\npub use two::Two;";
    let around = [("a/mod.rs", parent), ("a/one.rs", "use super::Two;"), ("a/two.rs", "use crate::a::One;")];
    assert_eq!(crate_of(&around).cycles(), BTreeSet::from([vec!["a::one".to_owned(), "a::two".to_owned()]]));
    let ahead = [("a/mod.rs", parent), ("a/one.rs", "use super::Two;"), ("a/two.rs", "pub struct Two;")];
    assert_eq!(crate_of(&ahead).cycles(), BTreeSet::new());
    let parent = "mod one;\npub(crate) const LIMIT: u8 = 1;\nfn f() { one::run() }";
    let with_parent = [("a/mod.rs", parent), ("a/one.rs", "use super::LIMIT;")];
    assert_eq!(crate_of(&with_parent).cycles(), BTreeSet::from([vec!["a".to_owned(), "a::one".to_owned()]]));
}
