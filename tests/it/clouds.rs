//! Azure and Google, by servers that imitate how they answer: rights by the letters of a shared access signature, refusals to overwrite,
//! token services. What azurite itself says is in `make test-long`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use coldpress::store::{Service, variables};
use serde_json::Value;

use crate::support::common::{Bench, Image, Layer, Packing, noise, stdout};
use crate::support::servers::Answering;

type Answer = (u16, String, Vec<u8>);
type Objects = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

/// The method, the path and the query of a request's head.
fn line(head: &str) -> (&str, &str, &str) {
    let mut words = head.split(' ');
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    (method, path, query)
}

pub fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = head.lines().filter_map(|line| line.split_once(": "));
    fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

fn refused(status: u16, code: &str) -> Answer {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>m</Message></Error>");
    (status, format!("x-ms-error-code: {code}\r\n"), body.into_bytes())
}

/// A container whose rights are the letters `sp` of the signature, as Azure checks them.
struct Azure {
    server: Answering,
}

impl Azure {
    fn start() -> Self {
        let objects = Objects::default();
        Self { server: Answering::with_bodies("127.0.0.1", move |head, body| Self::answer(&objects, head, body)) }
    }

    fn answer(objects: &Objects, head: &str, body: &[u8]) -> Answer {
        let (method, path, query) = line(head);
        let mut objects = objects.lock().unwrap();
        let rights = |query: &str| {
            let letters = query.split('&').find_map(|pair| pair.strip_prefix("sp="));
            letters.unwrap_or_default().to_owned()
        };
        let may = |letter| rights(query).contains(letter);
        let mismatch = || refused(403, "AuthorizationPermissionMismatch");
        let is_there = |bytes: &Vec<u8>| {
            let headers =
                "etag: \"1\"\r\nlast-modified: Mon, 30 Nov 2026 00:00:00 GMT\r\nx-ms-blob-type: BlockBlob\r\n";
            (200, headers.to_owned(), bytes.clone())
        };
        match method {
            "PUT" => match (objects.contains_key(path), may('w'), may('c')) {
                (true, false, true) => refused(403, "UnauthorizedBlobOverwrite"),
                (true, true, _) if header(head, "if-none-match").is_some() => refused(409, "BlobAlreadyExists"),
                (_, true, _) | (false, _, true) => {
                    objects.insert(path.to_owned(), body.to_vec());
                    (201, "etag: \"1\"\r\n".to_owned(), Vec::new())
                }
                _ => mismatch(),
            },
            "POST" => {
                // Each part of a batch has a request of its own.
                let text = String::from_utf8_lossy(body);
                let part = text.split("DELETE ").nth(1).unwrap();
                let (path, query) = part.split(' ').next().unwrap().split_once('?').unwrap();
                let done = match rights(query).contains('d') {
                    true if objects.remove(path).is_some() || objects.remove(&format!("/acct{path}")).is_some() => {
                        "HTTP/1.1 202 Accepted\r\n".to_owned()
                    }
                    true => "HTTP/1.1 404 Not found\r\nx-ms-error-code: BlobNotFound\r\n".to_owned(),
                    false => "HTTP/1.1 403 No\r\nx-ms-error-code: AuthorizationPermissionMismatch\r\n".to_owned(),
                };
                let body = format!(
                    "--b\r\nContent-Type: application/http\r\nContent-ID: 0\r\n\r\n{done}x-ms-version: 2023-11-03\r\n\r\n--b--\r\n"
                );
                (202, "content-type: multipart/mixed; boundary=b\r\n".to_owned(), body.into_bytes())
            }
            "GET" if query.contains("comp=list") => match may('l') {
                false => mismatch(),
                true => {
                    let prefix = query.split('&').find_map(|pair| pair.strip_prefix("prefix=")).unwrap_or_default();
                    let prefix = format!("/acct/c/{}", prefix.replace("%2F", "/"));
                    let blobs: String = objects
                        .iter()
                        .filter(|(path, _)| path.starts_with(&prefix))
                        .map(|(path, bytes)| {
                            let (name, length) = (path.strip_prefix("/acct/c/").unwrap(), bytes.len());
                            format!(
                                "<Blob><Name>{name}</Name><Properties><Creation-Time>Mon, 30 Nov 2026 00:00:00 GMT</Creation-Time>\
                                 <Last-Modified>Mon, 30 Nov 2026 00:00:00 GMT</Last-Modified><Etag>1</Etag><Content-Length>{length}</Content-Length>\
                                 <Content-Type>x</Content-Type><BlobType>BlockBlob</BlobType></Properties></Blob>"
                            )
                        })
                        .collect();
                    let body = format!(
                        "<?xml version=\"1.0\"?><EnumerationResults ContainerName=\"c\"><Blobs>{blobs}</Blobs><NextMarker/></EnumerationResults>"
                    );
                    (200, "content-type: application/xml\r\n".to_owned(), body.into_bytes())
                }
            },
            "GET" | "HEAD" => match (may('r'), objects.get(path)) {
                (false, _) => mismatch(),
                (true, None) => refused(404, "BlobNotFound"),
                (true, Some(bytes)) => is_there(bytes),
            },
            _ => refused(405, "UnsupportedHttpVerb"),
        }
    }

