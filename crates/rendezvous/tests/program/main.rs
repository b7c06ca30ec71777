//! The program as its users see it: arguments, signals, logs, and the real `curl` on both sides.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails loudly"
)]
#![allow(clippy::disallowed_methods, reason = "there is no clock to pause across processes")]

mod certificates;
mod deploys;
mod errors;
mod greeting;
#[cfg(target_os = "linux")]
mod memory;

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// The timeout of every step.
const PATIENCE: Duration = Duration::from_secs(30);

fn rendezvous(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rendezvous"));
    command.arg("serve").args(arguments).stdin(Stdio::null());
    command
}

/// A child that does not outlive its test.
struct Running(Child);

impl Running {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.0.try_wait().unwrap() {
                Some(status) => return status,
                None => assert!(Instant::now() < deadline, "the process does not end"),
            }
            std::thread::yield_now();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Program {
    process: Running,
    /// The URL of `--port` without a path: `http://127.0.0.1:PORT`.
    base: String,
    /// The lines that it prints at the start.
    greeting: Vec<String>,
}

impl Program {
    fn start(arguments: &[&str]) -> Self {
        Self::start_by(rendezvous(&["--port", "0"]).args(arguments))
    }

    fn start_by(command: &mut Command) -> Self {
        let mut process = Running(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
        let lines = BufReader::new(process.0.stdout.take().unwrap()).lines();
        let mut greeting = Vec::new();
        for line in lines.map(Result::unwrap) {
            let is_last = line.starts_with("  echo hello");
            greeting.push(line);
            if is_last {
                break;
            }
        }
        let base = greeting[0].strip_prefix("Listening on ").unwrap().to_owned();
        Self { process, base, greeting }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.base.strip_prefix("http://").unwrap()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn send(&self, bytes: &str) -> TcpStream {
        let mut stream = self.connect();
        stream.write_all(bytes.as_bytes()).unwrap();
        stream
    }

    fn create(&self) -> String {
        let made = curl(&["-X", "POST", &format!("{}/stream", self.base)]).output().unwrap();
        let made: Value = serde_json::from_slice(&made.stdout).unwrap();
        format!("{}/stream/{}", self.base, made["stream"].as_str().unwrap())
    }

    /// Returns its resident memory, in KiB.
    fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.0.id())).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        resident.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Ends the program and returns what it logged.
    fn log(mut self) -> String {
        self.process.signal(Signal::TERM);
        self.process.wait();
        let mut log = String::new();
        self.process.0.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        log
    }
}

/// Waits until the status object of the stream at this URL satisfies `reached`.
fn until(stream: &str, reached: impl Fn(&Value) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = curl(&[&format!("{stream}/status")]).output().unwrap();
        let status: Value = serde_json::from_slice(&status.stdout).unwrap();
        if reached(&status) {
            return;
        }
        assert!(Instant::now() < deadline, "{status}");
    }
}

fn until_state(stream: &str, state: &str) {
    until(stream, |status| status["state"] == state);
}

/// The real `curl`, which prints only errors, and fails on error statuses.
fn curl(arguments: &[&str]) -> Command {
    let mut command = Command::new("curl");
    command.args(["-sS", "-f", "--noproxy", "*", "--max-time", "60"]).args(arguments).stdin(Stdio::null());
    command
}

fn spawn(command: &mut Command) -> Running {
    Running(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it is installed"))
}

#[test]
fn a_token_file_holds_one_line_of_enough_visible_ascii() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let mut holding = |content: &[u8]| {
        file.as_file_mut().set_len(0).unwrap();
        std::fs::write(file.path(), content).unwrap();
        file.path().to_str().unwrap().to_owned()
    };
    let no_token = "the file holds no token: it must be one line of visible ASCII";
    let too_short = "must have at least 16 that cannot be guessed: head -c 32 /dev/urandom | od -An -tx1";
    for (content, sentence) in [
        (&b""[..], no_token),
        (b" \n", no_token),
        (b"more than two words\n", no_token),
        (b"lines of\nmore than 16\n", no_token),
        (b"\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\n", no_token),
        (b"\xff", "the file cannot be read"),
        (b"0123456789\0abcdef", no_token),
        (b"abc\n", too_short),
        (b"  fifteen-bytes-o\n", too_short),
    ] {
        let path = holding(content);
        for flag in ["--create-token-file", "--admin-token-file"] {
            let (code, output) = refused(&mut rendezvous(&[flag, &path]));
            assert_eq!(code, Some(2), "{output}");
            assert!(output.contains(&path) && output.contains(flag) && output.contains(sentence), "{output}");
        }
    }
    let path = holding(b"\t s3cret-of-makers\r\n\n");
    let program = Program::start(&["--create-token-file", &path, "--admin-token-file", &path]);
    let stream = format!("{}/stream", program.base);
    for method in ["POST", "GET"] {
        let asks = |token: &str| curl(&["-X", method, &stream, "--oauth2-bearer", token]).output().unwrap();
        assert!(asks("s3cret-of-makers").status.success(), "{method}");
        assert_eq!(asks("s3cret-of-maker").status.code(), Some(22), "{method}");
    }
}

