//! S3: each URL form, variable and profile key that docs/reference/stores.md lists, by the request that follows; and what answers of S3 and of
//! servers like it mean.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::clouds::{Clouds, failed, header, json};
use crate::support::common::stdout;
use crate::support::servers::Answering;

const REGION: (&str, &str) = ("AWS_REGION", "us-east-1");
const ID: (&str, &str) = ("AWS_ACCESS_KEY_ID", "AKIDENV");
const SECRET: (&str, &str) = ("AWS_SECRET_ACCESS_KEY", "secret");
const NO_METADATA: (&str, &str) = ("AWS_EC2_METADATA_DISABLED", "true");
/// What every conversion has here, so that no metadata service of this machine is asked.
const PLAIN: [(&str, &str); 4] = [REGION, ID, SECRET, NO_METADATA];

/// A line of the tables in docs/reference/stores.md: its first cell, and a check.
type Line = (&'static str, fn(&Bucket));

/// Programs with an image, and files of AWS's tools.
struct Bucket {
    clouds: Clouds,
}

fn error(code: &str) -> Vec<u8> {
    format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>m</Message></Error>").into_bytes()
}

impl Bucket {
    fn new() -> Self {
        let clouds = Clouds::new();
        std::fs::create_dir_all(clouds.bench.path("home/.aws")).unwrap();
        Self { clouds }
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.clouds.bench.path(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Sets the keys of the default profile.
    fn profile(&self, text: &str) {
        self.write("home/.aws/config", &format!("[default]\n{text}\n"));
    }

    /// The host that a conversion into `store` asks first, by a proxy, with `variables` beside [`PLAIN`] less those of `without`.
    fn host(&self, store: &str, without: &[&str], variables: &[(&str, &str)]) -> String {
        let plain = PLAIN.into_iter().filter(|(name, _)| !without.contains(name));
        let all: Vec<_> = plain.chain(variables.iter().copied()).collect();
        let line = self.clouds.asked(store, &all);
        line.strip_prefix("CONNECT ").and_then(|line| line.split(':').next()).map_or(line.clone(), str::to_owned)
    }

    /// The head of the first object that a conversion puts into a server on this machine, which takes it.
    fn head(&self, without: &[&str], variables: &[(&str, &str)]) -> String {
        let server = Answering::start("127.0.0.1", |_| (200, String::new(), Vec::new()));
        let plain = PLAIN.into_iter().filter(|(name, _)| !without.contains(name));
        let all: Vec<_> = plain.chain(variables.iter().copied()).collect();
        json(&self.clouds.coldpress(&all, &convert(&format!("http://{}", server.host))));
        let heads = server.heads();
        assert!(heads.iter().all(|head| head.starts_with("PUT /bucket/p/")), "{heads:#?}");
        heads[0].clone()
    }

    /// The name of the access key that signs the first object.
    fn key_id(&self, without: &[&str], variables: &[(&str, &str)]) -> String {
        let head = self.head(without, variables);
        let authorization = header(&head, "authorization").expect(&head);
        let (_, behind) = authorization.split_once("Credential=").unwrap();
        behind.split('/').next().unwrap().to_owned()
    }
}

fn convert(endpoint: &str) -> [&str; 9] {
    ["convert", "oci:app", "--no-cache", "--json", "-o=x.cpm", "--store", "s3://bucket/p", "--store-endpoint", endpoint]
}

const LINES: [Line; 38] = [
    ("s3://BUCKET/PREFIX", |b| {
        let host = |region| b.host("s3://bucket/p", &["AWS_REGION"], &[("AWS_REGION", region)]);
        assert_eq!(host("eu-west-1"), "bucket.s3.eu-west-1.amazonaws.com");
        assert_eq!(host("us-gov-west-1"), "bucket.s3.us-gov-west-1.amazonaws.com");
        assert_eq!(host("cn-north-1"), "bucket.s3.cn-north-1.amazonaws.com.cn");
    }),
    ("s3://NAME--ZONE--x-s3/PREFIX", |b| {
        let host = b.host("s3://fast--use1-az4--x-s3/p", &[], &[]);
        assert_eq!(host, "fast--use1-az4--x-s3.s3express-use1-az4.us-east-1.amazonaws.com");
    }),
    ("s3://arn:PARTITION:s3:REGION:ACCOUNT:accesspoint/NAME/PREFIX", |b| {
        let host = b.host("s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/ap/p", &[], &[]);
        assert_eq!(host, "ap-123456789012.s3-accesspoint.eu-west-1.amazonaws.com");
    }),
    ("AWS_ENDPOINT_URL_S3", |b| {
        let variables = [("AWS_ENDPOINT_URL_S3", "https://s3.example"), ("AWS_ENDPOINT_URL", "https://all.example")];
        assert_eq!(b.host("s3://bucket/p", &[], &variables), "s3.example");
    }),
    ("AWS_ENDPOINT_URL", |b| {
        assert_eq!(b.host("s3://bucket/p", &[], &[("AWS_ENDPOINT_URL", "https://all.example")]), "all.example");
    }),
    ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", |b| {
        let variables =
            [("AWS_ENDPOINT_URL_S3", "https://s3.example"), ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")];
        assert_eq!(b.host("s3://bucket/p", &[], &variables), "bucket.s3.us-east-1.amazonaws.com");
    }),
    ("AWS_REGION", |b| {
        let variables = [("AWS_REGION", "eu-west-1"), ("AWS_DEFAULT_REGION", "eu-west-2")];
        assert_eq!(b.host("s3://bucket/p", &["AWS_REGION"], &variables), "bucket.s3.eu-west-1.amazonaws.com");
    }),
    ("AWS_DEFAULT_REGION", |b| {
        let variables = [("AWS_DEFAULT_REGION", "eu-west-2")];
        assert_eq!(b.host("s3://bucket/p", &["AWS_REGION"], &variables), "bucket.s3.eu-west-2.amazonaws.com");
    }),
    ("AWS_USE_FIPS_ENDPOINT", |b| {
        let host = b.host("s3://bucket/p", &[], &[("AWS_USE_FIPS_ENDPOINT", "true")]);
        assert_eq!(host, "bucket.s3-fips.us-east-1.amazonaws.com");
    }),
    ("AWS_USE_DUALSTACK_ENDPOINT", |b| {
        let host = b.host("s3://bucket/p", &[], &[("AWS_USE_DUALSTACK_ENDPOINT", "true")]);
        assert_eq!(host, "bucket.s3.dualstack.us-east-1.amazonaws.com");
    }),
    ("AWS_CA_BUNDLE", |b| {
        let bundle = b.write("bundle.pem", "no certificate");
        let text = b.host("s3://bucket/p", &[], &[("AWS_CA_BUNDLE", &bundle)]);
        assert!(text.contains(&format!("AWS_CA_BUNDLE: {bundle}: the file has no certificates")), "{text}");
    }),
    ("AWS_REQUEST_CHECKSUM_CALCULATION", |b| {
        assert!(header(&b.head(&[], &[]), "x-amz-checksum-sha256").is_some());
        let head = b.head(&[], &[("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")]);
        assert_eq!(header(&head, "x-amz-checksum-sha256"), None);
        assert_eq!(header(&head, "x-amz-content-sha256").map(str::len), Some(64));
    }),
    ("AWS_SERVER_SIDE_ENCRYPTION", |b| {
        let head = b.head(&[], &[("AWS_SERVER_SIDE_ENCRYPTION", "AES256")]);
        assert_eq!(header(&head, "x-amz-server-side-encryption"), Some("AES256"));
    }),
    ("AWS_SSE_KMS_KEY_ID", |b| {
        let variables = [("AWS_SERVER_SIDE_ENCRYPTION", "aws:kms"), ("AWS_SSE_KMS_KEY_ID", "alias/store")];
        let head = b.head(&[], &variables);
        assert_eq!(header(&head, "x-amz-server-side-encryption"), Some("aws:kms"));
        assert_eq!(header(&head, "x-amz-server-side-encryption-aws-kms-key-id"), Some("alias/store"));
    }),
    ("AWS_REQUEST_PAYER", |b| {
        assert_eq!(
            header(&b.head(&[], &[("AWS_REQUEST_PAYER", "requester")]), "x-amz-request-payer"),
            Some("requester")
        );
    }),
    ("AWS_PROFILE", |b| {
        b.write("home/.aws/config", "[default]\nregion = eu-west-1\n[profile other]\nregion = eu-west-2\n");
        let host = b.host("s3://bucket/p", &["AWS_REGION"], &[("AWS_PROFILE", "other")]);
        assert_eq!(host, "bucket.s3.eu-west-2.amazonaws.com");
    }),
    ("AWS_CONFIG_FILE", |b| {
        let path = b.write("elsewhere", "[default]\nregion = eu-west-3\n");
        let host = b.host("s3://bucket/p", &["AWS_REGION"], &[("AWS_CONFIG_FILE", &path)]);
        assert_eq!(host, "bucket.s3.eu-west-3.amazonaws.com");
    }),
    ("AWS_SHARED_CREDENTIALS_FILE", |b| {
        let path = b.write("elsewhere", "[default]\naws_access_key_id = AKIDFILE\naws_secret_access_key = s\n");
        let without = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
        assert_eq!(b.key_id(&without, &[("AWS_SHARED_CREDENTIALS_FILE", &path)]), "AKIDFILE");
    }),
    ("AWS_ACCESS_KEY_ID", |b| assert_eq!(b.key_id(&[], &[]), "AKIDENV")),
    ("AWS_SESSION_TOKEN", |b| {
        let head = b.head(&[], &[("AWS_SESSION_TOKEN", "token")]);
        assert_eq!(header(&head, "x-amz-security-token"), Some("token"));
    }),
    ("AWS_WEB_IDENTITY_TOKEN_FILE", |b| {
        let (sts, file) = (sts("AssumeRoleWithWebIdentity"), b.write("token", "TOKEN"));
        let variables = [
            ("AWS_WEB_IDENTITY_TOKEN_FILE", &file[..]),
            ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/converter"),
            ("AWS_ENDPOINT_URL_STS", &format!("http://{}", sts.host)),
        ];
        assert_eq!(b.key_id(&["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"], &variables), "AKIDSTS");
    }),
    ("AWS_ENDPOINT_URL_STS", |b| {
        let file = b.write("token", "TOKEN");
        let variables = [
            ("AWS_WEB_IDENTITY_TOKEN_FILE", &file[..]),
            ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/converter"),
            ("AWS_ENDPOINT_URL_STS", "https://sts.example"),
        ];
        assert_eq!(b.host("s3://bucket/p", &["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"], &variables), "sts.example");
    }),
    ("AWS_CONTAINER_CREDENTIALS_FULL_URI", |b| {
        let server = Answering::start("127.0.0.1", |_| {
            let body = r#"{"AccessKeyId":"AKIDCONTAINER","SecretAccessKey":"s","Token":"t","Expiration":"2099-01-01T00:00:00Z"}"#;
            (200, String::new(), body.into())
        });
        let uri = format!("http://{}/credentials", server.host);
        let without = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
        assert_eq!(b.key_id(&without, &[("AWS_CONTAINER_CREDENTIALS_FULL_URI", &uri)]), "AKIDCONTAINER");
        assert_eq!(server.heads().len(), 1, "asked once for all requests");
    }),
    ("AWS_EC2_METADATA_SERVICE_ENDPOINT", |b| {
        let without = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_EC2_METADATA_DISABLED"];
        let server = instance();
        let endpoint = format!("http://{}", server.host);
        assert_eq!(b.key_id(&without, &[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &endpoint)]), "AKIDINSTANCE");
    }),
    ("AWS_EC2_METADATA_DISABLED", |b| {
        let server = instance();
        let endpoint = format!("http://{}", server.host);
        let variables = [REGION, NO_METADATA, ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &endpoint)];
        let output = b.clouds.coldpress(&variables, &convert("http://127.0.0.1:1"));
        failed(&output, 1, &["docs/reference/stores.md lists where credentials are looked for"]);
        assert!(server.heads().is_empty());
    }),
    ("HTTPS_PROXY", |b| assert_eq!(b.host("s3://bucket/p", &[], &[]), "bucket.s3.us-east-1.amazonaws.com")),
    ("NO_PROXY", |b| {
        let variables = [("NO_PROXY", "localhost"), ("AWS_ENDPOINT_URL_S3", "https://localhost:1")];
        let output = b.host("s3://bucket/p", &[], &variables);
        assert!(output.contains("Connection refused"), "the proxy was asked: {output}");
    }),
    ("region", |b| {
        b.profile("region = eu-north-1");
        assert_eq!(b.host("s3://bucket/p", &["AWS_REGION"], &[]), "bucket.s3.eu-north-1.amazonaws.com");
    }),
    ("endpoint_url", |b| {
        b.profile("endpoint_url = https://profile.example");
        assert_eq!(b.host("s3://bucket/p", &[], &[]), "profile.example");
    }),
    ("services", |b| {
        b.profile("services = mine\n[services mine]\ns3 =\n  endpoint_url = https://service.example");
        assert_eq!(b.host("s3://bucket/p", &[], &[]), "service.example");
    }),
    ("ignore_configured_endpoint_urls", |b| {
        b.profile("endpoint_url = https://profile.example\nignore_configured_endpoint_urls = true");
        assert_eq!(b.host("s3://bucket/p", &[], &[]), "bucket.s3.us-east-1.amazonaws.com");
    }),
    ("use_fips_endpoint", |b| {
        b.profile("use_fips_endpoint = true");
        assert_eq!(b.host("s3://bucket/p", &[], &[]), "bucket.s3-fips.us-east-1.amazonaws.com");
    }),
    ("use_dualstack_endpoint", |b| {
        b.profile("use_dualstack_endpoint = true");
        assert_eq!(b.host("s3://bucket/p", &[], &[]), "bucket.s3.dualstack.us-east-1.amazonaws.com");
    }),
    ("ca_bundle", |b| {
        let bundle = b.write("bundle.pem", "no certificate");
        b.profile(&format!("ca_bundle = {bundle}"));
        let text = b.host("s3://bucket/p", &[], &[]);
        assert!(text.contains(&bundle) && text.contains("the file has no certificates"), "{text}");
    }),
    ("request_checksum_calculation", |b| {
        b.profile("request_checksum_calculation = when_required");
        assert_eq!(header(&b.head(&[], &[]), "x-amz-checksum-sha256"), None);
    }),
    ("aws_access_key_id", |b| {
        b.profile("aws_access_key_id = AKIDPROFILE\naws_secret_access_key = s");
        assert_eq!(b.key_id(&["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"], &[]), "AKIDPROFILE");
    }),
    ("credential_process", |b| {
        let script = r#"#!/bin/sh
echo >>"${0%/*}/runs"
echo '{"Version":1,"AccessKeyId":"AKIDPROCESS","SecretAccessKey":"s","SessionToken":"t","Expiration":"2099-01-01T00:00:00Z"}'
"#;
        let path = b.write("process.sh", script);
        b.profile(&format!("credential_process = /bin/sh {path}"));
        let variables = [("PATH", "/usr/bin:/bin")];
        assert_eq!(b.key_id(&["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"], &variables), "AKIDPROCESS");
        let runs = std::fs::read_to_string(b.clouds.bench.path("runs")).unwrap();
        assert_eq!(runs.lines().count(), 1, "run once for all requests");
    }),
    ("role_arn", |b| {
        let sts = sts("AssumeRole&");
        let keys = "[base]\naws_access_key_id = AKIDBASE\naws_secret_access_key = s\n";
        b.write("home/.aws/credentials", keys);
        b.profile("role_arn = arn:aws:iam::123456789012:role/converter\nsource_profile = base");
        let endpoint = format!("http://{}", sts.host);
        let variables = [("AWS_ENDPOINT_URL_STS", &endpoint[..])];
        assert_eq!(b.key_id(&["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"], &variables), "AKIDSTS");
        std::fs::remove_file(b.clouds.bench.path("home/.aws/credentials")).unwrap();
    }),
];

