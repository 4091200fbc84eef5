//! Pictures and pages that the programs draw: parsed by expat and rendered by librsvg (tools/check_pictures.py), with names from outside
//! that try to leave their text.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use coldpress::keys::KeyFile;
use coldpress::manifest::{BlockManifest, OpenManifest};
use coldpress::read::profile::{Profile, Use};
use coldpress::read::tier::Place;
use serde_json::Value;

use crate::support::common::{Bench, Image, Layer, noise, stdout};

/// A name that ends an element, opens another one, and has control characters.
const HOSTILE: &str = "<b>&\"'";
const HOSTILE_FILE: &str = "app/<img onerror=alert(1)>]]>&amp;\u{202e}\u{7}\u{1b}[31m";

/// Runs the checks of tools/check_pictures.py on files of `directory`.
fn check(directory: &Path, files: &[&str]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/check_pictures.py");
    Command::new("python3").arg(script).args(files).current_dir(directory).output().unwrap()
}

fn assert_sound(directory: &Path, files: &[&str]) {
    let checked = check(directory, files);
    let text = [checked.stdout, checked.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(checked.status.success(), "{text}(rsvg-convert is of librsvg2-bin; `make test-tools` installs it)");
}

fn opened(bench: &Bench, name: &str) -> OpenManifest {
    let key = KeyFile::read(&bench.path("coldpress.key")).unwrap();
    BlockManifest::decode(&fs::read(bench.path(name)).unwrap()).unwrap().open(&key).unwrap()
}

/// Every chunk of `manifest`, one after another, and the last one a minute late.
fn startup(manifest: &OpenManifest) -> Profile {
    let chunks = &manifest.sealed.chunks;
    let places = [Place::Origin, Place::Disk, Place::Memory, Place::Zone];
    let used = |(n, chunk): (usize, &coldpress::manifest::ChunkRef)| Use {
        at: n as u64 * 7_000,
        took: if n + 1 == chunks.len() { 60_000_000 } else { 20_000 + n as u64 * 37 % 11 * 3_000 },
        place: places[n % 4],
        index: chunk.index,
        name: chunk.name,
    };
    Profile {
        root_digest: manifest.clear.root_digest,
        device_chunks: manifest.sealed.device_chunks,
        uses: chunks.iter().enumerate().map(used).collect(),
    }
}

/// An image of two layers whose manifest and file have hostile names, and the profile of its startup.
fn hostile_image() -> Bench {
    let bench = Bench::new();
    let layer = |seed| Layer::new().dir("app").file(&format!("app/data{seed}"), &noise(2_000_000, seed));
    let evil = Layer::new().dir("app").file(HOSTILE_FILE, &noise(8_000_000, 9));
    bench.convert(&Image::new([layer(1), evil]), "app", &[]);
    fs::rename(bench.path("app.cpm"), bench.path(&format!("{HOSTILE}.cpm"))).unwrap();
    let profile = startup(&opened(&bench, &format!("{HOSTILE}.cpm")));
    fs::write(bench.path("app.profile"), profile.encode()).unwrap();
    bench
}

#[test]
fn a_startup_is_drawn_with_layers_and_files_and_nothing_hostile() {
    let bench = hostile_image();
    let manifest = format!("{HOSTILE}.cpm");
    let args = ["report", "app.profile", &manifest, "-o", "app.svg", "--html", "app.html", "--json"];
    let numbers: Value = serde_json::from_slice(&stdout(&bench.coldread(&args))).unwrap();
    assert_sound(bench.dir.path(), &["app.svg", "app.html"]);
    // The last chunk of the device is the hostile file's, and the slowest.
    let slowest = &numbers["slowest"][0];
    assert_eq!((&numbers["image"], &slowest["part"]), (&HOSTILE.into(), &"layer 2".into()), "{numbers:#}");
    let name = slowest["files"][0].as_str().unwrap();
    assert!(name.starts_with("/app/<img") && name.ends_with("\\u{202e}\\u{7}\\u{1b}[31m"), "{name}");
    for file in ["app.svg", "app.html"] {
        let text = fs::read_to_string(bench.path(file)).unwrap();
        for wanted in
            ["Startup of &lt;b&gt;&amp;&quot;&#39;", ">metadata<", ">layer 1<", ">layer 2<", ": 60.1", ">later<"]
        {
            assert!(text.contains(wanted), "{file} has no {wanted}");
        }
    }
    let page = fs::read_to_string(bench.path("app.html")).unwrap();
    assert!(page.contains(">/app/data1<") && page.contains(">layer 1<"), "{page}");
    let reads = opened(&bench, &manifest).sealed.chunks.len();
    assert_eq!(page.matches("class=\"read\"").count(), reads);
    assert!(page.contains(">chunk 0: waited 20.0 ms for origin, requested at 0.0 ms, metadata: superblock"), "{page}");
}

#[test]
fn a_profile_of_another_image_is_refused() {
    let bench = hostile_image();
    bench.convert(&Image::new([Layer::new().file("f", b"1")]), "other", &[]);
    let refused = bench.coldread(&["report", "app.profile", "other.cpm"]);
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    let digest = |manifest: &OpenManifest| manifest.clear.root_digest.to_string();
    let digests = [digest(&opened(&bench, "other.cpm")), digest(&opened(&bench, &format!("{HOSTILE}.cpm")))];
    assert_eq!(refused.status.code(), Some(1));
    assert!(digests.iter().all(|digest| message.contains(digest)) && message.contains("hint: "), "{message}");
    // Without the manifest it is drawn, and has no names.
    stdout(&bench.coldread(&["report", "app.profile", "-o", "plain.svg", "--html", "plain.html"]));
    assert_sound(bench.dir.path(), &["plain.svg", "plain.html"]);
    let text = fs::read_to_string(bench.path("plain.svg")).unwrap();
    assert!(text.contains("Startup of sha256:") && !text.contains("layer 1"));
}

#[test]
fn a_plan_is_drawn_with_a_unit_on_each_axis() {
    let bench = Bench::new();
    for (number, made) in ["zipf:2000,0.9,40000", "cron:400,3600,24", "zipf:1,1,1"].into_iter().enumerate() {
        let file = format!("plan{number}.svg");
        let plan = ["zone", "plan", "--make", made, "--currency", "<€>", "-o", &file];
        let text = String::from_utf8(stdout(&bench.coldread(&plan))).unwrap();
        assert!(text.contains("<€> a month"), "{text}");
        assert_sound(bench.dir.path(), &[&file]);
    }
    let refused = bench.coldread(&["zone", "plan", "--make", "zipf:1,1,1", "--currency", "a b"]);
    assert_eq!(refused.status.code(), Some(2));
}

#[test]
fn the_pictures_of_the_documents_are_sound() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let mut pictures = Vec::new();
    let mut directories = vec![docs.clone()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            match path.extension() {
                _ if path.is_dir() => directories.push(path),
                Some(extension) if extension == "svg" => pictures.push(path.to_str().unwrap().to_owned()),
                _ => {}
            }
        }
    }
    assert!(pictures.len() >= 3, "{pictures:?}");
    assert_sound(&docs, &pictures.iter().map(String::as_str).collect::<Vec<_>>());
}