#[test]
fn flags_without_a_value_and_repeated_flags_are_also_variables() {
    let responses = |command: &mut Command| {
        let mut process = Running(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
        let line = BufReader::new(process.0.stdout.take().unwrap()).lines().next().unwrap().unwrap();
        let port = line.rsplit(':').next().unwrap().to_owned();
        let response = |origin: &str| {
            let url = format!("http://127.0.0.1:{port}/stream");
            let output = curl(&["-i", "-H", &format!("Origin: {origin}"), &url]).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        [response("https://a.example"), response("http://b.example:1")]
    };
    let arguments =
        ["--open-list", "--cors-origin", "https://a.example", "--cors-origin", "http://b.example:1"];
    let open = ["--host", "0.0.0.0", "--port", "0"];
    let by_variables = &mut rendezvous(&open);
    by_variables
        .env("RENDEZVOUS_OPEN_LIST", "1")
        .env("RENDEZVOUS_CORS_ORIGIN", "https://a.example,http://b.example:1");
    for both in [responses(rendezvous(&open).args(arguments)), responses(by_variables)] {
        for (response, origin) in both.iter().zip(["https://a.example", "http://b.example:1"]) {
            assert!(response.contains(&format!("access-control-allow-origin: {origin}\r\n")), "{response}");
            assert!(response.ends_with("\r\n\r\n[]"), "{response}");
        }
    }
}

#[test]
fn allowed_names_are_accepted_on_loopback() {
    let statuses = |command: &mut Command| {
        let mut process = Running(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
        let line = BufReader::new(process.0.stdout.take().unwrap()).lines().next().unwrap().unwrap();
        let url = line.split(' ').next_back().unwrap().to_owned() + "/stream";
        ["relay.example", "10.0.0.5:1", "other.example"].map(|host| {
            let mut command =
                curl(&["-w", "%{http_code}", "-o", "/dev/null", "-H", &format!("Host: {host}"), &url]);
            String::from_utf8(command.output().unwrap().stdout).unwrap()
        })
    };
    let by_flags =
        &mut rendezvous(&["--port", "0", "--allow-host", "relay.example", "--allow-host", "10.0.0.5"]);
    let by_variable = &mut rendezvous(&["--port", "0"]);
    by_variable.env("RENDEZVOUS_ALLOW_HOST", "relay.example,10.0.0.5");
    for command in [by_flags, by_variable] {
        assert_eq!(statuses(command), ["200", "200", "403"]);
    }
}

fn refused(command: &mut Command) -> (Option<i32>, String) {
    let mut process = spawn(command);
    let code = process.wait().code();
    let mut output = String::new();
    process.0.stderr.take().unwrap().read_to_string(&mut output).unwrap();
    (code, output)
}

#[test]
fn a_bad_value_is_refused_with_a_description_of_valid_ones() {
    for (flag, value, sentence) in [
        ("--ttl", "soon", "\"soon\" is not a duration: give seconds such as 60 or 2.5"),
        ("--ttl", "0", "from 1ms to 365d"),
        ("--idle-timeout", "-1", "is not a duration"),
        ("--head-timeout", "1e9", "is not a duration"),
        ("--drain-timeout", "1 week", "is not a duration"),
        ("--peer-timeout", "2s", "\"2s\" is not a timeout for clients: give a period from 3s to 12h"),
        ("--peer-timeout", "1d", "from 3s to 12h"),
        (
            "--max-head-bytes",
            "4095",
            "\"4095\" is not a limit on request heads: give a number of bytes from 4k to 1m",
        ),
        ("--port", "65536", "65536 is not in 0..=65535"),
        ("--max-streams", "0", "give a whole number from 1 to"),
        ("--max-connections", "many", "give a whole number from 1 to"),
        ("--max-connections-per-client", "0", "give a whole number from 1 to"),
        ("--max-streams-per-client", "-5", "give a whole number from 1 to"),
        ("--max-creations-per-minute", "1k", "give a whole number from 1 to"),
        (
            "--trusted-proxy",
            "10.0.0.0/8,localhost",
            "\"localhost\" is not a network: give one such as 10.0.0.0/8",
        ),
        (
            "--max-stream-bytes",
            "10mb",
            "\"10mb\" is not a number of bytes: give 1 or more, such as 65536, 64k",
        ),
        ("--max-stream-rate", "0", "is not a number of bytes"),
        ("--min-upload-rate", "fast", "is not a number of bytes"),
        ("--threads", "0", "give a whole number from 1 to 1024"),
        ("--admin-listen", "9998", "give an address and a port, such as 127.0.0.1:9998"),
        (
            "--cors-origin",
            "https://a.example,b.example",
            "\"b.example\" is not an origin: give a scheme, a host",
        ),
        ("--allow-host", "a.example,http://b", "\"http://b\" is not a host: give a name or an address"),
        ("--max-metadata-bytes", "64mb", "is not a number of bytes"),
        ("--create-token-file", "no/such/file", "'no/such/file'"),
        ("--admin-token-file", "no/such/file", "the file cannot be read"),
        ("--data-path", "fast", "[possible values: splice, copy]"),
        ("--log", "access=loud", "give a level, or levels for targets: debug, or warn,access=info"),
        ("--log-level", "loud", "[possible values: error, warn, info, debug, trace]"),
        ("--log-format", "xml", "[possible values: text, json]"),
    ] {
        let variable = format!("RENDEZVOUS_{}", flag[2..].to_uppercase().replace('-', "_"));
        for mut command in [rendezvous(&[&format!("{flag}={value}")]), {
            let mut command = rendezvous(&[]);
            command.env(variable, value);
            command
        }] {
            let (code, output) = refused(&mut command);
            assert_eq!(code, Some(2), "{flag} {value}: {output}");
            assert!(output.contains(sentence) && output.contains(flag), "{flag} {value}: {output}");
        }
    }
}

#[test]
fn a_variable_of_no_flag_is_refused_with_the_most_similar_name() {
    let by = |variables: &[(&str, &str)]| {
        let mut command = rendezvous(&["--port", "0"]);
        command.envs(variables.iter().copied());
        command
    };
    for (variables, sentence) in [
        (&[("RENDEZVOUS_CREATE_TOKENFILE", "/etc/token")][..], "did you mean RENDEZVOUS_CREATE_TOKEN_FILE?"),
        (&[("RENDEZVOUS_ADMIN_TOKEN", "0123456789abcdef")], "did you mean RENDEZVOUS_ADMIN_TOKEN_FILE?"),
        (&[("RENDEZVOUS_OPENLIST", ""), ("RENDEZVOUS_TTL", "soon")], "did you mean RENDEZVOUS_OPEN_LIST?"),
        (
            // Variables that Kubernetes sets for a Service named rendezvous, whose RENDEZVOUS_PORT is not a port.
            &[
                ("RENDEZVOUS_PORT", "tcp://10.96.0.7:80"),
                ("RENDEZVOUS_PORT_80_TCP_PROTO", "tcp"),
                ("RENDEZVOUS_SERVICE_HOST", "10.96.0.7"),
            ],
            "enableServiceLinks: false",
        ),
    ] {
        let (code, output) = refused(&mut by(variables));
        assert_eq!(code, Some(2), "{output}");
        assert!(output.starts_with("error: ") && output.contains(sentence), "{output}");
        assert!(
            !variables.iter().any(|(_, value)| value.starts_with("0123") && output.contains(value)),
            "{output}"
        );
        // Help is printed nevertheless.
        for arguments in [["serve", "--help"].as_slice(), &["--version"], &["help", "serve"]] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_rendezvous"));
            let output = command.args(arguments).envs(variables.iter().copied()).output().unwrap();
            assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        }
    }
    let program = Program::start_by(&mut by(&[("RENDEZVOUS", "x"), ("RENDEZVOUS_TTL", "5s")]));
    program.connect();
}

#[test]
fn a_signal_drains_the_server_and_a_second_one_ends_it_at_once() {
    for signal in [Signal::INT, Signal::TERM] {
        for again in [false, true] {
            let mut program = Program::start(&[]);
            let stream = program.create();
            let path = stream.strip_prefix(&program.base).unwrap();
            let mut destination = program.send(&format!("GET {path} HTTP/1.0\r\n\r\n"));
            until_state(&stream, "DST_CONNECTED");
            let mut source = program.send(&format!(
                "PUT {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
            ));
            until(&stream, |status| status["bytes_transferred"] == 5);
            program.process.signal(signal);
            let ready = format!("{}/readyz", program.base);
            while curl(&[&ready]).output().unwrap().status.success() {}

            let mut download = Vec::new();
            if again {
                program.process.signal(signal);
                let end = destination.read_to_end(&mut download);
                assert_eq!(
                    end.unwrap_err().kind(),
                    ErrorKind::ConnectionReset,
                    "a cut download does not look whole"
                );
                assert_eq!(program.process.wait().code(), Some(1));
            } else {
                source.write_all(b"0\r\n\r\n").unwrap();
                destination.read_to_end(&mut download).unwrap();
                assert!(download.ends_with(b"hello"));
                let mut upload = String::new();
                source.read_to_string(&mut upload).unwrap();
                assert!(upload.starts_with("HTTP/1.1 200 "), "{upload}");
                assert_eq!(program.process.wait().code(), Some(0));
            }
        }
    }
}

#[test]
fn a_server_that_is_killed_leaves_no_download_that_looks_whole() {
    let mut program = Program::start(&[]);
    let stream = program.create();
    let mut download = spawn(&mut curl(&["-0", &stream]));
    until_state(&stream, "DST_CONNECTED");
    let path = stream.strip_prefix(&program.base).unwrap();
    let _source = program.send(&format!(
        "PUT {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
    ));
    until(&stream, |status| status["bytes_transferred"] == 5);
    program.process.signal(Signal::KILL);
    program.process.wait();
    assert_eq!(download.wait().code(), Some(56), "curl: failure in receiving network data");
}

#[test]
fn a_long_list_is_logged_at_its_end_with_its_bytes() {
    let program = Program::start(&["--log", "off,access=info", "--drain-timeout", "1ms"]);
    let all = format!("{}/stream", program.base);
    let set = format!(r#"{{"download_headers":{{"X-Long":"{}"}}}}"#, "x".repeat(4000));
    let created = curl(&["-o", "/dev/null", "-d", &set, &format!("{all}?n=[1-20]")]).status();
    assert!(created.unwrap().success());
    let lists = ["--http1.1", "--http2-prior-knowledge"]
        .map(|version| curl(&[version, &all]).output().unwrap().stdout.len());
    assert!(lists.iter().all(|list| *list > 64 * 1024), "one part is not enough: {lists:?}");
    let log = program.log();
    for (line, list) in log.lines().filter(|line| line.contains("GET /stream ")).zip(lists) {
        assert!(line.contains(&format!("outcome=\"answered\" bytes={list} ")), "{line}");
    }
    assert_eq!(log.matches("GET /stream ").count(), lists.len());
}

#[test]
fn the_log_has_a_line_for_each_request_and_at_debug_for_each_event_and_no_whole_id() {
    let requests = [
        ("POST /stream", 201, "answered"),
        ("GET /stream/:id", 200, "finished"),
        ("PUT /stream/:id", 200, "finished"),
    ];
    let content = std::fs::read("Cargo.toml").unwrap().len();
    for format in ["text", "json"] {
        let program = Program::start(&["--log-format", format, "--log-level", "debug"]);
        let stream = program.create();
        let mut download = spawn(&mut curl(&[&stream]));
        until_state(&stream, "DST_CONNECTED");
        assert!(curl(&["-T", "Cargo.toml", &stream]).status().unwrap().success());
        assert!(download.wait().success());
        let id = stream.rsplit('/').next().unwrap().to_owned();
        let log = program.log();
        assert!(!log.contains(&id) && !log.contains(&id[8..]), "{log}");
        let is_status = |line: &str| line.contains("/status");
        let of_stream: Vec<_> =
            log.lines().filter(|line| line.contains(&id[..8]) && !is_status(line)).collect();
        let events = ["created", "destination waits", "streaming", "finished"];
        assert_eq!(of_stream.len(), events.len() + requests.len(), "{log}");
        for event in events {
            assert!(
                of_stream.iter().any(|line| line.contains("DEBUG") && line.contains(event)),
                "{event}: {log}"
            );
        }
        for (request, status, outcome) in requests {
            let mut lines = of_stream.iter().filter(|line| line.contains("INFO") && line.contains(request));
            let (line, others) = (lines.next().unwrap(), lines.count());
            assert_eq!(others, 0, "{log}");
            let mut fields = vec![
                format!("status={status}"),
                format!("outcome=\"{outcome}\""),
                "duration_us=".into(),
                "client=127.0.0.1".into(),
            ];
            if outcome == "finished" {
                fields.extend([format!("bytes={content}"), "wait_us=".into()]);
            }
            for field in fields {
                let (key, value) = field.split_once('=').unwrap();
                let as_json = format!("\"{key}\":{value}");
                let is_there = if format == "text" {
                    line.contains(&field)
                } else {
                    line.replace("\"127", "127").contains(&as_json)
                };
                assert!(is_there, "{field}: {line}");
            }
        }
        assert!(
            format == "text" || log.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()),
            "{log}"
        );
    }
}

#[test]
fn the_log_has_the_client_that_a_trusted_proxy_names() {
    for data_path in ["splice", "copy"] {
        let program = Program::start(&["--trusted-proxy", "127.0.0.1/32", "--data-path", data_path]);
        let ask = |arguments: &[&str], client: &str| {
            spawn(curl(arguments).args(["-H", &format!("X-Forwarded-For: {client}")]))
        };
        assert!(ask(&["-X", "POST", &format!("{}/stream", program.base)], "192.0.2.1").wait().success());
        let stream = program.create();
        let mut download = ask(&[&stream], "192.0.2.2");
        assert!(ask(&["-T", "Cargo.toml", &stream], "192.0.2.3").wait().success());
        assert!(download.wait().success());
        let log = program.log();
        for (request, client) in [("POST /stream", 1), ("GET /stream/:id", 2), ("PUT /stream/:id", 3)] {
            let field = format!("client=192.0.2.{client} ");
            assert!(
                log.lines().any(|line| line.contains(request) && line.contains(&field)),
                "{field}: {log}"
            );
        }
    }
}

#[test]
fn the_log_begins_with_the_settings_in_force_and_warnings_about_them() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"s3cret-of-the-makers").unwrap();
    let token = file.path().to_str().unwrap();
    let (tls, create) = ("--tls-cert", "--create-token-file");
    for (flags, fields, warnings) in [
        (&[][..], &["creation=\"everybody\"", "list=\"this machine\"", "max_streams=100000"][..], &[][..]),
        (
            &["--host", "0.0.0.0"],
            &["clients=\"http://0.0.0.0:", "list=\"nobody\"", "tls=false"],
            &[tls, create],
        ),
        (
            &["--host", "0.0.0.0", "--create-token-file", token, "--admin-token-file", token],
            &["creation=\"token\"", "list=\"token\"", "metrics=\"token\""],
            &[tls],
        ),
        (
            &["--host", "0.0.0.0", "--trusted-proxy", "10.0.0.0/8", "--admin-listen", "0.0.0.0:0"],
            &[
                "operators=\"http://0.0.0.0:",
                "list=\"nobody\"",
                "metrics=\"everybody\"",
                "trusted_proxies=true",
            ],
            &[create],
        ),
        (&["--max-stream-bytes", "10m", "--ttl", "5m"], &["max_stream_bytes=10485760", "ttl=5m"], &[]),
    ] {
        let log =
            Program::start_by(rendezvous(&["--port", "0", "--max-connections", "100"]).args(flags)).log();
        let first = log.lines().next().unwrap();
        assert!(first.contains("INFO listening ") && first.contains("max_connections=100 "), "{log}");
        for field in fields {
            assert!(first.contains(field), "{flags:?}: {field}: {log}");
        }
        let warned: Vec<_> = log.lines().filter(|line| line.contains("WARN")).collect();
        assert_eq!(warned.len(), warnings.len(), "{flags:?}: {log}");
        for (line, flag) in warned.iter().zip(warnings) {
            assert!(line.contains(flag), "{flags:?}: {log}");
        }
        assert!(!log.contains("s3cret"), "{log}");
    }
}