/// STS, which gives a role for `action`.
fn sts(action: &'static str) -> Answering {
    Answering::with_bodies("127.0.0.1", move |_, body| {
        let text = String::from_utf8_lossy(body);
        let name = action.trim_end_matches('&');
        if !text.contains(&format!("Action={action}")) {
            return (400, String::new(), error("InvalidAction"));
        }
        let body = format!(
            "<{name}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><{name}Result><Credentials>\
             <AccessKeyId>AKIDSTS</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken>\
             <Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></{name}Result></{name}Response>"
        );
        (200, "content-type: text/xml\r\n".to_owned(), body.into_bytes())
    })
}

/// The metadata service of an instance with a role.
fn instance() -> Answering {
    Answering::start("127.0.0.1", |head| {
        let body = match head.split(' ').nth(1).unwrap() {
            "/latest/api/token" => "TOKEN".to_owned(),
            path if path.ends_with("/security-credentials/") => "role".to_owned(),
            path if path.ends_with("/security-credentials/role") => {
                r#"{"Code":"Success","AccessKeyId":"AKIDINSTANCE","SecretAccessKey":"s","Token":"t","Expiration":"2099-01-01T00:00:00Z"}"#
                    .to_owned()
            }
            _ => return (404, String::new(), Vec::new()),
        };
        (200, "x-aws-ec2-metadata-token-ttl-seconds: 21600\r\n".to_owned(), body.into_bytes())
    })
}

