//! The text that the program prints when it listens: its commands work with the settings in force.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::certificates::Pair;
use crate::{Program, curl};

/// Runs the commands of the greeting in a shell, and returns their output.
fn try_commands(program: &Program) -> String {
    let commands: Vec<_> = program.greeting.iter().filter(|line| line.starts_with("  ")).cloned().collect();
    let script = format!("{}\nwait", commands.join("\n"));
    let output = Command::new("sh").args(["-c", &script]).env("no_proxy", "*").output().unwrap();
    assert!(output.stderr.is_empty(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Creates a file with a create token, surrounded by white space that is not part of it.
fn token_file(folder: &tempfile::TempDir) -> PathBuf {
    let path = folder.path().join("it's a token");
    fs::write(&path, "\t s3cret-of-makers \r\n\n").unwrap();
    path
}

#[test]
fn the_greeting_has_the_address_and_commands_that_work() {
    let folder = tempfile::tempdir().unwrap();
    let token = token_file(&folder);
    let token = ["--create-token-file", token.to_str().unwrap()];
    for flags in [&[][..], &token, &["--host", "localhost"], &["--admin-listen", "127.0.0.1:0"]] {
        let program = Program::start(flags);
        assert_eq!(program.base, format!("http://{}", program.connect().peer_addr().unwrap()));
        assert_eq!(try_commands(&program), "hello\n", "{flags:?}");
    }
}

#[test]
fn the_commands_of_the_greeting_work_with_a_self_signed_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let token = token_file(&folder);
    for (name, host, url) in [
        ("127.0.0.1", "127.0.0.1", "https://127.0.0.1:"),
        ("localhost", "127.0.0.1", "https://localhost:"),
        ("relay.example", "127.0.0.1", "https://127.0.0.1:"),
        ("localhost", "0.0.0.0", "https://localhost:"),
    ] {
        let pair = Pair::of(name);
        let flags = pair.flags();
        let mut flags: Vec<_> = flags.iter().map(String::as_str).collect();
        flags.extend(["--host", host, "--plain-port", "0", "--create-token-file", token.to_str().unwrap()]);
        let program = Program::start(&flags);
        let last = program.greeting.last().unwrap();
        assert!(last.contains(url), "{last}");
        assert_eq!(try_commands(&program), "hello\n", "{name} {host}: {:?}", program.greeting);
        let plain = program.greeting[1].strip_prefix("Listening without TLS on ").unwrap();
        assert!(plain.starts_with(&format!("http://{host}:")), "{plain}");
    }
}

#[test]
fn the_greeting_of_a_listener_on_all_addresses_has_an_address_that_other_machines_can_use() {
    for host in ["0.0.0.0", "::"] {
        let program = Program::start(&["--host", host]);
        let last = program.greeting.last().unwrap();
        assert!(!last.contains("//0.0.0.0:") && !last.contains("//[::]:"), "{last}");
        assert!(!last.contains("//127.") && !last.contains("//[::1]:"), "{last}");
        if last.contains("//HOST:") {
            let comment = &program.greeting[1];
            assert!(comment.starts_with("  # HOST: an address or name of this machine"), "{comment}");
        } else {
            assert_eq!(try_commands(&program), "hello\n", "{host}: {:?}", program.greeting);
        }
    }
}

#[test]
fn the_greeting_has_the_address_of_the_admin_listener() {
    let program = Program::start(&["--admin-listen", "127.0.0.1:0"]);
    let base = program.greeting[1].strip_prefix("Listening for operators on ").unwrap();
    for (path, body) in [("/readyz", "ready"), ("/stream", "[]")] {
        let output = curl(&[&format!("{base}{path}")]).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), body);
    }
}
