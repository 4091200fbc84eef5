//! Real servers for the tests: moto (S3, KMS and IAM, which it enforces), and a proxy that sees every request and can spoil it.

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::common::Bench;

/// A moto server with users of one role each; gone when it is dropped.
pub struct Moto {
    process: Child,
    pub url: String,
    users: Value,
    /// Where the programs run.
    pub bench: Bench,
}

pub fn python(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/venv/bin").join(name);
    assert!(path.exists(), "{}: not there; `make test-tools` installs it", path.display());
    path
}

impl Moto {
    pub fn start() -> Self {
        let bench = Bench::new();
        let port = free_port();
        let log = std::fs::File::create(bench.path("moto.log")).unwrap();
        let process = Command::new(python("moto_server"))
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let url = format!("http://127.0.0.1:{port}");
        let mut moto = Self { process, url, users: Value::Null, bench };
        wait_for(port);
        let out = moto.bench.path("users.json");
        let setup = Command::new(python("python"))
            .arg(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tools/servers.py"))
            .args([&moto.url, out.to_str().unwrap()])
            .output()
            .unwrap();
        assert!(setup.status.success(), "{}", String::from_utf8_lossy(&setup.stderr));
        moto.users = serde_json::from_slice(&std::fs::read(out).unwrap()).unwrap();
        moto
    }

    /// The URL of one of its keys.
    pub fn key(&self, number: usize) -> String {
        format!("aws-kms://{}", self.users["keys"][number].as_str().unwrap())
    }

    pub fn hmac_key(&self) -> String {
        format!("aws-kms://{}", self.users["hmac"].as_str().unwrap())
    }

    /// The environment of one of its users, and nothing of this machine's.
    pub fn environment(&self, command: &mut Command, user: &str) {
        for (name, value) in self.users["users"][user].as_object().unwrap() {
            command.env(name, value.as_str().unwrap());
        }
        let home = self.bench.path("home");
        std::fs::create_dir_all(&home).unwrap();
        command.env("COLDREAD_RUN_DIR", self.bench.path("run"));
        command.env("HOME", &home).env("AWS_EC2_METADATA_DISABLED", "true").env("AWS_REGION", "us-east-1");
        for name in ["XDG_CACHE_HOME", "COLDPRESS_KEY", "COLDPRESS_STORE", "AWS_PROFILE", "AWS_SESSION_TOKEN"] {
            command.env_remove(name);
        }
    }

    /// `coldpress` as `user`, in the server's directory, its store at `endpoint`.
    pub fn coldpress_via(&self, endpoint: &str, user: &str, args: &[&str]) -> Output {
        self.command(env!("CARGO_BIN_EXE_coldpress"), endpoint, user).args(args).output().unwrap()
    }

    pub fn coldpress(&self, user: &str, args: &[&str]) -> Output {
        self.coldpress_via(&self.url, user, args)
    }

    pub fn coldread(&self, user: &str, args: &[&str]) -> Output {
        self.command(env!("CARGO_BIN_EXE_coldread"), &self.url, user).args(args).output().unwrap()
    }

    /// `program` as `user`, its store at `endpoint`.
    pub fn command(&self, program: &str, endpoint: &str, user: &str) -> Command {
        let mut command = Command::new(program);
        self.environment(&mut command, user);
        command.current_dir(self.bench.dir.path());
        command.env("AWS_ENDPOINT_URL_S3", endpoint).env("AWS_ENDPOINT_URL_KMS", &self.url);
        command
    }

    /// The secret access key of a user.
    pub fn secret_of(&self, user: &str) -> String {
        self.users["users"][user]["AWS_SECRET_ACCESS_KEY"].as_str().unwrap().to_owned()
    }

    /// What a client that is not ours answers, in the server's directory: `script` gets `s3`, a boto3 client with the rights of `user`.
    pub fn boto(&self, user: &str, script: &str) -> String {
        let head = format!(
            "import boto3, botocore\ns3 = boto3.client('s3', endpoint_url='{}', region_name='us-east-1')\n\
             def code(call):\n    try:\n        call()\n        return 200\n    except botocore.exceptions.ClientError as e:\n        \
             return e.response['ResponseMetadata']['HTTPStatusCode']\n",
            self.url
        );
        let mut command = Command::new(python("python"));
        self.environment(&mut command, user);
        let output = command.args(["-c", &(head + script)]).current_dir(self.bench.dir.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub fn wait_for(port: u16) {
    let started = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(started.elapsed() < Duration::from_secs(60), "the server on port {port} does not start");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What the proxy does with a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    None,
    /// Answers so, and the server never hears of it.
    Status(u16),
    /// Answers so, and asks to wait that many seconds.
    StatusAfter(u16, u64),
    /// The connection ends before the server hears of it.
    Drop,
    /// The server does it, and the connection ends without an answer.
    LostReply,
    /// The answer's body ends early.
    ShortBody,
    /// A byte of the answer's body is another.
    WrongByte,
    /// The answer's body is longer, and its length says so.
    MoreBytes,
    /// The answer's body is shorter, and its length says so.
    FewerBytes,
    /// The server hears of it so much later.
    Slow(Duration),
}

/// A request that went through the proxy.
#[derive(Debug, Clone)]
pub struct Seen {
    /// `PUT`, …
    pub method: String,
    pub path: String,
    pub fault: Fault,
    /// 0 where none was given.
    pub status: u16,
}

type Script = dyn Fn(usize, &str, &str) -> Fault + Send + Sync;

/// Stands before a server.
pub struct Proxy {
    pub url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Proxy {
    /// Before the server at `upstream`; `script` says of the n-th request, by method and path, what becomes of it.
    pub fn before(upstream: &str, script: impl Fn(usize, &str, &str) -> Fault + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let upstream = upstream.strip_prefix("http://").unwrap().to_owned();
        let (seen, script) = (Arc::<Mutex<Vec<Seen>>>::default(), Arc::<Script>::from(Box::new(script) as Box<Script>));
        let log = Arc::clone(&seen);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (upstream, script, log) = (upstream.clone(), Arc::clone(&script), Arc::clone(&log));
                std::thread::spawn(move || {
                    let _ = pass(&client.unwrap(), &upstream, &*script, &log);
                });
            }
        });
        Self { url, seen }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

/// Answers each request as it is told, and remembers what it was asked.
pub struct Answering {
    pub host: String,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Answering {
    /// Waits for the first request of `child`, whose standard error is piped, and ends it. Returns the first line of the request, or
    /// what the child printed if it ended without one.
    pub fn first_request(&self, mut child: Child) -> String {
        let started = Instant::now();
        while self.heads().is_empty() && child.try_wait().unwrap().is_none() {
            assert!(started.elapsed() < Duration::from_secs(20), "nothing is asked");
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = child.kill();
        let output = child.wait_with_output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        self.heads().first().map_or(error, |head| head.lines().next().unwrap().to_owned())
    }

    /// `answer` makes of a request's head the status, further headers and the body.
    pub fn start(address: &str, answer: impl Fn(&str) -> (u16, String, Vec<u8>) + Send + Sync + 'static) -> Self {
        Self::with_bodies(address, move |head, _| answer(head))
    }

    /// The same, of a request's head and body.
    pub fn with_bodies(
        address: &str,
        answer: impl Fn(&str, &[u8]) -> (u16, String, Vec<u8>) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let (host, heads) = (listener.local_addr().unwrap().to_string(), Arc::<Mutex<Vec<String>>>::default());
        let (log, answer) = (Arc::clone(&heads), Arc::new(answer));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                std::thread::spawn(move || {
                    let Ok((head, body)) = message(&mut BufReader::new(&client), true) else { return };
                    log.lock().unwrap().push(head.clone());
                    let (status, headers, body) = answer(&head, &body);
                    let length = body.len();
                    let _ = write!(
                        &client,
                        "HTTP/1.1 {status} Answer\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n"
                    );
                    let _ = (&client).write_all(&body);
                    let _ = client.shutdown(Shutdown::Both);
                });
            }
        });
        Self { host, heads }
    }

    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

/// One request and its answer; the connection then ends.
fn pass(client: &TcpStream, upstream: &str, script: &Script, log: &Mutex<Vec<Seen>>) -> std::io::Result<()> {
    let (head, body) = message(&mut BufReader::new(client), true)?;
    let mut words = head.split(' ');
    let (method, path) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
    let number = {
        let mut log = log.lock().unwrap();
        log.push(Seen { method: method.clone(), path: path.clone(), fault: Fault::None, status: 0 });
        log.len() - 1
    };
    let fault = script(number, &method, &path);
    log.lock().unwrap()[number].fault = fault.clone();
    let mut to_client = client;
    match &fault {
        Fault::Status(status) | Fault::StatusAfter(status, _) => {
            let after = match &fault {
                Fault::StatusAfter(_, seconds) => format!("retry-after: {seconds}\r\n"),
                _ => String::new(),
            };
            log.lock().unwrap()[number].status = *status;
            write!(
                to_client,
                "HTTP/1.1 {status} Fault\r\n{after}etag: \"0\"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            )?;
            return client.shutdown(Shutdown::Both);
        }
        Fault::Drop => return client.shutdown(Shutdown::Both),
        Fault::Slow(time) => std::thread::sleep(*time),
        _ => {}
    }
    let mut server = TcpStream::connect(upstream)?;
    server.write_all(once(&head).as_bytes())?;
    server.write_all(&body)?;
    let (mut head, mut body) = message(&mut BufReader::new(&server), method != "HEAD")?;
    log.lock().unwrap()[number].status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    match fault {
        Fault::LostReply => return client.shutdown(Shutdown::Both),
        Fault::ShortBody => body.truncate(body.len() / 2),
        Fault::MoreBytes | Fault::FewerBytes => {
            match fault {
                Fault::MoreBytes => body.extend_from_slice(b"more"),
                _ => body.truncate(body.len() / 2),
            }
            let lines =
                head.trim_end().lines().filter(|line| !line.to_ascii_lowercase().starts_with("content-length:"));
            head = lines.map(|line| format!("{line}\r\n")).collect::<String>()
                + &format!("content-length: {}\r\n\r\n", body.len());
        }
        Fault::WrongByte => {
            let middle = body.len() / 2;
            body.iter_mut().skip(middle).take(1).for_each(|byte| *byte ^= 1);
        }
        _ => {}
    }
    to_client.write_all(once(&head).as_bytes())?;
    to_client.write_all(&body)?;
    client.shutdown(Shutdown::Both)
}

/// The head with its empty line, and the body.
fn message(from: &mut impl BufRead, with_body: bool) -> std::io::Result<(String, Vec<u8>)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if from.read_line(&mut head)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    let field = |name: &str| {
        head.lines()
            .find_map(|line| line.split_once(':').filter(|(key, _)| key.eq_ignore_ascii_case(name)))
            .map(|(_, v)| v.trim())
    };
    let mut body = Vec::new();
    if with_body {
        match field("content-length").and_then(|length| length.parse().ok()) {
            Some(length) => {
                body.resize(length, 0);
                from.read_exact(&mut body)?;
            }
            None if head.starts_with("HTTP/") && field("connection").is_some_and(|value| value == "close") => {
                from.read_to_end(&mut body)?;
            }
            None => {}
        }
    }
    Ok((head, body))
}

/// The head of a message behind which the connection ends.
fn once(head: &str) -> String {
    let lines = head.trim_end().lines().filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
    lines.map(|line| format!("{line}\r\n")).collect::<String>() + "connection: close\r\n\r\n"
}