#[test]
fn each_url_variable_and_profile_key_of_the_tables_is_honoured() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reference/stores.md")).unwrap();
    let section = page.split("\n## S3\n").nth(1).unwrap().split("\n### What holds").next().unwrap();
    let cells = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let listed: BTreeSet<&str> = cells.collect();
    let checked: BTreeSet<&str> = LINES.iter().map(|(name, _)| *name).collect();
    assert_eq!(listed, checked);
    for (name, check) in LINES {
        let checked = std::panic::catch_unwind(|| check(&Bucket::new()));
        assert!(checked.is_ok(), "{name}: the reason stands above");
    }
}

/// A server that answers each put so.
fn answering(status: u16, headers: &'static str, body: Vec<u8>) -> Answering {
    Answering::start("127.0.0.1", move |_| (status, headers.to_owned(), body.clone()))
}

#[test]
fn what_a_service_says_has_its_own_next_step() {
    let bucket = Bucket::new();
    for (status, headers, code, parts) in [
        (400, "", "ExpiredToken", &["the AWS credentials have expired", "hint: renew the credentials"][..]),
        (403, "", "InvalidAccessKeyId", &["the service does not know this access key"]),
        (403, "", "SignatureDoesNotMatch", &["the secret access key does not belong to the access key"]),
        (403, "", "AccessDenied", &["`coldpress doctor --as ROLE` prints the policy"]),
        (403, "", "QuotaExceeded", &["the quota or the space of the store is used up"]),
        (404, "", "NoSuchBucket", &["check the bucket's name, and its region or endpoint"]),
        (301, "x-amz-bucket-region: eu-west-1\r\n", "PermanentRedirect", &["give --store-region eu-west-1"]),
        (507, "", "", &["the space of the store is used up"]),
    ] {
        // A denied upload is made once more for a bucket that asks for an ACL.
        let server = answering(status, headers, error(code));
        let output = bucket.clouds.coldpress(&PLAIN, &convert(&format!("http://{}", server.host)));
        failed(&output, 1, parts);
        assert!(server.heads().len() <= 4, "{code} is final, and was asked {} times", server.heads().len());
    }
}

