//! Those who look after a store: `doctor`, `scrub` and `convert --heal`, against a directory and against moto.

use std::path::{Path, PathBuf};
use std::process::Output;

use coldpress::digest::Sha256;
use serde_json::Value;

use crate::support::common::{Bench, Image, Layer, Packing, noise, stdout};
use crate::support::servers::{Fault, Moto, Proxy};

fn json(output: &Output) -> Value {
    serde_json::from_slice(&stdout(output)).unwrap()
}

/// What a command printed as JSON before it ended with `code`.
fn ended(output: &Output, code: i32) -> Value {
    assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn image() -> Image {
    Image::new([(0..12).fold(Layer::new(), |layer, n| layer.file(&format!("f{n:02}"), &noise(600_000, n)))])
}

fn chunks(store: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = std::fs::read_dir(store.join("main")).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[test]
fn doctor_finds_what_each_role_can_do() {
    let moto = Moto::start();
    image().oci_layout(&moto.bench.path("app"), Packing::Gzip);
    let key = moto.key(0);
    let doctor = |user: &str, role: &str| {
        moto.coldpress(
            user,
            &["doctor", "--store", "s3://chunks/p", "--key", &key, "--as", role, "--application", "shop", "--json"],
        )
    };
    let found = |report: &Value, of: &str, operation: &str| {
        let all = report["findings"].as_array().unwrap();
        let one = all.iter().find(|one| one["of"] == of && one["operation"] == operation).unwrap();
        one["found"].as_str().unwrap().to_owned()
    };
    // No server here can refuse to overwrite: doctor finds that the converter can, and only that.
    let output = doctor("converter", "converter");
    let report = ended(&output, 3);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("allow more than a converter needs: store overwrite\n"), "{message}");
    assert_eq!(found(&report, "store", "put"), "allowed");
    for operation in ["get", "head", "list", "delete"] {
        assert_eq!(found(&report, "store", operation), "refused", "{operation}");
    }
    assert_eq!(
        (found(&report, "key", "GenerateDataKey"), found(&report, "key", "Decrypt")),
        ("allowed".into(), "refused".into())
    );
    // Where a service refuses it, nothing is left to say: a proxy that knows the condition stands in for one.
    let strict = Proxy::before(&moto.url, |n, method, _| {
        // put, get, head, list, overwrite, delete
        if method == "PUT" && n == 4 { Fault::Status(403) } else { Fault::None }
    });
    let args = ["doctor", "--store", "s3://chunks/p", "--key", &key, "--as", "converter", "--json"];
    let report = json(&moto.coldpress_via(&strict.url, "converter", &args));
    assert_eq!(report["fits"], true);

    assert_eq!(json(&doctor("worker", "worker"))["fits"], true);
    assert_eq!(json(&doctor("nobody", "verifier"))["fits"], true);
    assert_eq!(json(&doctor("collector", "collector"))["fits"], true);
    // Too much, and too little.
    for (user, role, code) in [
        ("admin", "worker", 3),
        ("admin", "collector", 3),
        ("reader", "worker", 1),
        ("worker", "collector", 3),
        ("nobody", "converter", 1),
    ] {
        assert_eq!(ended(&doctor(user, role), code)["fits"], false, "{user} as {role}");
    }
    // The policies are the smallest: what they name is what the role needs.
    let policies = |role: &str| {
        let args = [
            "doctor",
            "--store",
            "s3://chunks/p",
            "--key",
            &key,
            "--as",
            role,
            "--application",
            "shop",
            "--print",
            "--json",
        ];
        json(&moto.coldpress("nobody", &args))["policies"].clone()
    };
    let converter = policies("converter");
    assert_eq!(converter[0]["policy"]["Statement"][0]["Action"], serde_json::json!(["s3:PutObject"]));
    assert_eq!(converter[1]["policy"]["Statement"][0]["Condition"]["Null"]["s3:if-none-match"], "true");
    assert_eq!(converter[2]["policy"]["Statement"][0]["Action"], serde_json::json!(["kms:GenerateDataKey"]));
    insta::assert_snapshot!(
        "doctor_policies",
        ["converter", "worker", "verifier", "collector"]
            .map(|role| format!("{:#}", policies(role)))
            .join("\n")
            .replace(&key["aws-kms://".len()..], "KEY")
    );
}

#[test]
fn scrub_finds_and_heal_puts_again_what_a_directory_lost() {
    let bench = Bench::new();
    let report = bench.convert(&image(), "app", &[]);
    let scrub = |more: &[&str]| bench.coldpress(&[&["scrub", "app.cpm", "--store", "store", "--json"], more].concat());
    let clean = json(&scrub(&[]));
    assert_eq!((&clean["chunks"], &clean["scrubbed"]), (&report["unique_chunks"], &true.into()));
    assert_eq!(clean["bytes"], report["stored_bytes"]);
    // No key is needed.
    std::fs::rename(bench.path("coldpress.key"), bench.path("hidden")).unwrap();
    let paths = chunks(&bench.path("store"));
    std::fs::remove_file(&paths[3]).unwrap();
    let mut bytes = std::fs::read(&paths[7]).unwrap();
    bytes[1000] ^= 4;
    std::fs::write(&paths[7], &bytes).unwrap();
    std::fs::write(&paths[9], b"").unwrap();
    let object = |path: &Path| format!("main/{}", path.file_name().unwrap().to_str().unwrap());
    let found = ended(&scrub(&[]), 3);
    assert_eq!(found["missing"], serde_json::json!([object(&paths[3])]));
    assert_eq!(found["damaged"], serde_json::json!([object(&paths[7]), object(&paths[9])]));
    // By the manifests that the store has itself.
    let all = bench.coldpress(&["scrub", "--all", "--store", "store", "--json", "--delete-damaged"]);
    assert_eq!(ended(&all, 3)["deleted"], 2);
    assert!(!paths[7].exists() && !paths[9].exists());
    // The image puts them again, and nothing else.
    std::fs::rename(bench.path("hidden"), bench.path("coldpress.key")).unwrap();
    let heal = |image: &str| bench.coldpress(&["convert", image, "--store", "store", "--heal", "app.cpm", "--json"]);
    let healed = json(&heal("oci:app"));
    assert_eq!((&healed["put_chunks"], &healed["root_digest"]), (&3.into(), &report["root_digest"]));
    json(&scrub(&[]));
    Image::new([Layer::new().file("f", b"another")]).oci_layout(&bench.path("other"), Packing::Gzip);
    assert_eq!(heal("oci:other").status.code(), Some(3));
}

/// What a power failure leaves: names without bytes, and blocks that were never written.
#[test]
fn a_directory_is_repaired_by_what_it_holds_not_by_its_names() {
    let bench = Bench::new();
    let report = bench.convert(&image(), "app", &[]);
    let verified = || bench.coldpress(&["verify", "app.cpm", "--store", "store"]).status.success();
    let spoil = |bytes: &dyn Fn(&Path) -> Vec<u8>| {
        for directory in ["store/main", "store/manifests/main"] {
            for entry in std::fs::read_dir(bench.path(directory)).unwrap() {
                let path = entry.unwrap().path();
                std::fs::write(&path, bytes(&path)).unwrap();
            }
        }
        assert!(!verified());
    };
    let chunks = &report["unique_chunks"];
    // Of length 0: every conversion notices.
    spoil(&|_| Vec::new());
    let plan = json(&bench.coldpress(&["convert", "oci:app", "--store", "store", "--dry-run", "--json"]));
    assert_eq!(&plan["new_chunks"], chunks, "a plan counts them as missing");
    let again = bench.convert_from("oci:app", "again", &[]);
    assert_eq!((&again["put_chunks"], &again["claimed_chunks"]), (chunks, &0.into()));
    assert!(verified());
    // Of the right length: a repair reads them, and the manifest's own object.
    let zeros = |path: &Path| vec![0; usize::try_from(path.metadata().unwrap().len()).unwrap()];
    spoil(&zeros);
    let again = bench.convert_from("oci:app", "again", &[]);
    assert_eq!(&again["claimed_chunks"], chunks, "their content is not read");
    let heal = || json(&bench.coldpress(&["convert", "oci:app", "--store", "store", "--heal", "app.cpm", "--json"]));
    let healed = heal();
    assert_eq!((&healed["put_chunks"], &healed["put_manifest"]), (chunks, &true.into()));
    assert!(verified());
    let scrub = bench.coldpress(&["scrub", "app.cpm", "--store", "store", "--json"]);
    assert_eq!(json(&scrub)["scrubbed"], true);
    let healed = heal();
    assert_eq!((&healed["put_chunks"], &healed["claimed_chunks"]), (&0.into(), chunks));
    assert_eq!(healed["put_manifest"], false);
}

#[test]
fn scrub_goes_on_where_it_was_and_takes_samples() {
    let bench = Bench::new();
    let layer = (0..700).fold(Layer::new(), |layer, n| layer.file(&format!("f{n:03}"), &noise(524_288, n)));
    let report = bench.convert(&Image::new([layer]), "app", &["--compression", "none"]);
    let all = report["unique_chunks"].as_u64().unwrap();
    let sampled =
        json(&bench.coldpress(&["scrub", "app.cpm", "--store", "store", "--json", "--sample", "10%", "--seed", "5"]));
    let chunks = sampled["chunks"].as_u64().unwrap();
    assert!((all / 20..all / 5).contains(&chunks), "{chunks} of {all}");
    // One is damaged; healed while the scrub was dead, it is not deleted.
    let damaged = super::scrub_doctor::chunks(&bench.path("store"))[1].clone();
    let good = std::fs::read(&damaged).unwrap();
    std::fs::write(&damaged, b"damaged").unwrap();
    // Killed on its way, at 100 MiB a second; it goes on from its note, which is gone at the end.
    let args = ["scrub", "app.cpm", "--store", "store", "--json", "--rate", "100MiB", "--resume", "note.json"];
    let mut first = std::process::Command::new(env!("CARGO_BIN_EXE_coldpress"))
        .args(args)
        .current_dir(bench.dir.path())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let started = std::time::Instant::now();
    while !bench.path("note.json").exists() {
        assert!(started.elapsed().as_secs() < 60);
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    first.kill().unwrap();
    first.wait().unwrap();
    let note: Value = serde_json::from_slice(&std::fs::read(bench.path("note.json")).unwrap()).unwrap();
    let checked = note["scrubbed"]["checked"].as_u64().unwrap();
    assert!(checked > 0 && checked < all);
    // What was looked at before is not looked at again: it may even be gone.
    let first = super::scrub_doctor::chunks(&bench.path("store"))[0].clone();
    std::fs::remove_file(first).unwrap();
    std::fs::write(&damaged, &good).unwrap();
    let text = String::from_utf8(std::fs::read(bench.path("note.json")).unwrap()).unwrap();
    // A note that cannot be is refused, not believed.
    std::fs::write(bench.path("note.json"), text.replace("\"checked\":", "\"checked\":9")).unwrap();
    let rest = [&args[..5], &args[7..], &["--delete-damaged"]].concat();
    assert_eq!(bench.coldpress(&rest).status.code(), Some(2));
    std::fs::write(bench.path("note.json"), text).unwrap();
    let rest = ended(&bench.coldpress(&rest), 3);
    let bytes = report["stored_bytes"].as_u64().unwrap() - good.len() as u64;
    assert_eq!(
        (rest["chunks"].as_u64(), rest["bytes"].as_u64(), &rest["deleted"]),
        (Some(all), Some(bytes), &0.into())
    );
    assert_eq!(std::fs::read(&damaged).unwrap(), good);
    assert!(!bench.path("note.json").exists());
}

#[test]
fn scrub_and_heal_by_roles_of_a_service() {
    let moto = Moto::start();
    image().oci_layout(&moto.bench.path("app"), Packing::Gzip);
    let store = ["--store", "s3://chunks/p", "--json"];
    let run = |user: &str, args: &[&str]| moto.coldpress(user, &[args, &store].concat());
    let report = json(&run("converter", &["convert", "oci:app", "-o", "app.cpm"]));
    assert_eq!(json(&run("collector", &["scrub", "--all"]))["chunks"], report["unique_chunks"]);
    // Damage, by who may.
    let lost = moto.boto(
        "admin",
        "keys = [o['Key'] for o in s3.list_objects_v2(Bucket='chunks', Prefix='p/main/')['Contents'] if o['Size'] > 100]\n\
         s3.delete_object(Bucket='chunks', Key=keys[2])\ns3.put_object(Bucket='chunks', Key=keys[5], Body=b'x' * 4112)\nprint(keys[2], keys[5])\n",
    );
    let lost: Vec<&str> = lost.split_whitespace().map(|key| key.strip_prefix("p/").unwrap()).collect();
    let found = ended(&run("reader", &["scrub", "app.cpm"]), 3);
    assert_eq!((&found["missing"][0], &found["damaged"][0]), (&lost[0].into(), &lost[1].into()));
    // Who may not list cannot look at all; who may not delete deletes nothing.
    assert_eq!(run("reader", &["scrub", "--all"]).status.code(), Some(1));
    assert_eq!(run("reader", &["scrub", "app.cpm", "--delete-damaged"]).status.code(), Some(1));
    assert_eq!(ended(&run("collector", &["scrub", "--all", "--delete-damaged"]), 3)["deleted"], 1);
    // What the converter noted of that store is not believed.
    assert_eq!(json(&run("converter", &["convert", "oci:app", "--heal", "app.cpm"]))["put_chunks"], 2);
    assert_eq!(json(&run("reader", &["scrub", "app.cpm"]))["scrubbed"], true);
    // A byte that changed on its way is no damage.
    let once = Proxy::before(&moto.url, |n, _, _| if n == 4 { Fault::WrongByte } else { Fault::None });
    let output = moto.coldpress_via(&once.url, "reader", &[&["scrub", "app.cpm"], &store[..]].concat());
    assert_eq!(json(&output)["scrubbed"], true);
}

/// The printed policies are given to users of their own: each is enough for its role, and with any of its actions less it is not.
#[test]
fn printed_policies_are_enough_and_one_action_less_is_not() {
    let moto = Moto::start();
    image().oci_layout(&moto.bench.path("app"), Packing::Gzip);
    let key = moto.key(0);
    let store = ["--store", "s3://chunks/p", "--key", &key];
    stdout(&moto.coldpress(
        "admin",
        &[&["convert", "oci:app", "-o", "app.cpm", "--salt-file", "coldpress.key"], &store[..]].concat(),
    ));
    // moto's IAM is asked for users with these statements; its KMS knows no resource but `*`.
    let users = |statements: &Value| {
        std::fs::write(moto.bench.path("statements.json"), statements.to_string()).unwrap();
        let text = moto.boto(
            "admin",
            "import json\niam = boto3.client('iam', endpoint_url=s3.meta.endpoint_url, region_name='us-east-1')\nout = []\n\
             for statements in json.load(open('statements.json')):\n    name = f'u{len(iam.list_users()[\"Users\"])}'\n    iam.create_user(UserName=name)\n    \
             document = json.dumps({'Version': '2012-10-17', 'Statement': statements})\n    \
             iam.put_user_policy(UserName=name, PolicyName='printed', PolicyDocument=document)\n    \
             key = iam.create_access_key(UserName=name)['AccessKey']\n    out.append([key['AccessKeyId'], key['SecretAccessKey']])\nprint(json.dumps(out))\n",
        );
        serde_json::from_str::<Vec<[String; 2]>>(&text).unwrap()
    };
    let run = |user: &[String; 2], args: &[&str]| {
        let mut command = moto.command(env!("CARGO_BIN_EXE_coldpress"), &moto.url, "nobody");
        command.env("AWS_ACCESS_KEY_ID", &user[0]).env("AWS_SECRET_ACCESS_KEY", &user[1]);
        command.args([args, &store].concat()).output().unwrap()
    };
    for role in ["converter", "worker", "collector"] {
        let report =
            json(&moto.coldpress("nobody", &[&["doctor", "--as", role, "--print", "--json"], &store[..]].concat()));
        let policies = report["policies"].as_array().unwrap().iter();
        let is_identity = |policy: &&Value| policy["title"].as_str().unwrap().starts_with("identity policy");
        let mut printed: Vec<Value> = policies
            .filter(is_identity)
            .flat_map(|policy| policy["policy"]["Statement"].as_array().unwrap().clone())
            .collect();
        for statement in &mut printed {
            if statement["Action"][0].as_str().unwrap().starts_with("kms:") {
                statement["Resource"] = "*".into();
            }
        }
        let mut sets = vec![(String::new(), printed.clone())];
        for (number, statement) in printed.iter().enumerate() {
            for (at, action) in statement["Action"].as_array().unwrap().iter().enumerate() {
                let mut less = printed.clone();
                let actions = less[number]["Action"].as_array_mut().unwrap();
                actions.remove(at);
                if actions.is_empty() {
                    less.remove(number);
                }
                sets.push((action.as_str().unwrap().to_owned(), less));
            }
        }
        let users = users(&sets.iter().map(|(_, statements)| statements.clone()).collect());
        for ((without, _), user) in sets.iter().zip(&users) {
            let report = run(user, &["doctor", "--as", role, "--json"]);
            let report: Value = serde_json::from_slice(&report.stdout)
                .unwrap_or_else(|_| panic!("{role} without {without}: {}", String::from_utf8_lossy(&report.stderr)));
            let missing = |finding: &&Value| finding["needed"] == true && finding["found"] != "allowed";
            let missing: Vec<&str> = report["findings"]
                .as_array()
                .unwrap()
                .iter()
                .filter(missing)
                .map(|finding| finding["operation"].as_str().unwrap())
                .collect();
            let wanted: &[&str] = match without.as_str() {
                "" => &[],
                "s3:PutObject" => &["put"],
                "s3:GetObject" => &["get", "head"],
                "s3:ListBucket" => &["list"],
                "s3:DeleteObject" => &["delete"],
                "kms:GenerateDataKey" => &["GenerateDataKey"],
                "kms:Decrypt" => &["Decrypt"],
                other => panic!("{other} is no action of a role"),
            };
            assert_eq!(missing, wanted, "{role} without {without}");
            // The collector deletes what it is tried on.
            stdout(&moto.coldpress("admin", &["doctor", "--as", "converter", "--store", "s3://chunks/p", "--print"]));
            let _ = moto.coldpress(
                "admin",
                &[&["convert", "oci:app", "-o", "x.cpm", "--salt-file", "coldpress.key"], &store[..]].concat(),
            );
        }
        // It does the role's work, too.
        let work: &[&str] = match role {
            "converter" => &["convert", "oci:app", "-o", "again.cpm", "--salt-file", "coldpress.key", "--no-cache"],
            "worker" => &["verify", "app.cpm"],
            _ => continue,
        };
        stdout(&run(&users[0], work));
    }
}

/// A wrong prefix or a wrong root must not look like a store that was scrubbed.
#[test]
fn a_scrub_of_nothing_is_no_success() {
    let moto = Moto::start();
    image().oci_layout(&moto.bench.path("app"), Packing::Gzip);
    for store in ["s3://chunks/p", "store"] {
        json(&moto.coldpress("admin", &["convert", "oci:app", "--store", store, "-o", "app.cpm", "--json"]));
    }
    let scrub = |args: &[&str]| moto.coldpress("collector", &[&["scrub", "--all"], args].concat());
    for args in [
        &["--store", "s3://chunks/typo"][..],
        &["--store", "s3://chunks/p", "--root", "mian"],
        &["--store", "store", "--root", "mian"],
    ] {
        let output = scrub(args);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {message}");
        let root = args.get(3).unwrap_or(&"main");
        for part in [args[1], &format!("there is no block manifest under manifests/{root}/"), "--root", "--allow-empty"]
        {
            assert!(message.contains(part), "{args:?}: no `{part}` in {message}");
        }
        assert_eq!(json(&scrub(&[args, &["--allow-empty", "--json"]].concat()))["chunks"], 0);
    }
    assert_eq!(scrub(&["--store", "s3://chunks/p"]).status.code(), Some(0));
    let one = moto.coldpress("collector", &["scrub", "app.cpm", "--store", "store", "--allow-empty"]);
    assert_eq!(one.status.code(), Some(2), "it is for --all");
}

/// Whoever may upload to a directory can put anything under a manifest's name.
#[test]
fn bad_manifests_are_findings_and_the_rest_is_scrubbed() {
    let bench = Bench::new();
    let report = bench.convert(&image(), "app", &[]);
    let manifests = bench.path("store/manifests/main");
    let good = std::fs::read(bench.path("app.cpm")).unwrap();
    let named = |number: u8| manifests.join(format!("{number:064x}"));
    let of = |bytes: &[u8]| manifests.join(Sha256::of(bytes).to_hex());
    std::fs::write(named(1), b"garbage, and no manifest").unwrap();
    std::fs::write(of(b"garbage, and no manifest"), b"garbage, and no manifest").unwrap();
    std::fs::write(of(&good[..good.len() - 1]), &good[..good.len() - 1]).unwrap();
    std::fs::write(named(2), &good).unwrap();
    std::fs::write(named(3), b"").unwrap();
    // By its head, all of 3 GiB of zeros are names.
    let head = [&good[..16], &(3_u32 << 30).to_le_bytes(), &0_u32.to_le_bytes()].concat();
    std::fs::write(named(4), &head).unwrap();
    std::fs::OpenOptions::new().write(true).open(named(4)).unwrap().set_len(24 + (3 << 30) + 16).unwrap();
    std::fs::File::create(named(5)).unwrap().set_len(5 << 30).unwrap();
    std::fs::create_dir(named(6)).unwrap();
    let made = std::process::Command::new("mkfifo").arg(named(7)).status().unwrap();
    assert!(made.success());
    std::os::unix::fs::symlink("nowhere", named(8)).unwrap();
    std::os::unix::fs::symlink(named(9), named(9)).unwrap();
    std::os::unix::fs::symlink("/dev/zero", named(10)).unwrap();
    // Another root's, and links to what is right.
    let other = bench.convert(&image(), "other", &["--root", "other"]);
    assert_eq!(other["root_digest"], report["root_digest"]);
    let other = std::fs::read(bench.path("other.cpm")).unwrap();
    std::fs::write(of(&other), &other).unwrap();
    std::fs::rename(of(&good), bench.path("aside.cpm")).unwrap();
    std::os::unix::fs::symlink(bench.path("aside.cpm"), of(&good)).unwrap();

    let scrub = |more: &[&str]| {
        let args = [&["scrub", "--all", "--store", "store", "--json"], more].concat();
        crate::support::scripted_servers::run(&bench, env!("CARGO_BIN_EXE_coldpress"), &args)
    };
    let end = scrub(&[]);
    let found = ended(&end.output, 3);
    assert_eq!((&found["chunks"], &found["scrubbed"]), (&report["unique_chunks"], &false.into()));
    let bad = found["bad_manifests"].as_array().unwrap();
    assert_eq!(bad.len(), 13, "{bad:#?}");
    let reason = |path: &Path| {
        let object = format!("manifests/main/{}", path.file_name().unwrap().to_str().unwrap());
        bad.iter().find(|one| one["object"] == object.as_str()).unwrap()["reason"].as_str().unwrap().to_owned()
    };
    for (path, word) in [
        (of(b"garbage, and no manifest"), "does not begin with the magic bytes of one"),
        (named(2), "which is not its name"),
        (named(6), "a directory, not a regular file"),
        (named(7), "a FIFO, not a regular file"),
        (named(8), "No such file"),
        (named(9), "loop of symlinks"),
        (named(10), "a device, not a regular file"),
        (of(&other), "a manifest of the root other"),
    ] {
        assert!(reason(&path).contains(word), "{}", reason(&path));
    }
    assert!(
        end.took.as_secs() < 20 && end.peak_kib < crate::support::scripted_servers::MEMORY,
        "{:?}, {} KiB",
        end.took,
        end.peak_kib
    );
    assert!(end.message.contains("manifests that cannot be read: 13"), "{}", end.message);
    let deleted = ended(&scrub(&["--delete-damaged"]).output, 3);
    assert_eq!((&deleted["deleted_manifests"], &deleted["deleted"]), (&12.into(), &0.into()));
    assert!(deleted["not_deleted"][0].as_str().unwrap().contains("Is a directory"), "{deleted:#}");
    std::fs::remove_dir(named(6)).unwrap();
    assert_eq!(json(&scrub(&[]).output)["scrubbed"], true);
}

#[test]
fn what_is_no_file_under_a_chunks_name_is_damage_and_is_not_waited_for() {
    type Make = fn(&Path);
    let kinds: [(&str, Make, &str); 5] = [
        ("a directory", |path| std::fs::create_dir(path).unwrap(), "damaged"),
        (
            "a FIFO",
            |path| assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success()),
            "damaged",
        ),
        ("a socket", |path| drop(std::os::unix::net::UnixListener::bind(path).unwrap()), "damaged"),
        ("a loop of symlinks", |path| std::os::unix::fs::symlink(path, path).unwrap(), "damaged"),
        ("No such file", |path| std::os::unix::fs::symlink("nowhere", path).unwrap(), "missing"),
    ];
    for (what, make, list) in kinds {
        let bench = Bench::new();
        bench.convert(&image(), "app", &[]);
        let path = std::fs::canonicalize(&chunks(&bench.path("store"))[3]).unwrap();
        std::fs::remove_file(&path).unwrap();
        make(&path);
        let object = format!("main/{}", path.file_name().unwrap().to_str().unwrap());
        let (coldpress, coldread) = (env!("CARGO_BIN_EXE_coldpress"), env!("CARGO_BIN_EXE_coldread"));
        let run = |program: &str, args: &[&str]| {
            let end = crate::support::scripted_servers::run(&bench, program, &[args, &["--store", "store"]].concat());
            assert!(end.took.as_secs() < 20, "{what}: {args:?} took {:?}", end.took);
            end
        };
        let found = ended(&run(coldpress, &["scrub", "app.cpm", "--json"]).output, 3);
        assert_eq!(found[list], serde_json::json!([object]), "{what}");
        let verified = ended(&run(coldpress, &["verify", "app.cpm", "--json"]).output, 3);
        let bad = verified["store"]["bad_chunks"][0].as_str().unwrap();
        assert!(bad.contains(what) && bad.contains(&object), "{bad}");
        let export = run(coldpress, &["export", "app.cpm", "-o", "app.img"]);
        assert!(export.output.status.code() == Some(1) && export.message.contains(what), "{}", export.message);
        let failed = (0..12)
            .filter(|n| run(coldread, &["cat", "app.cpm", &format!("/f{n:02}")]).output.status.code() == Some(1));
        assert!((1..=2).contains(&failed.count()), "{what}: the files of one chunk");
        let deleted = ended(&run(coldpress, &["scrub", "app.cpm", "--json", "--delete-damaged"]).output, 3);
        let gone = u32::from(list == "damaged" && what != "a directory");
        assert_eq!(deleted["deleted"], gone, "{what}: {deleted:#}");
    }
}
