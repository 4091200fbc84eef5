//! The key service, by a server that imitates AWS KMS: its error codes, its clock, multi-Region keys and grants; and where its requests go.

use std::collections::BTreeSet;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::support::common::{Bench, Image, Layer, Packing, stdout};
use crate::support::servers::Answering;

const PRIMARY: &str = "arn:aws:kms:us-east-1:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab";
const REPLICA: &str = "arn:aws:kms:eu-west-1:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab";

/// 32 bytes of zeros: the one data key of this service.
const DATA_KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

/// What the service says to an operation that it carries out.
fn done(operation: &str, request: &Value) -> (u16, String, Vec<u8>) {
    let answer = match operation {
        _ if request["DryRun"] == true => return refused(412, "DryRunOperationException"),
        "GenerateDataKey" => json!({ "KeyId": PRIMARY, "Plaintext": DATA_KEY, "CiphertextBlob": "V1JBUA==" }),
        "Decrypt" => json!({ "KeyId": request["KeyId"], "Plaintext": DATA_KEY }),
        other => panic!("{other} is not imitated"),
    };
    (200, "content-type: application/x-amz-json-1.1\r\n".to_owned(), answer.to_string().into_bytes())
}

fn refused(status: u16, code: &str) -> (u16, String, Vec<u8>) {
    let body = json!({ "__type": code, "message": "a message with MARKER-OF-THE-ANSWER" }).to_string();
    (status, "content-type: application/x-amz-json-1.1\r\n".to_owned(), body.into_bytes())
}

/// A service; `answer` is given the operation, the request and its head.
fn service(answer: impl Fn(&str, &Value, &str) -> (u16, String, Vec<u8>) + Send + Sync + 'static) -> Answering {
    Answering::with_bodies("127.0.0.1", move |head, body| {
        let target =
            head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("x-amz-target: ").map(|_| line));
        let operation = target.unwrap().rsplit('.').next().unwrap();
        answer(operation, &serde_json::from_slice(body).unwrap(), head)
    })
}

struct Kms {
    bench: Bench,
}

impl Kms {
    fn new() -> Self {
        let bench = Bench::new();
        Image::new([Layer::new().file("greeting", b"hello\n")]).oci_layout(&bench.path("app"), Packing::Gzip);
        Self { bench }
    }

    fn command(&self, program: &str, variables: &[(&str, &str)], args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.bench.dir.path()).env_clear().env("HOME", self.bench.path("home"));
        command.env("AWS_EC2_METADATA_DISABLED", "true").env("AWS_REGION", "us-east-1");
        command.env("AWS_ACCESS_KEY_ID", "AKID").env("AWS_SECRET_ACCESS_KEY", "MARKER-OF-THE-SECRET");
        command.envs(variables.iter().copied()).args(args);
        command
    }

    fn convert(&self, key: &str, variables: &[(&str, &str)], more: &[&str]) -> Command {
        let args =
            ["convert", "oci:app", "--store", "store", "--salt-file", "coldpress.key", "--key", key, "--no-cache"];
        let args = [&args[..], &["-o", "app.cpm", "--json"], more].concat();
        self.command(env!("CARGO_BIN_EXE_coldpress"), variables, &args)
    }

    /// A conversion with a service at `endpoint`.
    fn at(&self, endpoint: &str, key: &str, more: &[&str]) -> Output {
        self.convert(key, &[], &[&["--kms-endpoint", endpoint], more].concat()).output().unwrap()
    }
}

fn failed(output: &Output, code: i32, parts: &[&str]) {
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{message}");
    for part in parts {
        assert!(message.contains(part), "no `{part}` in {message}");
    }
    assert!(!message.contains("MARKER"), "{message}");
}