#[test]
fn throttling_under_a_403_is_waited_for() {
    let bucket = Bucket::new();
    let asked = AtomicUsize::new(0);
    let server = Answering::start("127.0.0.1", move |_| match asked.fetch_add(1, Ordering::Relaxed) {
        2 | 3 => (403, String::new(), error("RequestLimitExceeded")),
        _ => (200, String::new(), Vec::new()),
    });
    json(&bucket.clouds.coldpress(&PLAIN, &convert(&format!("http://{}", server.host))));
}

/// Servers that speak like S3 differ in what they make of the condition, and in headers that nobody needs.
#[test]
fn servers_that_speak_like_s3_have_their_habits() {
    let bucket = Bucket::new();
    let objects = Arc::new(Mutex::new(BTreeMap::<String, Vec<u8>>::new()));
    for (status, code) in
        [(304, ""), (409, "ObjectAlreadyExists"), (400, "InvalidArgument"), (403, "RequestTimeTooSkewed")]
    {
        let (there, seen) = (Arc::clone(&objects), Mutex::new(BTreeSet::new()));
        let server = Answering::with_bodies("127.0.0.1", move |head, body| {
            let mut words = head.split(' ');
            let (method, path) = (words.next().unwrap(), words.next().unwrap().split('?').next().unwrap());
            let mut objects = there.lock().unwrap();
            let is_conditional = header(head, "if-none-match").is_some();
            if method == "GET" {
                let headers = "last-modified: 2020-01-01T00:00:00Z\r\netag: 1\r\n".to_owned();
                return (200, headers, objects.get(path).expect(path).clone());
            }
            match code {
                "InvalidArgument" if is_conditional => return (400, String::new(), error(code)),
                "RequestTimeTooSkewed" if seen.lock().unwrap().insert(path.to_owned()) => {
                    return (403, String::new(), error(code));
                }
                _ if is_conditional && objects.contains_key(path) => {
                    let body = if code.is_empty() { Vec::new() } else { error(code) };
                    return (status, String::new(), body);
                }
                _ => {}
            }
            objects.insert(path.to_owned(), body.to_vec());
            (200, String::new(), Vec::new())
        });
        let endpoint = format!("http://{}", server.host);
        for _ in 0..2 {
            json(&bucket.clouds.coldpress(&PLAIN, &convert(&endpoint)));
        }
        let args = ["cat", "x.cpm", "/greeting", "--store", "s3://bucket/p", "--store-endpoint", &endpoint];
        assert_eq!(stdout(&bucket.clouds.coldread(&PLAIN, &args)), b"hello\n", "{status} {code}");
        objects.lock().unwrap().clear();
    }
}