/// Each check finds what it is for.
#[test]
fn faults_of_pictures_are_found() {
    let directory = tempfile::tempdir().unwrap();
    let paper = "<rect width='100' height='50' fill='#ffffff'/>";
    let text = |attributes: &str, content: &str| format!("<text font-size='12' {attributes}>{content}</text>");
    let drawn = |inside: &str| {
        format!("<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 100 50' width='100' height='50'>{inside}</svg>")
    };
    for (svg, fault) in [
        (drawn(&(paper.to_owned() + &text("x='70' y='20'", "far too long"))), "past the right edge"),
        (drawn(&(paper.to_owned() + &text("x='4' y='4'", "high"))), "past the top edge"),
        (drawn(&(paper.to_owned() + "<script>1</script>")), "element <script>"),
        (drawn(&(paper.to_owned() + "<g onclick='x()'/>")), "attribute onclick"),
        (drawn(&(paper.to_owned() + &text("x='4' y='20' fill='#cccccc'", "pale"))), "contrast"),
        (drawn(&text("x='4' y='20'", "bare")), "no background"),
        (drawn(&(paper.to_owned() + &text("x='4' y='20'", "one") + &text("x='6' y='22'", "two"))), "overlap"),
        (drawn("<g>"), "mismatched tag"),
    ] {
        fs::write(directory.path().join("p.svg"), &svg).unwrap();
        let found = check(directory.path(), &["p.svg"]);
        let text = [found.stdout, found.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        assert!(!found.status.success() && text.contains(fault), "{fault}: {text}");
    }
}

/// Two versions of an image whose second layer has a file of a hostile name that grew.
fn two_versions() -> Bench {
    let bench = Bench::new();
    let version = |bytes: usize| {
        let base = Layer::new().dir("app").file("app/base", &noise(2_000_000, 1));
        Image::new([base, Layer::new().dir("app").file(HOSTILE_FILE, &noise(bytes, 9))])
    };
    bench.convert(&version(100_000), "old", &[]);
    bench.convert(&version(3_000_000), "new", &[]);
    for name in ["old", "new"] {
        fs::rename(bench.path(&format!("{name}.cpm")), bench.path(&format!("{name}-`|{HOSTILE}.cpm"))).unwrap();
    }
    bench
}

#[test]
fn a_comparison_for_reviewers_has_causes_files_and_nothing_hostile() {
    let bench = two_versions();
    let [old, new] = ["old", "new"].map(|name| format!("{name}-`|{HOSTILE}.cpm"));
    let args = ["diff", &old, &new, "--json", "--html", "diff.html", "--summary", "diff.md"];
    let output = bench.coldpress(&args);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_sound(bench.dir.path(), &["diff.html"]);
    let (page, text) = ["diff.html", "diff.md"].map(|file| fs::read_to_string(bench.path(file)).unwrap()).into();
    // One layer is shared, one is new; its file is the biggest.
    for (text, cell) in [(&page, "</td><td class=\"number\">"), (&text, " | ")] {
        let chunks = format!("to upload, if the store has the older image{cell}{}{cell}", json["new_chunks"]);
        assert!(text.contains(&chunks), "{chunks}: {text}");
        for wanted in ["Why chunks are new", "data: content changed", "Layers", "same", "Files with the most new bytes"]
        {
            assert!(text.contains(wanted), "{wanted}: {text}");
        }
    }
    assert!(
        page.contains("app/&lt;img onerror=alert(1)&gt;]]&gt;&amp;amp;\\u{202e}") && !page.contains("<img"),
        "{page}"
    );
    assert!(text.starts_with("### coldpress diff: `old-'¦<b>&\"'.cpm` → `new-'¦<b>&\"'.cpm`\n"), "{text}");
    let row = text.lines().find(|line| line.contains("onerror")).unwrap();
    assert!(
        row.starts_with(
            "| `app/<img onerror=alert(1)>]]>&amp;\\u{202e}\\u{7}\\u{1b}[31m` | content | 97.7 KiB | 2.9 MiB |"
        ),
        "{row}"
    );
    // A second summary follows the first one, as in a job of several steps.
    bench.coldpress(&["diff", &old, &old, "--no-files", "--summary", "diff.md"]);
    let more = fs::read_to_string(bench.path("diff.md")).unwrap();
    assert!(more.starts_with(&text) && more.ends_with("Nothing differs.\n\n"), "{more}");
}
