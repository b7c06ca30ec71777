//! Nodes of a cluster as their operators see them: flags, and a real `redis-server` that is late, loses its data, or gives few rights.
//!
//! Those that need `redis-server` run on request only: `./check cluster`, or `cargo test --test program -- --ignored cluster`.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use rendezvous_cluster::{Instance, Record, Secrets, SettingsDigest, Versions};
use tempfile::TempDir;

use crate::{PATIENCE, Program, Running, curl, rendezvous};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A `redis-server` without persistence, and the files of a test.
struct Engine {
    port: u16,
    process: Option<Running>,
    folder: TempDir,
}

impl Engine {
    /// Chooses a port, at which nothing listens yet.
    fn planned() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        Self { port, process: None, folder: tempfile::tempdir().unwrap() }
    }

    fn started() -> Self {
        let mut engine = Self::planned();
        engine.start();
        engine
    }

    fn start(&mut self) {
        let mut command = Command::new("redis-server");
        command.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
        command.current_dir(self.folder.path()).stdout(Stdio::null());
        let process = command.spawn().expect("redis-server is installed; `./check cluster` provides it");
        self.process = Some(Running(process));
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            assert!(Instant::now() < deadline, "redis-server does not listen");
            thread::yield_now();
        }
    }

    /// Runs a command and returns the reply as it came.
    fn run(&self, command: &str) -> String {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap();
        stream.write_all(format!("{command}\r\nQUIT\r\n").as_bytes()).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        assert!(!reply.starts_with('-'), "{command}: {reply}");
        reply
    }

    fn secret_file(&self) -> String {
        let file: PathBuf = self.folder.path().join("secret");
        fs::write(&file, SECRET).unwrap();
        file.to_str().unwrap().to_owned()
    }

    /// Starts a node. `login` is what the URL has before the host.
    fn node_as(&self, login: &str, arguments: &[&str]) -> Program {
        let engine = format!("redis://{login}127.0.0.1:{}", self.port);
        let secret = self.secret_file();
        let basic =
            ["--cluster", &engine, "--cluster-listen", "127.0.0.1:0", "--cluster-secret-file", &secret];
        Program::start(&[&basic[..], arguments].concat())
    }

    fn node(&self) -> Program {
        self.node_as("", &[])
    }
}

/// Waits until `holds`, and fails with `what` if it does not within [`PATIENCE`].
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        sleep(Duration::from_millis(20));
    }
}

/// Returns what `GET /stream` says of how many nodes answered, such as `2/2`.
fn nodes_of(node: &Program) -> String {
    let output = curl(&["-i", &format!("{}/stream", node.base)]).output().unwrap();
    let output = String::from_utf8(output.stdout).unwrap().to_ascii_lowercase();
    let field = output.lines().find_map(|line| line.strip_prefix("rendezvous-nodes: "));
    field.unwrap_or_default().to_owned()
}

fn until_nodes(nodes: &[&Program], expected: &str) {
    for node in nodes {
        eventually(&format!("{} says {expected}", node.base), || nodes_of(node) == expected);
    }
}

/// Returns the status of a response to the side or status of a stream of one node at another.
fn status_at(node: &Program, stream: &str) -> String {
    let path = stream.splitn(4, '/').nth(3).unwrap();
    let url = format!("{}/{path}/status", node.base);
    let code =
        Command::new("curl").args(["-s", "-o", "/dev/null", "-w", "%{http_code}", &url]).output().unwrap();
    String::from_utf8(code.stdout).unwrap()
}

#[test]
fn settings_that_cannot_work_are_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let file = folder.path().join(name);
        fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let (good, short) = (file("good", SECRET), file("short", "abc"));
    let engine = "redis://127.0.0.1:6379";
    for (arguments, expected) in [
        (&["--cluster", engine][..], "--cluster-secret-file <FILE>"),
        (&["--cluster-secret-file", &good], "--cluster <ENGINE>"),
        (&["--cluster", engine, "--cluster-secret-file", &short], "at least 32"),
        (&["--cluster", engine, "--cluster-secret-file", "/nowhere"], "/nowhere"),
        (&["--cluster", "http://a", "--cluster-secret-file", &good], "redis://"),
        (&["--cluster", "redis+sentinel://a", "--cluster-secret-file", &good], "sentinel.conf"),
        (
            &["--cluster", engine, "--cluster-secret-file", &good, "--cluster-listen", "7780"],
            "--cluster-listen",
        ),
        (&["--cluster", engine, "--cluster-secret-file", &good, "--cluster-name", "a b"], "--cluster-name"),
        (
            &[
                "--cluster",
                "redis://192.0.2.1",
                "--cluster-secret-file",
                &good,
                "--cluster-advertise",
                "127.0.0.1:1",
            ],
            "set --cluster-advertise to an address",
        ),
    ] {
        let mut command = rendezvous(&["--port", "0"]);
        let output = command.args(arguments).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{arguments:?}");
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
}

