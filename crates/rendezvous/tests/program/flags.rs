//! Flags and variables: which are accepted, and which are refused with a clear error.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use crate::{Program, Running, curl, rendezvous, spawn};

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

pub(crate) fn refused(command: &mut Command) -> (Option<i32>, String) {
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
        ("--public-url", "relay.example", "\"relay.example\" is not a public URL: give http:// or https://"),
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