#[test]
fn a_filter_selects_the_events_to_log() {
    for (filter, requests, drains) in [
        ("info", true, true),
        ("warn", false, false),
        ("warn,access=info", true, false),
        ("info,access=off", false, true),
        ("off", false, false),
    ] {
        let program = Program::start_by(rendezvous(&["--port", "0"]).env("RENDEZVOUS_LOG", filter));
        assert!(curl(&[&format!("{}/ping", program.base)]).output().unwrap().status.success());
        let log = program.log();
        assert_eq!(
            (log.contains("GET /ping"), log.contains("draining")),
            (requests, drains),
            "{filter}: {log}"
        );
    }
}

#[test]
fn the_log_has_no_token_and_no_whole_id_at_any_level() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"s3cret-of-the-makers").unwrap();
    let path = file.path().to_str().unwrap();
    for format in ["text", "json"] {
        let program =
            Program::start(&["--log-format", format, "--log-level", "trace", "--create-token-file", path]);
        let streams = format!("{}/stream", program.base);
        let mut secrets = vec!["s3cret-of-the-makers".to_owned()];
        for by_header in [true, false] {
            let ask = |url: &str, token: &str| {
                if by_header {
                    curl(&[url, "--oauth2-bearer", token])
                } else {
                    curl(&[&format!("{url}?token={token}")])
                }
            };
            let mut post = ask(&streams, "s3cret-of-the-makers");
            let made = post.args(["-d", r#"{"access":"split"}"#]).output().unwrap();
            let made: Value = serde_json::from_slice(&made.stdout).unwrap();
            let text = |name: &str| made[name].as_str().unwrap().to_owned();
            let (id, up, down) = (text("stream"), text("upload_token"), text("download_token"));
            let stream = format!("{streams}/{id}");
            for wrong in [&up, "s3cret-of-nobody"] {
                assert_eq!(ask(&stream, wrong).output().unwrap().status.code(), Some(22));
            }
            let mut download = spawn(&mut ask(&stream, &down));
            assert!(ask(&stream, &up).args(["-T", "Cargo.toml"]).status().unwrap().success());
            assert!(download.wait().success());
            secrets.extend([id[8..].to_owned(), up, down, "s3cret-of-nobody".into()]);
        }
        let log = program.log();
        assert!(log.contains("finished"), "{log}");
        for secret in &secrets {
            assert!(!log.contains(secret), "{secret}: {log}");
        }
    }
}

/// Creates a file of 8 MiB that cannot be compressed and has no repetitions.
fn file() -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let mut state = 1_u64;
    let mut noise = Vec::with_capacity(8 << 20);
    while noise.len() < 8 << 20 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        noise.extend((state >> 16).to_be_bytes());
    }
    file.write_all(&noise).unwrap();
    file
}