    fn endpoint(&self) -> String {
        format!("http://{}/acct", self.server.host)
    }
}

/// A bench with an image, and programs that see nothing of this machine's environment.
pub struct Clouds {
    pub bench: Bench,
}

impl Clouds {
    pub fn new() -> Self {
        let bench = Bench::new();
        let files = (0..4).fold(Layer::new(), |layer, n| layer.file(&format!("f{n}"), &noise(600_000, n)));
        Image::new([files.file("greeting", b"hello\n")]).oci_layout(&bench.path("app"), Packing::Gzip);
        Self { bench }
    }

    pub fn command(&self, program: &str, variables: &[(&str, &str)], args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.bench.dir.path()).env_clear().env("HOME", self.bench.path("home"));
        command.env("COLDREAD_RUN_DIR", self.bench.path("run")).envs(variables.iter().copied()).args(args);
        command
    }

    pub fn coldpress(&self, variables: &[(&str, &str)], args: &[&str]) -> Output {
        self.command(env!("CARGO_BIN_EXE_coldpress"), variables, args).output().unwrap()
    }

    pub fn coldread(&self, variables: &[(&str, &str)], args: &[&str]) -> Output {
        self.command(env!("CARGO_BIN_EXE_coldread"), variables, args).output().unwrap()
    }

    /// The host that a conversion asks first, by what it says to a proxy.
    pub fn asked(&self, store: &str, variables: &[(&str, &str)]) -> String {
        let proxy = Answering::start("127.0.0.1", |_| (502, String::new(), Vec::new()));
        let url = format!("http://{}", proxy.host);
        let args = ["convert", "oci:app", "--store", store, "--no-cache", "-o", "x.cpm"];
        let mut command = self.command(env!("CARGO_BIN_EXE_coldpress"), variables, &args);
        command.env("HTTPS_PROXY", &url).env("HTTP_PROXY", &url).stderr(Stdio::piped());
        proxy.first_request(command.spawn().unwrap())
    }
}

pub fn json(output: &Output) -> Value {
    serde_json::from_slice(&stdout(output)).unwrap()
}

pub fn failed(output: &Output, code: i32, parts: &[&str]) {
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{message}");
    for part in parts {
        assert!(message.contains(part), "no `{part}` in {message}");
    }
}

const CONVERT: [&str; 5] = ["convert", "oci:app", "--no-cache", "--json", "-o"];