#[test]
#[ignore = "needs redis-server"]
fn nodes_serve_their_own_streams_until_the_engine_comes_and_then_find_each_other() {
    let mut engine = Engine::planned();
    let nodes = [engine.node(), engine.node()];
    let stream = nodes[0].create();
    assert_eq!(status_at(&nodes[0], &stream), "200");
    assert_eq!(status_at(&nodes[1], &stream), "503", "nobody knows whether another node has it");
    engine.start();
    until_nodes(&[&nodes[0], &nodes[1]], "2/2");
    assert_eq!(status_at(&nodes[1], &stream), "200");
    let [first, _] = nodes;
    assert!(first.log().contains("the engine of the cluster cannot be reached"));
}

#[test]
#[ignore = "needs redis-server"]
fn an_engine_that_loses_its_data_harms_no_stream() {
    let engine = Engine::started();
    let nodes = [engine.node(), engine.node(), engine.node()];
    until_nodes(&[&nodes[0], &nodes[1], &nodes[2]], "3/3");
    let stream = nodes[0].create();
    for _ in 0..20 {
        engine.run("FLUSHALL");
        for node in &nodes {
            assert_eq!(status_at(node, &stream), "200");
        }
    }
    until_nodes(&[&nodes[0], &nodes[1], &nodes[2]], "3/3");
}

#[test]
#[ignore = "needs redis-server"]
fn paths_of_a_dead_node_get_another_owner_while_the_engine_is_dead_too() {
    let mut engine = Engine::started();
    let nodes = [engine.node(), engine.node(), engine.node()];
    until_nodes(&[&nodes[0], &nodes[1], &nodes[2]], "3/3");
    let [first, second, third] = nodes;
    drop((third, engine.process.take()));
    // One in three belongs to the dead node.
    for path in 0..12 {
        let meet = || {
            let url = |node: &Program| format!("{}/p/{path}", node.base);
            let mut receiver = curl(&["-f", "--retry", "9", "--retry-delay", "1", &url(&first)]);
            let receiver = receiver.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
            let sent =
                curl(&["-f", "--retry", "9", "--retry-delay", "1", "-d", "hello", &url(&second)]).output();
            (sent.unwrap().status.success(), receiver.wait_with_output().unwrap().stdout)
        };
        assert_eq!(meet(), (true, b"hello".to_vec()), "{path}");
    }
}

#[test]
#[ignore = "needs redis-server"]
fn a_node_that_the_others_cannot_reach_says_at_which_address() {
    let engine = Engine::started();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let (reached, unreached) = (engine.node(), engine.node_as("", &["--cluster-advertise", &closed]));
    // It reaches the other one itself, whose streams it can serve.
    let stream = reached.create();
    eventually("the other node is reached", || status_at(&unreached, &stream) == "200");
    sleep(Duration::from_secs(6));
    let log = unreached.log();
    assert!(log.contains("no other node has reached this one") && log.contains(&closed), "{log}");
    let log = reached.log();
    assert!(!log.contains("no other node has reached this one"), "{log}");
}

#[test]
#[ignore = "needs redis-server"]
fn a_node_whose_tag_another_one_has_draws_a_new_one_and_serves_its_old_streams() {
    let planned = Engine::planned();
    let node = planned.node();
    let tag_of = |stream: &str| stream.rsplit('/').next().unwrap().get(..8).unwrap().to_owned();
    let old = node.create();
    let other = Record {
        tag: tag_of(&old).parse().unwrap(),
        instance: Instance::draw(),
        address: "127.0.0.1:9".parse().unwrap(),
        versions: Versions::new(1, 1).unwrap(),
        settings: SettingsDigest::of(&[]),
        draining: false,
    };
    let record = other.seal(&"rendezvous".parse().unwrap(), &Secrets::parse(SECRET).unwrap());
    // It is in the directory before the node can reach that.
    let engine = Engine::started();
    engine.run(&format!("HSET rv:{{rendezvous}}:nodes {} \"9000000000000000 {record}\"", other.tag));
    engine.run(&format!("CONFIG SET port {}", planned.port));
    eventually("new ids begin with another tag", || tag_of(&node.create()) != tag_of(&old));
    assert_eq!(status_at(&node, &old), "200");
}

#[test]
#[ignore = "needs redis-server"]
fn the_rights_that_the_documentation_names_are_enough() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/cluster.md");
    let page = fs::read_to_string(page).unwrap();
    let rights = page.split('`').find(|text| text.starts_with("~rv:{NAME}:*")).unwrap();
    let engine = Engine::started();
    engine.run(&format!("ACL SETUSER relay on >s3cret {}", rights.replace("NAME", "rendezvous")));
    engine.run("ACL SETUSER default off");
    let nodes = [engine.node_as("relay:s3cret@", &[]), engine.node_as("relay:s3cret@", &[])];
    until_nodes(&[&nodes[0], &nodes[1]], "2/2");
    let [first, second] = nodes;
    let log = first.log();
    assert!(!log.contains("the engine refuses"), "{log}");
    until_nodes(&[&second], "1/1");
}