#[test]
fn curl_transfers_a_file_in_every_way() {
    let program = Program::start(&[]);
    let file = file();
    let path = file.path().to_str().unwrap();
    let content = std::fs::read(path).unwrap();
    for from_stdin in [false, true] {
        for get_first in [false, true] {
            for version in ["--http1.1", "-0"] {
                let stream = program.create();
                let upload = || {
                    let mut upload = curl(&["-T", if from_stdin { "-" } else { path }, &stream]);
                    spawn(upload.stdin(std::fs::File::open(path).unwrap()))
                };
                let download = || spawn(&mut curl(&[version, &stream]));
                let (mut upload, mut download) = if get_first {
                    let download = download();
                    until_state(&stream, "DST_CONNECTED");
                    (upload(), download)
                } else {
                    let upload = upload();
                    until_state(&stream, "SRC_CONNECTED");
                    (upload, download())
                };
                let mut received = Vec::new();
                download.0.stdout.take().unwrap().read_to_end(&mut received).unwrap();
                assert!(received == content, "stdin {from_stdin}, GET first {get_first}, {version}");
                assert!(download.wait().success() && upload.wait().success());
            }
        }
    }
}

#[test]
fn curl_uses_one_connection_for_consecutive_streams() {
    let program = Program::start(&[]);
    let file = file();
    let path = file.path().to_str().unwrap();
    let streams = [program.create(), program.create(), program.create()];
    let connects = ["-w", "%{http_code} %{num_connects}\n"];
    let downloads = streams.iter().flat_map(|stream| ["-o", "/dev/null", stream]);
    let download = spawn(curl(&connects).args(downloads));
    let uploads = streams.iter().flat_map(|stream| ["-T", path, stream]);
    let upload = spawn(curl(&connects).args(uploads));
    for mut side in [upload, download] {
        assert!(side.wait().success());
        let mut output = String::new();
        side.0.stdout.take().unwrap().read_to_string(&mut output).unwrap();
        assert_eq!(output, "200 1\n200 0\n200 0\n");
    }
}