#[test]
fn a_signature_that_may_only_create_converts_again_and_again() {
    let (clouds, azure) = (Clouds::new(), Azure::start());
    let endpoint = azure.endpoint();
    let store = ["--store", "az://c/p", "--store-endpoint", &endpoint];
    let with = |rights: &'static str, args: &[&str]| {
        let sas = format!("?sp={rights}&sv=2023-11-03&sr=c&sig=abc%3D");
        let variables = [("AZURE_STORAGE_ACCOUNT", "acct"), ("AZURE_STORAGE_SAS_TOKEN", sas.as_str())];
        clouds.coldpress(&variables, &[args, &store].concat())
    };
    let first = json(&with("c", &[&CONVERT[..], &["app.cpm"]].concat()));
    let second = json(&with("c", &[&CONVERT[..], &["again.cpm"]].concat()));
    assert_eq!((&second["put_chunks"], &second["claimed_chunks"]), (&0.into(), &first["put_chunks"]));
    assert!(azure.server.heads().iter().all(|head| head.starts_with("PUT ")));
    assert_eq!(json(&with("r", &["verify", "app.cpm", "--json"]))["verified"], true);
    // Each role's printed letters are enough; one less is not; one more is too much.
    let started = Instant::now();
    for (role, letters) in [("converter", "c"), ("worker", "r"), ("collector", "rdl")] {
        let doctor = |rights| with(rights, &["doctor", "--as", role, "--json"]);
        let report = json(&doctor(letters));
        assert_eq!(
            (&report["fits"], &report["policies"][0]["policy"]["sp"]),
            (&true.into(), &letters.into()),
            "{role}"
        );
        failed(&doctor("w"), 3, &["allow more", "overwrite"]);
        // What it is tried on is there for all of them again.
        with("c", &[&CONVERT[..], &["x.cpm"]].concat());
    }
    for (role, letters, missing) in [
        ("converter", "r", "put"),
        ("worker", "c", "get"),
        ("collector", "rl", "delete"),
        ("collector", "dl", "get"),
        ("collector", "rd", "list"),
    ] {
        let output = with(letters, &["doctor", "--as", role]);
        let table = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = table.lines().find(|line| line.starts_with(&format!("store {missing} "))).unwrap();
        assert!(line.ends_with("MISSING") && !output.status.success(), "{role} {letters}: {table}");
    }
    assert!(started.elapsed() < Duration::from_secs(30), "nothing waits");
    // Who may do nothing hears it before any work.
    let refused = with("l", &[&CONVERT[..], &["x.cpm"]].concat());
    failed(
        &refused,
        1,
        &["403 (AuthorizationPermissionMismatch)", "hint: the credentials are valid, but lack this permission"],
    );
}

#[test]
fn azures_own_names_say_which_account_is_asked() {
    let clouds = Clouds::new();
    let connection =
        "DefaultEndpointsProtocol=https;AccountName=acct;AccountKey=c2VjcmV0;EndpointSuffix=core.windows.net";
    let signed = "BlobEndpoint=https://acct.blob.core.windows.net/;SharedAccessSignature=sp=c&sv=2023-11-03&sig=a";
    for variables in [
        &[("AZURE_STORAGE_ACCOUNT", "acct"), ("AZURE_STORAGE_KEY", "c2VjcmV0")][..],
        &[("AZURE_STORAGE_CONNECTION_STRING", connection)],
        &[("AZURE_STORAGE_CONNECTION_STRING", signed)],
    ] {
        assert_eq!(
            clouds.asked("az://c/p", variables),
            "CONNECT acct.blob.core.windows.net:443 HTTP/1.1",
            "{variables:?}"
        );
    }
    let nothing = clouds.coldpress(&[], &["convert", "oci:app", "--store", "az://c/p", "-o", "x.cpm"]);
    failed(&nothing, 1, &["no storage account is named", "hint: set AZURE_STORAGE_ACCOUNT"]);
}