/// S3 answers 200 before it knows whether all goes well for some requests, and servers like it do for puts.
#[test]
fn a_put_that_is_answered_200_with_an_error_is_not_stored() {
    let bucket = Bucket::new();
    let server = answering(200, "content-type: application/xml\r\n", error("AccessDenied"));
    let output = bucket.clouds.coldpress(&PLAIN, &convert(&format!("http://{}", server.host)));
    failed(&output, 1, &["AccessDenied"]);
    assert!(!bucket.clouds.bench.path("x.cpm").exists());
}

#[test]
fn an_endpoint_that_cannot_be_is_named_at_once() {
    let bucket = Bucket::new();
    for (endpoint, part) in [
        ("s3.example", "expected https://HOST[:PORT]"),
        ("ftp://s3.example", "expected https://HOST[:PORT]"),
        ("http://s3.example", "use https://"),
        ("http://10.0.0.1:9000", "use https://"),
    ] {
        let began = Instant::now();
        for by_variable in [false, true] {
            let variables = [&PLAIN[..], &[("AWS_ENDPOINT_URL_S3", endpoint)]].concat();
            let output = match by_variable {
                true => bucket.clouds.coldpress(&variables, &convert("")[..7]),
                false => bucket.clouds.coldpress(&PLAIN, &convert(endpoint)),
            };
            let text = String::from_utf8_lossy(&output.stderr);
            assert!(matches!(output.status.code(), Some(1 | 2)) && text.contains(part), "{endpoint}: {text}");
        }
        assert!(began.elapsed() < Duration::from_secs(5), "{endpoint}: {:?}", began.elapsed());
    }
}