#[test]
fn curl_sees_a_cut_on_either_side() {
    let program = Program::start(&[]);
    let file = file();
    let path = file.path().to_str().unwrap();
    for from_stdin in [false, true] {
        for kill_upload in [false, true] {
            let stream = program.create();
            let mut download = spawn(&mut curl(&["--limit-rate", "2M", "-o", "/dev/null", &stream]));
            until_state(&stream, "DST_CONNECTED");
            let mut upload =
                curl(&["-T", if from_stdin { "-" } else { path }, "-w", "%{http_code}", &stream]);
            let mut upload =
                spawn(upload.args(["--limit-rate", "2M"]).stdin(std::fs::File::open(path).unwrap()));
            until(&stream, |status| status["bytes_transferred"].as_u64().unwrap() > 0);
            if kill_upload {
                upload.signal(Signal::KILL);
                assert_eq!(download.wait().code(), Some(56), "curl: the connection was reset");
                until_state(&stream, "SRC_DISCONNECTED");
            } else {
                download.signal(Signal::KILL);
                assert_eq!(upload.wait().code(), Some(22), "curl: the status is an error");
                let mut output = String::new();
                upload.0.stdout.take().unwrap().read_to_string(&mut output).unwrap();
                assert!(output.ends_with("502"), "{output}");
                until_state(&stream, "DST_DISCONNECTED");
            }
        }
    }
}

