//! `send` and `recv` as their users see them: what arrives, what is printed, and the exit codes.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::{Program, Running, curl, spawn};

/// The program in a folder of its own, without a configuration.
fn client(folder: &TempDir, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rendezvous"));
    command.args(arguments).current_dir(folder.path()).stdin(Stdio::null());
    command.env("XDG_CONFIG_HOME", folder.path()).env("NO_PROXY", "*");
    command
}

/// A sender that has printed its link.
struct Sender {
    process: Running,
    link: String,
}

impl Sender {
    fn start(command: &mut Command) -> Self {
        let mut process = spawn(command);
        let (mut link, mut byte) = (String::new(), [0]);
        // Byte by byte, so that nothing behind the line is lost.
        let out = process.0.stdout.as_mut().unwrap();
        while out.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
            link.push(char::from(byte[0]));
        }
        Self { process, link }
    }

    /// Sends these paths of the folder.
    fn of(program: &Program, folder: &TempDir, arguments: &[&str]) -> Self {
        Self::start(client(folder, &["send", "--to", &program.base]).args(arguments))
    }

    fn code(&mut self) -> Option<i32> {
        self.process.wait().code()
    }
}

/// Runs `recv` to its end. Returns its exit code and both outputs.
fn receive(folder: &TempDir, arguments: &[&str]) -> (Option<i32>, Vec<u8>, String) {
    let output = client(folder, &["recv"]).args(arguments).output().unwrap();
    (output.status.code(), output.stdout, String::from_utf8(output.stderr).unwrap())
}

fn folders() -> (TempDir, TempDir) {
    (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap())
}

#[test]
fn files_arrive_with_their_content_time_and_mode_whatever_their_name() {
    let program = Program::start(&[]);
    let (from, to) = folders();
    let time = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    for (name, content) in [
        ("empty", vec![]),
        ("a b 'c\" ü 日本", vec![7; 100_000]),
        ("large", (0..=250).cycle().take(3_000_000).collect()),
    ] {
        let path = from.path().join(name);
        fs::write(&path, &content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        let mut sender = Sender::of(&program, &from, &[name]);
        let (code, out, error) = receive(&to, &[&sender.link]);
        assert_eq!((code, sender.code()), (Some(0), Some(0)), "{error}");
        assert_eq!(String::from_utf8(out).unwrap().trim_end(), name, "the path is printed");
        assert!(error.contains("received and verified"), "{error}");
        let received = to.path().join(name);
        assert!(fs::read(&received).unwrap() == content, "{name}");
        let metadata = fs::metadata(&received).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o640);
        assert_eq!(metadata.modified().unwrap(), time);
    }
    let left: Vec<_> = fs::read_dir(to.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "no .part and no state is left: {left:?}");
}

#[test]
fn a_directory_arrives_as_a_directory_and_a_pipe_through_a_pipe() {
    let program = Program::start(&[]);
    let (from, to) = folders();
    fs::create_dir_all(from.path().join("tree/empty")).unwrap();
    fs::write(from.path().join("tree/a"), "one").unwrap();
    let mut sender = Sender::of(&program, &from, &["tree"]);
    assert_eq!(receive(&to, &[&sender.link]).0, Some(0));
    assert_eq!(sender.code(), Some(0));
    assert_eq!(fs::read(to.path().join("tree/a")).unwrap(), b"one");
    assert!(to.path().join("tree/empty").is_dir());

    let mut sender = client(&from, &["send", "-", "--to", &program.base]);
    let mut sender = Sender::start(sender.stdin(Stdio::piped()));
    sender.process.0.stdin.take().unwrap().write_all(b"through\n\x1b[2Jpipes").unwrap();
    let (code, out, _) = receive(&to, &[&sender.link, "-o", "-"]);
    assert_eq!((code, out.as_slice()), (Some(0), &b"through\n\x1b[2Jpipes"[..]));
    assert_eq!(sender.code(), Some(3), "handed on, not stored");
}