/// Containers of one name are in many accounts: what the cache knows of one says nothing of another.
#[test]
fn what_is_known_of_one_account_is_not_taken_for_another() {
    let (clouds, azures) = (Clouds::new(), [Azure::start(), Azure::start()]);
    let convert = |azure: &Azure, by_string: bool| {
        let (endpoint, sas) = (azure.endpoint(), "sp=c&sv=2023-11-03&sig=a");
        let connection = format!("BlobEndpoint={endpoint};SharedAccessSignature={sas}");
        let variables = match by_string {
            true => vec![("AZURE_STORAGE_CONNECTION_STRING", connection.as_str())],
            false => vec![("AZURE_STORAGE_SERVICE_ENDPOINT", endpoint.as_str()), ("AZURE_STORAGE_SAS_TOKEN", sas)],
        };
        let args = ["convert", "oci:app", "--cache", "cache", "--json", "-o", "x.cpm", "--store", "az://c/p"];
        let report = json(&clouds.coldpress(&variables, &args));
        (report["put_chunks"].as_u64().unwrap(), report["known_chunks"].as_u64().unwrap())
    };
    let (all, known) = convert(&azures[0], false);
    assert!(all > 0 && known == 0);
    assert_eq!(convert(&azures[1], false), (all, 0));
    // The same account by another variable is the same store.
    assert_eq!(convert(&azures[0], true), (0, all));
}

/// What is meant for AWS must not send another provider's tokens anywhere.
#[test]
fn each_provider_has_its_own_endpoint_variables() {
    let clouds = Clouds::new();
    let aws = Answering::start("127.0.0.1", |_| (200, String::new(), Vec::new()));
    let aws = (format!("http://{}", aws.host), aws);
    let aws_variables = [("AWS_ENDPOINT_URL", aws.0.as_str()), ("AWS_ENDPOINT_URL_S3", aws.0.as_str())];
    let azure = [&aws_variables[..], &[("AZURE_STORAGE_ACCOUNT", "acct"), ("AZURE_STORAGE_TOKEN", "t")]].concat();
    assert!(clouds.asked("az://c/p", &azure).contains("acct.blob.core.windows.net:443"));
    let google = [&aws_variables[..], &[("GOOGLE_OAUTH_ACCESS_TOKEN", "t")]].concat();
    assert!(clouds.asked("gs://b/p", &google).contains("storage.googleapis.com:443"));
    assert!(aws.1.heads().is_empty(), "{:?}", aws.1.heads());
    // A host without a scheme is named as what is wrong.
    for store in ["az://c/p", "gs://b/p"] {
        let output = clouds.coldpress(
            &[("AZURE_STORAGE_ACCOUNT", "acct")],
            &["convert", "oci:app", "--store", store, "--store-endpoint", "storage.example", "-o", "x.cpm"],
        );
        failed(&output, 2, &["--store-endpoint: expected https://HOST[:PORT]"]);
    }
    for (store, name) in [("az://c/p", "AZURE_STORAGE_ENDPOINT"), ("gs://b/p", "STORAGE_EMULATOR_HOST")] {
        let variables = [("AZURE_STORAGE_ACCOUNT", "acct"), (name, "http://192.0.2.1")];
        let output = clouds.coldpress(&variables, &["convert", "oci:app", "--store", store, "-o", "x.cpm"]);
        failed(&output, 1, &[name, "unencrypted; use https://, or give --store-allow-http"]);
    }
}