/// The server when descriptors run out.
#[cfg(target_os = "linux")]
mod descriptors {
    use rustix::process::{Resource, Rlimit, getrlimit, prlimit, setrlimit};

    use super::*;

    /// Returns content without a short period, so that a shifted byte is noticed.
    fn content() -> Vec<u8> {
        let mut content = Vec::new();
        file().reopen().unwrap().read_to_end(&mut content).unwrap();
        content
    }

    /// Reads a response with a Content-Length from a connection that may stay open.
    fn answer(stream: &mut TcpStream) -> std::io::Result<(u16, Vec<u8>)> {
        let mut reader = BufReader::new(stream);
        let (mut status, mut length) = (0, 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            if let Some(rest) = line.strip_prefix("HTTP/1.1 ") {
                status = rest[..3].parse().unwrap();
            } else if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.trim().parse().unwrap();
            } else if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        Ok((status, body))
    }

    const PING: &str = "GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n";

    fn head(method: &str, stream: &str, fields: &str) -> String {
        let path = stream.splitn(4, '/').nth(3).unwrap();
        format!("{method} /{path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n")
    }

    /// Returns the CPU time that the program has used.
    fn cpu_time(program: &Program) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", program.process.0.id())).unwrap();
        let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        let ticks = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
    }

    #[test]
    fn more_connections_than_descriptors_are_refused_and_harm_no_stream() {
        let serve = "ulimit -n 256; exec \"$0\" serve --port 0 --log-level warn";
        let program =
            Program::start_by(Command::new("sh").args(["-c", serve, env!("CARGO_BIN_EXE_rendezvous")]));
        // This process needs a descriptor for each connection, too.
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
        let (stream, content) = (program.create(), content());
        let mut destination = program.send(&head("GET", &stream, ""));
        let mut source =
            program.send(&head("PUT", &stream, &format!("Content-Length: {}\r\n", content.len())));
        let (half, other_half) = content.split_at(content.len() / 2);
        let received = std::thread::spawn(move || answer(&mut destination).unwrap());
        source.write_all(half).unwrap();

        let (began, busy) = (Instant::now(), cpu_time(&program));
        let mut crowd: Vec<_> = (0..1000).map(|_| program.connect()).collect();
        let (mut served, mut refused, mut closed) = (0, 0, 0);
        for client in &mut crowd {
            match client.write_all(PING.as_bytes()).and_then(|()| answer(client)) {
                Ok((200, _)) => served += 1,
                Ok((503, _)) => refused += 1,
                Ok(other) => panic!("{other:?}"),
                Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("a connection hangs"),
                Err(_) => closed += 1,
            }
        }
        assert!(served > 100 && served < 256 && refused > 0 && closed > 0, "{served} {refused} {closed}");
        drop(crowd);
        let spent = cpu_time(&program).saturating_sub(busy);
        assert!(spent < began.elapsed() / 2 + Duration::from_secs(1), "{spent:?}");

        source.write_all(other_half).unwrap();
        assert!(received.join().unwrap() == (200, content), "the bytes differ");
        assert_eq!(answer(&mut source).unwrap().0, 200);
        let deadline = Instant::now() + PATIENCE;
        while !answer(&mut program.send(PING)).is_ok_and(|(status, _)| status == 200) {
            assert!(Instant::now() < deadline, "it does not serve again");
        }
        let log = program.log();
        assert!(
            log.contains("the limit on connections is 176 instead of 210000") && log.contains("ulimit -n"),
            "{log}"
        );
    }

    #[test]
    fn a_server_without_descriptors_for_clients_answers_every_probe_of_its_operators() {
        let serve = "ulimit -n 256; exec \"$0\" serve --port 0 --log-level warn \"$@\"";
        let arguments = ["-c", serve, env!("CARGO_BIN_EXE_rendezvous"), "--admin-listen", "127.0.0.1:0"];
        let program = Program::start_by(Command::new("sh").args(arguments));
        let admin = program.greeting[1].strip_prefix("Listening for operators on http://").unwrap();
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();

        let mut crowd: Vec<_> = (0..1000).map(|_| program.send(PING)).collect();
        let is_served = |client: &mut TcpStream| answer(client).is_ok_and(|(status, _)| status == 200);
        let served = crowd.iter_mut().filter_map(|client| is_served(client).then_some(client)).count();
        assert!((100..256).contains(&served), "{served}");
        // Probes that close their connection at once, or never, must not block the next one.
        for stay in [false, true] {
            let mut probes = Vec::new();
            for number in 0..100 {
                for path in ["/healthz", "/readyz", "/metrics"] {
                    let mut probe = TcpStream::connect(admin).unwrap();
                    // Shorter than the time after which an idle connection is closed.
                    probe.set_read_timeout(Some(PATIENCE / 6)).unwrap();
                    probe
                        .write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())
                        .unwrap();
                    assert_eq!(answer(&mut probe).unwrap().0, 200, "{path}, {number}, stay: {stay}");
                    probes.extend(stay.then_some(probe));
                }
            }
        }
        drop(crowd);
        let log = program.log();
        assert!(log.contains("the limit on connections is 160 instead of"), "{log}");
        assert!(!log.contains("cannot accept a connection"), "{log}");
    }

    #[test]
    fn without_free_descriptors_streams_continue_and_later_connections_are_served() {
        let program = Program::start(&["--log-level", "warn", "--ttl", "3s"]);
        let (stream, content) = (program.create(), content());
        // No other side connects to this stream. Its expiry shows that there was time for a busy loop.
        let mut alone = program.send(&head("GET", &program.create(), ""));
        let mut destination = program.send(PING);
        let mut source = program.send(PING);
        assert_eq!((answer(&mut destination).unwrap().0, answer(&mut source).unwrap().0), (200, 200));
        let pid = Pid::from_child(&program.process.0);
        let none = Rlimit { current: Some(1), ..getrlimit(Resource::Nofile) };
        let limit = prlimit(Some(pid), Resource::Nofile, none).unwrap();

        // The server can neither accept nor refuse these.
        let mut waiting: Vec<_> = (0..100).map(|_| program.send(PING)).collect();
        let busy = cpu_time(&program);
        // No pipe can be opened, so the body is copied.
        destination.write_all(head("GET", &stream, "").as_bytes()).unwrap();
        source
            .write_all(head("PUT", &stream, &format!("Content-Length: {}\r\n", content.len())).as_bytes())
            .unwrap();
        let received = std::thread::spawn(move || answer(&mut destination).unwrap());
        source.write_all(&content).unwrap();
        assert!(received.join().unwrap() == (200, content), "the bytes differ");
        assert_eq!(answer(&mut source).unwrap().0, 200);
        assert_eq!(answer(&mut alone).unwrap().0, 504);
        let spent = cpu_time(&program).saturating_sub(busy);
        assert!(spent < Duration::from_millis(700), "{spent:?}");

        prlimit(Some(pid), Resource::Nofile, limit).unwrap();
        for client in &mut waiting {
            assert_eq!(answer(client).unwrap().0, 200);
        }
        assert!(program.log().contains("cannot accept a connection"));
    }
}