#[test]
fn a_bucket_is_in_the_name_of_the_host_or_in_the_path() {
    let bucket = Bucket::new();
    let server = Answering::start("127.0.0.1", |_| (200, String::new(), Vec::new()));
    let port = server.host.rsplit(':').next().unwrap();
    let endpoint = format!("http://localhost:{port}");
    let args = [&convert(&endpoint)[..], &["--store-style", "virtual-host"]].concat();
    json(&bucket.clouds.coldpress(&PLAIN, &args));
    let heads = server.heads();
    let hosts: BTreeSet<_> = heads.iter().map(|head| header(head, "host").unwrap()).collect();
    assert_eq!(hosts, BTreeSet::from([&format!("bucket.localhost:{port}")[..]]));
    assert!(heads.iter().all(|head| head.starts_with("PUT /p/")), "{heads:#?}");
}

/// The minute-long lives of `make test-long` are in tools/renewals.py.
#[test]
fn a_source_that_fails_while_its_credentials_are_valid_stops_nothing() {
    let bucket = Bucket::new();
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let source = Answering::start("127.0.0.1", move |_| match counter.fetch_add(1, Ordering::Relaxed) {
        0 => {
            let time = std::process::Command::new("date").args(["-u", "-d", "+2 seconds", "+%FT%TZ"]).output();
            let time = String::from_utf8(time.unwrap().stdout).unwrap();
            let body = format!(
                r#"{{"AccessKeyId":"AKIDONE","SecretAccessKey":"s","Token":"t","Expiration":"{}"}}"#,
                time.trim()
            );
            (200, String::new(), body.into_bytes())
        }
        _ => (500, String::new(), Vec::new()),
    });
    let store = Answering::start("127.0.0.1", |_| {
        std::thread::sleep(Duration::from_millis(50));
        (200, String::new(), Vec::new())
    });
    let uri = format!("http://{}/credentials", source.host);
    let variables = [REGION, NO_METADATA, ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &uri)];
    json(&bucket.clouds.coldpress(&variables, &convert(&format!("http://{}", store.host))));
    assert!(asked.load(Ordering::Relaxed) <= 2, "asked {} times", asked.load(Ordering::Relaxed));
    assert!(store.heads().iter().all(|head| head.contains("Credential=AKIDONE/")));
}