#[test]
fn the_link_may_come_from_standard_input_or_a_variable() {
    let program = Program::start(&[]);
    let (from, to) = folders();
    fs::write(from.path().join("file"), "content").unwrap();
    for way in ["line", "minus", "variable"] {
        let mut sender = Sender::of(&program, &from, &["file", "--quiet"]);
        let mut command = client(&to, &["recv", "-q", "--force"]);
        match way {
            "minus" => drop(command.arg("-").stdin(Stdio::piped())),
            "variable" => drop(command.env("RENDEZVOUS_LINK", &sender.link)),
            _ => drop(command.stdin(Stdio::piped())),
        }
        let mut receiver = spawn(&mut command);
        // The pipe stays open: only a line is read.
        let mut input = receiver.0.stdin.take();
        if let Some(input) = &mut input {
            writeln!(input, "{}", sender.link).unwrap();
        }
        assert_eq!((receiver.wait().code(), sender.code()), (Some(0), Some(0)), "{way}");
        let mut error = String::new();
        receiver.0.stderr.take().unwrap().read_to_string(&mut error).unwrap();
        assert_eq!(error, "", "--quiet");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn the_link_is_not_in_the_list_of_processes() {
    let program = Program::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let link = format!("{}/r#000G40R40M30E209185GR38E1W", program.base);
    let mut receiver = spawn(&mut client(&folder, &["recv", &link, "--json"]));
    let arguments = || fs::read_to_string(format!("/proc/{}/cmdline", receiver.0.id())).unwrap();
    let deadline = std::time::Instant::now() + crate::PATIENCE;
    // While the kernel replaces the program, the arguments are empty.
    while !arguments().ends_with("recv\0--json\0") {
        assert!(std::time::Instant::now() < deadline, "{}", arguments());
    }
    // Not SIGINT: who runs the tests in the background of a shell has it ignored, until the program listens for it.
    receiver.signal(Signal::TERM);
    let status = receiver.wait();
    let mut out = String::new();
    receiver.0.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    // Before it listens for signals, one ends it like any program.
    assert!(status.code() == Some(130) || (status.code().is_none() && out.is_empty()), "{status} {out}");
}

#[test]
fn what_exists_is_kept_unless_the_receiver_says_otherwise() {
    let program = Program::start(&[]);
    let (from, to) = folders();
    fs::write(from.path().join("file"), "new").unwrap();
    fs::write(to.path().join("file"), "old").unwrap();
    let read = |name: &str| fs::read_to_string(to.path().join(name)).unwrap();

    let mut sender = Sender::of(&program, &from, &["file"]);
    let (code, _, error) = receive(&to, &[&sender.link]);
    assert_eq!((code, sender.code()), (Some(9), Some(9)), "{error}");
    assert!(error.contains("--force") && error.contains("--rename"), "{error}");
    assert_eq!(read("file"), "old");

    let mut sender = Sender::of(&program, &from, &["file"]);
    let (code, out, error) = receive(&to, &[&sender.link, "--rename"]);
    assert_eq!((code, sender.code()), (Some(0), Some(0)), "{error}");
    assert_eq!((read("file").as_str(), read("file (1)").as_str()), ("old", "new"));
    assert_eq!(out, b"file (1)\n");

    let mut sender = Sender::of(&program, &from, &["file"]);
    assert_eq!((receive(&to, &[&sender.link, "--force"]).0, sender.code()), (Some(0), Some(0)));
    assert_eq!(read("file"), "new");
}

#[test]
fn json_has_a_line_for_each_event_and_ends_with_the_outcome() {
    let program = Program::start(&[]);
    let (from, to) = folders();
    fs::write(from.path().join("file"), "content").unwrap();
    let mut sender = spawn(&mut client(&from, &["send", "file", "--json", "--to", &program.base]));
    let mut lines = BufReader::new(sender.0.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    let described = next();
    assert_eq!(
        (&described["event"], &described["name"], &described["size"]),
        (&"description".into(), &"file".into(), &7.into())
    );
    let link = next();
    assert_eq!(link["event"], "link");
    let (code, out, _) = receive(&to, &[link["link"].as_str().unwrap(), "--json"]);
    assert_eq!((code, sender.wait().code()), (Some(0), Some(0)));
    let out = String::from_utf8(out).unwrap();
    let received: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let sha256 = "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73";
    let mut event = next();
    while event["event"] != "end" {
        event = next();
    }
    for end in [&event, received.last().unwrap()] {
        assert_eq!((&end["outcome"], &end["code"], &end["bytes"]), (&"stored".into(), &0.into(), &7.into()));
        assert_eq!(end["sha256"], sha256);
    }
    assert!(received.iter().any(|event| event["event"] == "verified"), "{out}");
}

#[test]
fn the_relay_is_named_by_a_flag_a_variable_or_the_configuration_file() {
    let program = Program::start(&[]);
    let (from, to) = folders();
    fs::write(from.path().join("file"), "content").unwrap();
    fs::create_dir(from.path().join("rendezvous")).unwrap();
    let config = from.path().join("rendezvous/config.toml");

    let (code, error) = crate::flags::refused(&mut client(&from, &["send", "file"]));
    assert_eq!(code, Some(2));
    assert!(error.contains("rendezvous serve --host 0.0.0.0") && error.contains("config.toml"), "{error}");

    fs::write(&config, format!("to = {:?}\n", program.base)).unwrap();
    for variable in [None, Some(&program.base)] {
        let mut command = client(&from, &["send", "file"]);
        if let Some(base) = variable {
            fs::write(&config, "to = 'http://127.0.0.1:1'\n").unwrap();
            command.env("RENDEZVOUS_TO", base);
        }
        let mut sender = Sender::start(&mut command);
        assert!(sender.link.starts_with(&format!("{}/r#", program.base)), "{}", sender.link);
        assert_eq!((receive(&to, &[&sender.link, "--force"]).0, sender.code()), (Some(0), Some(0)));
    }
    fs::write(&config, "relay = 'http://127.0.0.1:1'\n").unwrap();
    let (code, error) = crate::flags::refused(&mut client(&from, &["send", "file"]));
    assert_eq!(code, Some(2));
    assert!(error.contains("unknown field `relay`") && error.contains("config.toml"), "{error}");
}

#[test]
fn a_token_of_the_relay_is_read_from_a_file() {
    let (from, to) = folders();
    fs::write(from.path().join("file"), "content").unwrap();
    fs::write(from.path().join("token"), "0123456789abcdef\n").unwrap();
    let token = from.path().join("token");
    let program = Program::start(&["--create-token-file", token.to_str().unwrap()]);
    let (code, error) = crate::flags::refused(&mut client(&from, &["send", "file", "--to", &program.base]));
    assert_eq!(code, Some(1));
    assert!(error.contains("--token-file"), "{error}");
    let mut sender = Sender::of(&program, &from, &["file", "--token-file", "token"]);
    assert_eq!((receive(&to, &[&sender.link]).0, sender.code()), (Some(0), Some(0)));
}

#[test]
fn each_way_to_fail_has_its_exit_code() {
    let program = Program::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "content").unwrap();
    let nobody = format!("{}/r#000G40R40M30E209185GR38E1W", program.base);
    let send = |arguments: &[&str]| {
        crate::flags::refused(client(&folder, &["send", "--to", &program.base]).args(arguments))
    };
    let recv = |arguments: &[&str]| crate::flags::refused(client(&folder, &["recv"]).args(arguments));
    for ((code, error), expected, sentence) in [
        (send(&["missing"]), 1, "missing"),
        (send(&[]), 2, "PATH"),
        (send(&["-", "file"]), 2, "cannot be sent together"),
        (send(&["file", "--to", "relay.example"]), 2, "cannot be used multiple times"),
        (send(&["file", "--give-up", "1s"]), 5, "nobody has used the link"),
        (recv(&["hello"]), 2, "a link looks like"),
        (recv(&["https://relay.example/r#short"]), 2, "26 letters and digits"),
        (recv(&[&nobody, "--give-up", "1s"]), 5, "no sender answered"),
    ] {
        assert_eq!(code, Some(expected), "{error}");
        assert!(error.contains(sentence), "{error}");
    }
}

#[test]
fn an_interrupted_sender_tells_the_receiver() {
    let program = Program::start(&[]);
    let (from, to) = folders();
    let mut sender = client(&from, &["send", "-", "--to", &program.base]);
    let mut sender = Sender::start(sender.stdin(Stdio::piped()));
    let mut input = sender.process.0.stdin.take().unwrap();
    input.write_all(b"the beginning").unwrap();
    let mut receiver = spawn(&mut client(&to, &["recv", &sender.link, "-o", "-"]));
    let mut begun = [0; 13];
    receiver.0.stdout.as_mut().unwrap().read_exact(&mut begun).unwrap();
    sender.process.signal(Signal::INT);
    assert_eq!(sender.code(), Some(130));
    assert_eq!(receiver.wait().code(), Some(8), "the sender gave up");
}

#[test]
fn without_encryption_curl_receives_and_recv_downloads() {
    let program = Program::start(&[]);
    let (from, to) = folders();
    fs::write(from.path().join("file"), "content").unwrap();
    let mut sender = Sender::of(&program, &from, &["file", "--plain"]);
    let output = curl(&[&sender.link]).output().unwrap();
    assert_eq!((output.stdout.as_slice(), sender.code()), (&b"content"[..], Some(10)));

    let mut sender = Sender::of(&program, &from, &["file", "--plain"]);
    let (code, _, error) = receive(&to, &[&sender.link]);
    assert_eq!((code, sender.code()), (Some(10), Some(10)), "{error}");
    assert_eq!(fs::read_to_string(to.path().join("file")).unwrap(), "content");
    let (code, _, error) = receive(&to, &[&sender.link]);
    assert_eq!(code, Some(5), "a URL can be fetched once: {error}");
}

#[test]
fn completions_and_pages_are_printed() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, part) in [
        (&["completions", "bash"][..], "complete -F _rendezvous"),
        (&["completions", "zsh"], "#compdef rendezvous"),
        (&["completions", "fish"], "complete -c rendezvous"),
        (&["man"], ".TH rendezvous 1"),
        (&["man", "send"], ".TH rendezvous-send 1"),
    ] {
        let output = client(&folder, arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert!(String::from_utf8(output.stdout).unwrap().contains(part), "{arguments:?}");
    }
    assert_eq!(client(&folder, &["man", "other"]).output().unwrap().status.code(), Some(2));
}