#[test]
fn what_a_multi_region_key_enclosed_opens_in_every_region() {
    let kms = Kms::new();
    let server = service(|operation, request, _| done(operation, request));
    let endpoint = format!("http://{}", server.host);
    let key = |arn: &str| format!("aws-kms://{arn}");
    stdout(&kms.at(&endpoint, &key(PRIMARY), &[]));
    let cat = |arn: &str| {
        let key = key(arn);
        let args = ["cat", "app.cpm", "/greeting", "--store", "store", "--key", &key, "--kms-endpoint", &endpoint];
        kms.command(env!("CARGO_BIN_EXE_coldread"), &[], &args).output().unwrap()
    };
    for arn in [PRIMARY, REPLICA, "mrk-1234abcd12ab34cd56ef1234567890ab", "alias/shop"] {
        assert_eq!(stdout(&cat(arn)), b"hello\n", "{arn}");
    }
    // The replica's own Region is asked: it is in the signature.
    assert!(server.heads().iter().any(|head| head.contains("/eu-west-1/kms/aws4_request")));
    failed(&cat(&REPLICA.replace("1111", "2222")), 1, &["the manifest is not for the key"]);
    failed(&cat(&REPLICA.replace("mrk-", "")), 1, &["the manifest is not for the key"]);
}

#[test]
fn each_fault_of_the_service_has_its_own_next_step() {
    let kms = Kms::new();
    for (status, fault, code, hint) in [
        (400, "NotFoundException", 1, "hint: check the key's id or alias"),
        (400, "DisabledException", 1, "hint: the key is disabled: enable it"),
        (400, "KMSInvalidStateException", 1, "cancel-key-deletion"),
        (400, "AccessDeniedException", 1, "--kms-grant-token"),
        (400, "InvalidGrantTokenException", 1, "hint: check --kms-grant-token"),
        (400, "ExpiredTokenException", 1, "hint: the credentials have expired: renew them"),
        (400, "UnrecognizedClientException", 1, "hint: the access key is unknown"),
        (400, "InvalidSignatureException", 1, "this machine's clock is wrong"),
        (400, "InvalidKeyUsageException", 1, "hint: a data key needs a symmetric key"),
        (400, "KeyUnavailableException", 4, "hint: the key service is unavailable"),
        (400, "CustomKeyStoreInvalidStateException", 4, "custom key store is not connected"),
    ] {
        let server = service(move |_, _, _| refused(status, fault));
        let output = kms.at(&format!("http://{}", server.host), "aws-kms://alias/shop", &[]);
        failed(&output, code, &["key aws-kms://alias/shop: GenerateDataKey", fault, hint]);
        assert!(!kms.bench.path("app.cpm").exists());
    }
}

#[test]
fn what_passes_is_waited_for_and_what_is_renewed_is_used() {
    let kms = Kms::new();
    for (fault, requests) in [("ThrottlingException", 3), ("ExpiredTokenException", 3)] {
        let count = AtomicUsize::new(0);
        let server = service(move |operation, request, _| match count.fetch_add(1, Ordering::Relaxed) {
            0 => refused(400, fault),
            _ => done(operation, request),
        });
        stdout(&kms.at(&format!("http://{}", server.host), "aws-kms://alias/shop", &[]));
        assert_eq!(server.heads().len(), requests, "{fault}: the dry run twice, and the data key");
    }
}

