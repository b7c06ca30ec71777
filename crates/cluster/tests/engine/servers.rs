//! Engines and sentinels as processes, each with a directory of its own. They end with the test.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Client, FromRedisValue, cmd};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

/// No wait of a test is longer.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A `redis-server` on loopback.
pub struct Engine {
    pub port: u16,
    process: Child,
    directory: TempDir,
    options: Vec<String>,
}

impl Engine {
    /// Starts an engine without persistence and waits until it answers.
    pub async fn start(options: &[&str]) -> Self {
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        let directory = tempfile::tempdir().unwrap();
        let port = free_port();
        let process = spawn(port, directory.path(), &options);
        let engine = Self { port, process, directory, options };
        engine.answers().await;
        engine
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Runs a command, given as words.
    pub async fn run<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = cmd(words[0]);
        command.arg(&words[1..]);
        command
            .query_async(&mut self.connect().await)
            .await
            .unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// Kills the engine, with all that it holds.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts the killed engine again, at the same port.
    pub async fn restart(&mut self) {
        self.process = spawn(self.port, self.directory.path(), &self.options);
        self.answers().await;
    }

    async fn connect(&self) -> MultiplexedConnection {
        let client = Client::open(self.url()).unwrap();
        timeout(PATIENCE, client.get_multiplexed_async_connection()).await.unwrap().unwrap()
    }

    async fn answers(&self) {
        let answers = async {
            let client = Client::open(self.url()).unwrap();
            loop {
                // An error reply, such as that a password is missing, is an answer too.
                if let Ok(mut connection) = client.get_multiplexed_async_connection().await {
                    let pong = cmd("PING").query_async::<String>(&mut connection).await;
                    if !pong.is_err_and(|error| error.is_io_error()) {
                        return;
                    }
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, answers).await.expect("the engine answers");
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // A stopped process ends by this too.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Returns a port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn spawn(port: u16, directory: &Path, options: &[String]) -> Child {
    // Sentinel rewrites its configuration.
    let file = directory.join("engine.conf");
    if !file.exists() {
        fs::write(&file, "").unwrap();
    }
    Command::new("redis-server")
        .arg(&file)
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .args(if options.iter().any(|option| option == "--sentinel") {
            &[][..]
        } else {
            &["--save", "", "--appendonly", "no"]
        })
        .args(options)
        .current_dir(directory)
        .stdout(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("redis-server: {error}; `./check cluster` provides it"))
}