#[test]
fn a_workload_identity_of_azure_is_exchanged_for_a_token() {
    let (clouds, forms) = (Clouds::new(), Arc::<Mutex<Vec<String>>>::default());
    let log = Arc::clone(&forms);
    let authority = Answering::with_bodies("127.0.0.1", move |head, body| {
        let form = String::from_utf8_lossy(body).into_owned();
        log.lock().unwrap().push(format!("{} {form}", line(head).1));
        match form.contains("client_assertion=FEDERATED") {
            true => (200, String::new(), br#"{"access_token": "AZURE-TOKEN", "expires_in": 3600}"#.to_vec()),
            false => {
                (401, String::new(), br#"{"error": "invalid_client", "error_description": "AADSTS700024"}"#.to_vec())
            }
        }
    });
    let objects = Objects::default();
    let store = Answering::with_bodies("127.0.0.1", move |head, body| match header(head, "authorization") {
        Some("Bearer AZURE-TOKEN") => Azure::answer(&objects, &head.replacen(" HTTP", "?sp=rc HTTP", 1), body),
        _ => refused(401, "InvalidAuthenticationInfo"),
    });
    std::fs::write(clouds.bench.path("token"), "FEDERATED").unwrap();
    let (host, endpoint) = (format!("http://{}/", authority.host), format!("http://{}/acct", store.host));
    let variables = [
        ("AZURE_STORAGE_ACCOUNT", "acct"),
        ("AZURE_CLIENT_ID", "client"),
        ("AZURE_TENANT_ID", "tenant"),
        ("AZURE_FEDERATED_TOKEN_FILE", "token"),
        ("AZURE_AUTHORITY_HOST", host.as_str()),
    ];
    let convert = || {
        let args = [&CONVERT[..], &["x.cpm", "--store", "az://c/p", "--store-endpoint", &endpoint]].concat();
        clouds.coldpress(&variables, &args)
    };
    json(&convert());
    let asked = forms.lock().unwrap().clone();
    assert_eq!(asked.len(), 1, "one token serves all requests: {asked:?}");
    assert!(asked[0].starts_with("/tenant/oauth2/v2.0/token ") && asked[0].contains("client_id=client"), "{asked:?}");
    std::fs::write(clouds.bench.path("token"), "EXPIRED").unwrap();
    let output = convert();
    failed(&output, 1, &["no credentials: 127.0.0.1 answered 401 (invalid_client)", "hint: check the identity"]);
    assert!(!String::from_utf8_lossy(&output.stderr).contains("EXPIRED"));
}

/// A bucket of Google, as `object_store` speaks to it; `existing` is the answer to a put of what is there.
fn google(
    existing: impl Fn() -> Answer + Send + Sync + 'static,
    bearer: Option<&'static str>,
) -> (Answering, Arc<AtomicBool>) {
    let (objects, closed) = (Objects::default(), Arc::<AtomicBool>::default());
    let is_closed = Arc::clone(&closed);
    let server = Answering::with_bodies("127.0.0.1", move |head, body| {
        let (method, path, query) = line(head);
        let mut objects = objects.lock().unwrap();
        // Without credentials, a put has the word alone.
        let given = header(head, "authorization").map(str::trim).filter(|given| *given != "Bearer");
        if given != bearer {
            return refused(401, "AuthenticationRequired");
        }
        match method {
            "PUT" if is_closed.load(Ordering::Relaxed) => refused(403, "AccessDenied"),
            "PUT" if objects.contains_key(path) => match header(head, "x-goog-if-generation-match") {
                Some("0") => existing(),
                _ => refused(403, "AccessDenied"),
            },
            "GET" if query.contains("prefix=") => refused(403, "AccessDenied"),
            "PUT" => {
                objects.insert(path.to_owned(), body.to_vec());
                (200, "etag: \"1\"\r\n".to_owned(), Vec::new())
            }
            "GET" => match objects.get(path) {
                Some(bytes) => {
                    (200, "etag: \"1\"\r\nlast-modified: Mon, 30 Nov 2026 00:00:00 GMT\r\n".to_owned(), bytes.clone())
                }
                None => refused(404, "NoSuchKey"),
            },
            _ => refused(403, "AccessDenied"),
        }
    });
    (server, closed)
}

/// A bucket whose callers may what their token says, as Google checks it: who may not list is told of nothing that is not there, and an
/// overwrite needs the right to delete, whatever the condition.
fn google_roles() -> Answering {
    let objects = Objects::default();
    Answering::with_bodies("127.0.0.1", move |head, body| {
        let (method, path, query) = line(head);
        let mut objects = objects.lock().unwrap();
        let token = header(head, "authorization").unwrap_or_default().to_owned();
        let may = |right: &str| token.split([' ', ',']).any(|word| word == right);
        let denied = || refused(403, "AccessDenied");
        let dates = "etag: \"1\"\r\nlast-modified: Mon, 30 Nov 2026 00:00:00 GMT\r\n".to_owned();
        match method {
            "PUT" if !may("create") => denied(),
            "PUT" if objects.contains_key(path) && !may("delete") => denied(),
            "PUT" if objects.contains_key(path) && header(head, "x-goog-if-generation-match").is_some() => {
                refused(412, "PreconditionFailed")
            }
            "PUT" => {
                objects.insert(path.to_owned(), body.to_vec());
                (200, dates, Vec::new())
            }
            "GET" if query.contains("prefix=") => match may("list") {
                true => (200, String::new(), b"<ListBucketResult></ListBucketResult>".to_vec()),
                false => denied(),
            },
            "GET" | "HEAD" => match (may("get"), objects.get(path)) {
                (true, Some(bytes)) => (200, dates, bytes.clone()),
                (true, None) if may("list") => refused(404, "NoSuchKey"),
                _ => denied(),
            },
            "DELETE" => match (may("delete"), objects.remove(path)) {
                (true, Some(_)) => (204, String::new(), Vec::new()),
                (true, None) if may("list") => refused(404, "NoSuchKey"),
                _ => denied(),
            },
            _ => refused(405, "MethodNotAllowed"),
        }
    })
}

#[test]
fn googles_printed_permissions_are_enough_and_one_less_is_not() {
    let (clouds, server) = (Clouds::new(), google_roles());
    let endpoint = format!("http://{}", server.host);
    let with = |token: &str, args: &[&str]| {
        let store = ["--store", "gs://b/p", "--store-endpoint", &endpoint];
        clouds.coldpress(&[("GOOGLE_OAUTH_ACCESS_TOKEN", token)], &[args, &store].concat())
    };
    for (role, operations) in [
        ("converter", &[("create", "put")][..]),
        ("worker", &[("get", "get")]),
        ("collector", &[("get", "get"), ("list", "list"), ("delete", "delete")]),
    ] {
        let report = json(&with("none", &["doctor", "--as", role, "--print", "--json"]));
        let printed = report["policies"][0]["policy"]["includedPermissions"].as_array().unwrap();
        let printed: Vec<&str> =
            printed.iter().map(|right| right.as_str().unwrap().strip_prefix("storage.objects.").unwrap()).collect();
        assert_eq!(printed, operations.iter().map(|(right, _)| *right).collect::<Vec<_>>());
        for (without, operation) in [("", "")].iter().chain(operations) {
            json(&with("create", &[&CONVERT[..], &["app.cpm"]].concat()));
            let rights: Vec<&str> = printed.iter().copied().filter(|right| right != without).collect();
            let output = with(&format!("may {}", rights.join(",")), &["doctor", "--as", role]);
            let table = String::from_utf8_lossy(&output.stdout).into_owned();
            let missing: Vec<&str> = table
                .lines()
                .filter(|line| line.ends_with("MISSING"))
                .map(|line| line.split_whitespace().nth(1).unwrap())
                .filter(|operation| *operation != "head")
                .collect();
            match without.is_empty() {
                true => assert!(output.status.success() && missing.is_empty(), "{role}: {table}"),
                false => assert_eq!((output.status.code(), missing), (Some(1), vec![*operation]), "{role}: {table}"),
            }
        }
    }
    assert_eq!(json(&with("get", &["verify", "app.cpm", "--json"]))["verified"], true);
}

#[test]
fn an_emulator_of_google_is_found_and_asked_without_credentials() {
    let clouds = Clouds::new();
    let (server, _) = google(|| refused(412, "PreconditionFailed"), None);
    let variables = [("STORAGE_EMULATOR_HOST", server.host.as_str()), ("GOOGLE_CLOUD_QUOTA_PROJECT", "payer")];
    for name in ["a.cpm", "b.cpm"] {
        json(&clouds.coldpress(&variables, &[&CONVERT[..], &[name, "--store", "gs://b/p"]].concat()));
    }
    let cat = clouds.coldread(&variables, &["cat", "a.cpm", "/greeting", "--store", "gs://b/p"]);
    assert_eq!(stdout(&cat), b"hello\n");
    assert!(server.heads().iter().all(|head| header(head, "x-goog-user-project") == Some("payer")));
}

/// Google's objectCreator, and stores that are written once: what is there is refused in the words of a missing right.
#[test]
fn a_store_that_refuses_to_overwrite_is_no_store_that_refuses() {
    let clouds = Clouds::new();
    let (server, closed) = google(|| refused(403, "AccessDenied"), Some("Bearer T"));
    let endpoint = format!("http://{}", server.host);
    let run = |args: &[&str]| {
        let store = ["--store", "gs://b/p", "--store-endpoint", &endpoint];
        clouds.coldpress(&[("GOOGLE_OAUTH_ACCESS_TOKEN", "T")], &[args, &store].concat())
    };
    let first = json(&run(&[&CONVERT[..], &["a.cpm"]].concat()));
    let puts = server.heads().len();
    let second = json(&run(&[&CONVERT[..], &["b.cpm"]].concat()));
    assert_eq!((&second["put_chunks"], &second["claimed_chunks"]), (&0.into(), &first["put_chunks"]));
    // One object before and one after tell the refusals apart; the first run put its own twice.
    assert_eq!(server.heads().len(), 2 * puts + 1);
    assert_eq!(json(&run(&["verify", "b.cpm", "--json"]))["verified"], true);
    // It may get here, which is too much, but it may put and cannot overwrite.
    let doctor = run(&["doctor", "--as", "converter", "--json"]);
    failed(&doctor, 3, &["allow more than a converter needs: store get\n"]);
    // A right that is taken away is not taken for what is there.
    closed.store(true, Ordering::Relaxed);
    failed(&run(&[&CONVERT[..], &["c.cpm"]].concat()), 1, &["403 (AccessDenied)"]);
    assert!(!clouds.bench.path("c.cpm").exists());
}

#[test]
fn a_right_that_is_taken_away_during_a_conversion_publishes_nothing() {
    let clouds = Clouds::new();
    // The first run finds everything new, the second everything there, until uploads are closed for it.
    let (count, limit) = (Arc::<Mutex<usize>>::default(), 4);
    let counter = Arc::clone(&count);
    let (server, closed) = google(
        move || {
            *counter.lock().unwrap() += 1;
            refused(403, "AccessDenied")
        },
        None,
    );
    let variables = [("STORAGE_EMULATOR_HOST", server.host.as_str())];
    let convert = |name: &str| {
        clouds.coldpress(&variables, &[&CONVERT[..], &[name, "--store", "gs://b/p", "--uploads", "1"]].concat())
    };
    json(&convert("a.cpm"));
    let before = *count.lock().unwrap();
    let watch = std::thread::spawn({
        let count = Arc::clone(&count);
        move || {
            while *count.lock().unwrap() < before + limit {
                std::thread::yield_now();
            }
            closed.store(true, Ordering::Relaxed);
        }
    });
    failed(&convert("b.cpm"), 1, &["access to upload is denied now", "hint: the permission to upload was revoked"]);
    watch.join().unwrap();
    assert!(!clouds.bench.path("b.cpm").exists());
}

#[test]
fn a_pipeline_without_keys_is_known_to_google() {
    let clouds = Clouds::new();
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let log = Arc::clone(&asked);
    let tokens = Answering::with_bodies("127.0.0.1", move |head, body| {
        let (_, path, _) = line(head);
        let body = String::from_utf8_lossy(body).into_owned();
        log.lock().unwrap().push(path.to_owned());
        let bearer = header(head, "authorization");
        let answer = match path {
            "/subject" if bearer == Some("Bearer RUNNER") => r#"{"value": "SUBJECT-OF-URL"}"#,
            "/sts" if body.contains("subject_token=SUBJECT-OF-URL") && body.contains("audience=%2F%2Fiam") => {
                r#"{"access_token": "FEDERATED", "expires_in": 3600, "token_type": "Bearer"}"#
            }
            "/sts" if body.contains("subject_token=SUBJECT-OF-FILE") => {
                r#"{"access_token": "DIRECT", "expires_in": 60}"#
            }
            "/impersonate" if bearer == Some("Bearer FEDERATED") && body.contains("\"lifetime\":\"600s\"") => {
                r#"{"accessToken": "IMPERSONATED", "expireTime": "2030-01-01T00:00:00Z"}"#
            }
            _ => return (400, String::new(), br#"{"error": "invalid_grant", "error_description": "x"}"#.to_vec()),
        };
        (200, String::new(), answer.as_bytes().to_vec())
    });
    let host = format!("http://{}", tokens.host);
    let configuration = |source: &str, more: &str| {
        format!(
            r#"{{"type": "external_account", "audience": "//iam.googleapis.com/x", "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
                "token_url": "{host}/sts", "credential_source": {source}{more}}}"#
        )
    };
    let by_url = format!(
        r#"{{"url": "{host}/subject?audience=x", "headers": {{"Authorization": "Bearer RUNNER"}}, "format": {{"type": "json", "subject_token_field_name": "value"}}}}"#
    );
    let impersonation = format!(
        r#", "service_account_impersonation_url": "{host}/impersonate", "service_account_impersonation": {{"token_lifetime_seconds": 600}}"#
    );
    std::fs::write(clouds.bench.path("subject"), "SUBJECT-OF-FILE\n").unwrap();
    for (text, bearer, requests) in [
        (configuration(&by_url, &impersonation), "Bearer IMPERSONATED", &["/subject", "/sts", "/impersonate"][..]),
        (configuration(r#"{"file": "subject"}"#, ""), "Bearer DIRECT", &["/sts"]),
    ] {
        std::fs::write(clouds.bench.path("creds.json"), text).unwrap();
        asked.lock().unwrap().clear();
        let (server, _) = google(|| refused(412, "PreconditionFailed"), Some(bearer));
        let endpoint = format!("http://{}", server.host);
        let args = [&CONVERT[..], &["x.cpm", "--store", "gs://b/p", "--store-endpoint", &endpoint]].concat();
        let variables = [("GOOGLE_APPLICATION_CREDENTIALS", "creds.json"), ("GOOGLE_CLOUD_QUOTA_PROJECT", "payer")];
        json(&clouds.coldpress(&variables, &args));
        assert_eq!(*asked.lock().unwrap(), requests, "one exchange serves all requests");
    }
    assert!(tokens.heads().iter().all(|head| header(head, "x-goog-user-project").is_none()), "it is for the store");
    std::fs::write(clouds.bench.path("subject"), "OTHER").unwrap();
    let args = [&CONVERT[..], &["x.cpm", "--store", "gs://b/p", "--store-endpoint", &host]].concat();
    let output = clouds.coldpress(&[("GOOGLE_APPLICATION_CREDENTIALS", "creds.json")], &args);
    let parts = [
        "no Google credentials: GOOGLE_APPLICATION_CREDENTIALS: creds.json: 127.0.0.1 answered 400 (invalid_grant)",
        "hint: check the audience",
    ];
    failed(&output, 1, &parts);
}

/// docs/reference/stores.md has one table for each provider.
#[test]
fn the_documentation_lists_every_variable_that_is_read_and_no_other() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reference/stores.md")).unwrap();
    for (service, title) in [(Service::Azure, "\n## Azure\n"), (Service::Gcs, "\n## Google\n")] {
        let section = page.split(title).nth(1).unwrap().split("\n## ").next().unwrap();
        let cells = section.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").nth(1));
        let is_name =
            |text: &&str| text.len() > 3 && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
        let listed: BTreeSet<&str> =
            cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).filter(is_name).collect();
        let read: BTreeSet<&str> = variables(service).into_iter().collect();
        assert_eq!(listed, read, "{title}");
    }
}