/// A machine whose clock is an hour behind.
#[test]
fn a_wrong_clock_is_corrected_by_the_services_own() {
    let kms = Kms::new();
    let date = |form: &str, when: &str| {
        let output = Command::new("date").env("LC_ALL", "C").args(["-u", "-d", when, form]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let (now, earliest) = (date("+%a, %d %b %Y %H:%M:%S GMT", "+1 hour"), date("+%Y%m%dT%H%M%SZ", "+50 minutes"));
    let server = service(move |operation, request, head| {
        let signed = head.lines().find_map(|line| line.strip_prefix("x-amz-date: ")).unwrap();
        let (status, headers, body) = match signed < earliest.as_str() {
            true => refused(400, "InvalidSignatureException"),
            false => done(operation, request),
        };
        (status, format!("{headers}date: {now}\r\n"), body)
    });
    stdout(&kms.at(&format!("http://{}", server.host), "aws-kms://alias/shop", &[]));
}

#[test]
fn grant_tokens_go_with_every_request() {
    let kms = Kms::new();
    let server = service(|operation, request, _| match request["GrantTokens"] == json!(["one", "two"]) {
        true => done(operation, request),
        false => refused(400, "AccessDeniedException"),
    });
    let endpoint = format!("http://{}", server.host);
    let tokens = ["--kms-grant-token", "one", "--kms-grant-token", "two"];
    stdout(&kms.at(&endpoint, "aws-kms://alias/shop", &tokens));
    let ls = ["ls", "app.cpm", "/", "--store", "store", "--key", "aws-kms://alias/shop", "--kms-endpoint", &endpoint];
    stdout(&kms.command(env!("CARGO_BIN_EXE_coldread"), &[], &[&ls[..], &tokens].concat()).output().unwrap());
    failed(&kms.at(&endpoint, "aws-kms://alias/shop", &[]), 1, &["AccessDeniedException"]);
}

#[test]
fn doctor_does_not_take_a_disabled_key_for_a_missing_right() {
    let kms = Kms::new();
    let store =
        Answering::start("127.0.0.1", |head| match head.starts_with("PUT ") && head.contains("if-none-match") {
            true => (200, "etag: \"1\"\r\n".to_owned(), Vec::new()),
            false => (403, String::new(), b"<Error><Code>AccessDenied</Code></Error>".to_vec()),
        });
    let server = service(|_, _, _| refused(400, "DisabledException"));
    let (store, endpoint) = (format!("http://{}", store.host), format!("http://{}", server.host));
    let args =
        ["doctor", "--as", "converter", "--store", "s3://b/p", "--store-endpoint", &store, "--key", "aws-kms://k"];
    let args = [&args[..], &["--kms-endpoint", &endpoint]].concat();
    let output = kms.command(env!("CARGO_BIN_EXE_coldpress"), &[], &args).output().unwrap();
    failed(&output, 1, &["DisabledException", "hint: the key is disabled: enable it"]);
}

/// The first line that a proxy is sent by a conversion; a variable without a value is not set.
fn asked(kms: &Kms, key: &str, variables: &[(&str, &str)]) -> String {
    let proxy = Answering::start("127.0.0.1", |_| (502, String::new(), Vec::new()));
    let url = format!("http://{}", proxy.host);
    let variables = [variables, &[("HTTPS_PROXY", url.as_str()), ("HTTP_PROXY", url.as_str())]].concat();
    let mut command = kms.convert(key, &variables, &[]);
    variables.iter().filter(|(_, value)| value.is_empty()).for_each(|(name, _)| _ = command.env_remove(name));
    proxy.first_request(command.stderr(Stdio::piped()).spawn().unwrap())
}

/// docs/reference/stores.md, "AWS KMS": each variable and profile key, by the host that is asked.
#[test]
fn each_setting_of_the_table_is_honoured() {
    let kms = Kms::new();
    std::fs::create_dir_all(kms.bench.path("home/.aws")).unwrap();
    let gov = "aws-kms://arn:aws-us-gov:kms:us-gov-west-1:111122223333:key/k";
    let shop = "aws-kms://alias/shop";
    let mine = ("AWS_ENDPOINT_URL_KMS", "https://kms.example");
    let mut checked = BTreeSet::new();
    for (name, key, variables, profile, host) in [
        ("AWS_REGION", shop, &[("AWS_REGION", "cn-north-1")][..], "", "kms.cn-north-1.amazonaws.com.cn"),
        ("AWS_REGION", gov, &[], "", "kms.us-gov-west-1.amazonaws.com"),
        (
            "AWS_DEFAULT_REGION",
            shop,
            &[("AWS_REGION", ""), ("AWS_DEFAULT_REGION", "eu-west-1")],
            "",
            "kms.eu-west-1.amazonaws.com",
        ),
        ("region", shop, &[("AWS_REGION", "")], "region = eu-west-2", "kms.eu-west-2.amazonaws.com"),
        ("AWS_ENDPOINT_URL_KMS", shop, &[mine, ("AWS_ENDPOINT_URL", "https://all.example")], "", "kms.example"),
        ("AWS_ENDPOINT_URL", shop, &[("AWS_ENDPOINT_URL", "https://all.example")], "", "all.example"),
        ("endpoint_url", shop, &[], "endpoint_url = https://profile.example", "profile.example"),
        (
            "services",
            shop,
            &[],
            "services = own\n[services own]\nkms =\n  endpoint_url = https://service.example",
            "service.example",
        ),
        (
            "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
            shop,
            &[mine, ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")],
            "",
            "kms.us-east-1.amazonaws.com",
        ),
        ("AWS_USE_FIPS_ENDPOINT", shop, &[("AWS_USE_FIPS_ENDPOINT", "true")], "", "kms-fips.us-east-1.amazonaws.com"),
        ("use_fips_endpoint", shop, &[], "use_fips_endpoint = true", "kms-fips.us-east-1.amazonaws.com"),
        ("AWS_USE_DUALSTACK_ENDPOINT", shop, &[("AWS_USE_DUALSTACK_ENDPOINT", "true")], "", "kms.us-east-1.api.aws"),
        ("use_dualstack_endpoint", shop, &[], "use_dualstack_endpoint = true", "kms.us-east-1.api.aws"),
    ] {
        std::fs::write(kms.bench.path("home/.aws/config"), format!("[default]\n{profile}\n")).unwrap();
        assert_eq!(asked(&kms, key, variables), format!("CONNECT {host}:443 HTTP/1.1"), "{name}");
        checked.insert(name);
    }
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reference/stores.md")).unwrap();
    let section = page.split("\n## AWS KMS\n").nth(1).unwrap();
    let cells = section.lines().filter(|line| line.starts_with("| ")).filter_map(|line| line.split('|').nth(3));
    let listed: BTreeSet<&str> = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    assert_eq!(listed, checked);
}

/// Data keys are in the answers: whoever names an address without TLS, it is not asked.
#[test]
fn no_data_key_crosses_a_network_in_clear_whatever_the_environment_says() {
    let kms = Kms::new();
    std::fs::create_dir_all(kms.bench.path("home/.aws")).unwrap();
    let profile = |text: &str| std::fs::write(kms.bench.path("home/.aws/config"), text).unwrap();
    for name in ["AWS_ENDPOINT_URL_KMS", "AWS_ENDPOINT_URL"] {
        let output = kms.convert("aws-kms://k", &[(name, "http://kms.example.com")], &[]).output().unwrap();
        failed(&output, 2, &[name, "secrets would cross the network unencrypted"]);
        let output = kms.convert("aws-kms://k", &[(name, "kms.example.com")], &[]).output().unwrap();
        failed(&output, 2, &[name, "expected https://HOST[:PORT]"]);
    }
    for text in [
        "[default]\nendpoint_url = http://kms.example.com\n",
        "[default]\nservices = own\n[services own]\nkms =\n  endpoint_url = http://kms.example.com\n",
    ] {
        profile(text);
        let said = asked(&kms, "aws-kms://k", &[]);
        assert!(
            said.contains("secrets would cross the network unencrypted") && said.contains("endpoint_url"),
            "{said}"
        );
        profile(&text.replace("http://", ""));
        let output = kms.convert("aws-kms://k", &[], &[]).output().unwrap();
        failed(&output, 2, &["endpoint_url of the AWS profile: expected https://HOST[:PORT]"]);
    }
    // With TLS, what is named is asked.
    profile("[default]\nservices = own\n[services own]\nkms =\n  endpoint_url = https://kms.example.com\n");
    assert_eq!(asked(&kms, "aws-kms://k", &[]), "CONNECT kms.example.com:443 HTTP/1.1");
    let own = [("AWS_ENDPOINT_URL_KMS", "http://kms.example.com"), ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")];
    assert_eq!(asked(&kms, "aws-kms://k", &own), "CONNECT kms.us-east-1.amazonaws.com:443 HTTP/1.1");
}
