//! A proxy with its sample configuration and the server behind it, on addresses that no other test uses.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

const SAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../packaging/proxies");
/// The timeout of every step.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// The limits of a hasty proxy.
pub const HASTE: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Copy)]
pub enum Proxy {
    Nginx,
    /// nginx without forwarding fields, so that the server cannot recognize the proxy.
    SilentNginx,
    /// nginx with its defaults: it buffers responses, unless the server asks it not to.
    DefaultNginx,
    /// nginx that waits for the server for [`HASTE`] only, not for its default of 60 s.
    HastyNginx,
    Haproxy,
    /// `HAProxy` that waits for [`HASTE`] only, not for the 50 s of Debian's configuration.
    HastyHaproxy,
    Caddy,
}

/// The main configuration of nginx, which includes the sample like a file of `conf.d`.
const NGINX: &str = "daemon off; master_process off; pid nginx.pid; error_log stderr;
events {}
http {
    access_log off;
    client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;
    include rendezvous.conf;
}
";

/// The address of the server behind the proxy, and those on which the proxy listens.
struct Addresses {
    server: SocketAddr,
    open: SocketAddr,
    secure: SocketAddr,
}

impl Proxy {
    /// Returns the sample, with the addresses and certificate of this test.
    fn configuration(self, addresses: &Addresses) -> String {
        let Addresses { server, open, secure } = addresses;
        let server = ("127.0.0.1:9999", server.to_string());
        match self {
            Self::SilentNginx => {
                let line = ("proxy_set_header X-Forwarded-For $remote_addr;", String::new());
                edited(Self::Nginx.configuration(addresses), &[line])
            }
            Self::DefaultNginx => format!(
                "server {{
                    listen {open}; listen {secure} ssl;
                    ssl_certificate both.pem; ssl_certificate_key both.pem;
                    location / {{ proxy_pass http://{}; proxy_set_header Host $http_host; }}
                }}",
                addresses.server
            ),
            Self::HastyNginx => {
                hasty(Self::Nginx.configuration(addresses), ["proxy_read_timeout", "proxy_send_timeout"])
            }
            Self::HastyHaproxy => {
                hasty(Self::Haproxy.configuration(addresses), ["timeout client", "timeout server"])
            }
            Self::Nginx => sample(
                "nginx.conf",
                &[
                    server,
                    ("listen 80;", format!("listen {open};")),
                    ("listen 443 ", format!("listen {secure} ")),
                    ("/etc/ssl/certs/rendezvous.pem", "both.pem".to_owned()),
                    ("/etc/ssl/private/rendezvous.key", "both.pem".to_owned()),
                ],
            ),
            Self::Haproxy => sample(
                "haproxy.cfg",
                &[
                    server,
                    ("bind :80\n", format!("bind {open}\n")),
                    ("bind :443 ", format!("bind {secure} ")),
                    ("/etc/haproxy/rendezvous.pem", "both.pem".to_owned()),
                ],
            ),
            Self::Caddy => {
                let site = "rendezvous.example.org {";
                let open = format!("http://:{} {{\n bind {}\n", open.port(), open.ip());
                let secure =
                    format!("https://:{} {{\n bind {}\n tls both.pem both.pem\n", secure.port(), secure.ip());
                let options = "{\n admin off\n auto_https disable_redirects\n}\n";
                let sites = [open, secure].map(|new| sample("Caddyfile", &[server.clone(), (site, new)]));
                options.to_owned() + &sites.concat()
            }
        }
    }

    /// Returns the command that starts the proxy in the folder with its configuration.
    fn command(self) -> Command {
        let (program, arguments): (_, &[&str]) = match self {
            Self::Nginx | Self::SilentNginx | Self::DefaultNginx | Self::HastyNginx => {
                ("nginx", &["-e", "stderr", "-p", ".", "-c", "main.conf"])
            }
            Self::Haproxy | Self::HastyHaproxy => ("haproxy", &["-db", "-f", "rendezvous.conf"]),
            Self::Caddy => ("caddy", &["run", "--adapter", "caddyfile", "--config", "rendezvous.conf"]),
        };
        let mut command = Command::new(program);
        // For users other than root, Debian's PATH has no /usr/sbin.
        command.env("PATH", format!("{}:/usr/sbin", env::var("PATH").unwrap())).args(arguments);
        command
    }

    /// Starts the proxy in `folder`.
    fn start(self, folder: &Path, addresses: &Addresses) -> Running {
        fs::write(folder.join("rendezvous.conf"), self.configuration(addresses)).unwrap();
        fs::write(folder.join("main.conf"), NGINX).unwrap();
        let mut command = self.command();
        // Caddy keeps its data in the home directory.
        command.env("HOME", folder).current_dir(folder);
        let log = fs::File::create(folder.join("log")).unwrap();
        Running(
            command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap_or_else(
                |error| panic!("cannot start {self:?}: {error}. `./check proxies` provides it"),
            ),
        )
    }
}

/// A file of `packaging/proxies`, with replacements: a text of the sample, and the text of this test.
fn sample(name: &str, replacements: &[(&str, String)]) -> String {
    edited(fs::read_to_string(Path::new(SAMPLES).join(name)).unwrap(), replacements)
}

fn edited(mut text: String, replacements: &[(&str, String)]) -> String {
    for (old, new) in replacements {
        assert!(text.contains(old), "there is no {old:?} in:\n{text}");
        text = text.replace(old, new);
    }
    text
}

/// A configuration with short limits instead of those of 7 hours.
fn hasty(configuration: String, limits: [&str; 2]) -> String {
    let shorter =
        |text, limit| edited(text, &[(&format!("{limit} 7h"), format!("{limit} {}s", HASTE.as_secs()))]);
    limits.into_iter().fold(configuration, shorter)
}

/// A child process that ends with its test.
#[derive(Debug)]
pub struct Running(pub Child);

impl Running {
    pub fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// Waits for the exit status and the output, which must fit into the pipe of stderr.
    pub fn output(mut self) -> Output {
        let read = |pipe: Option<&mut dyn Read>| {
            let mut bytes = Vec::new();
            pipe.map(|pipe| pipe.read_to_end(&mut bytes).unwrap());
            bytes
        };
        let stdout = read(self.0.stdout.as_mut().map(|pipe| pipe as _));
        let stderr = read(self.0.stderr.as_mut().map(|pipe| pipe as _));
        Output { status: self.0.wait().unwrap(), stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The real `curl`, which prints only errors, and fails on error statuses.
pub fn curl(arguments: &[&str]) -> Command {
    let mut command = Command::new("curl");
    command.args(["-sS", "-f", "--noproxy", "*", "--max-time", "600"]).args(arguments).stdin(Stdio::null());
    command
}

pub fn spawn(command: &mut Command) -> Running {
    Running(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("curl is installed"))
}

/// A listener of the proxy.
#[derive(Debug)]
pub struct ProxyListener {
    address: SocketAddr,
    is_secure: bool,
}

impl ProxyListener {
    /// A command of `curl` for this listener. Over TLS it offers HTTP/2.
    pub fn curl(&self, arguments: &[&str]) -> Command {
        let mut command = curl(arguments);
        if self.is_secure {
            command.args(["--insecure", "--http2"]);
        }
        command
    }

    pub fn url(&self, id: &str) -> String {
        self.target(&format!("/stream/{id}"))
    }

    pub fn target(&self, target: &str) -> String {
        let scheme = if self.is_secure { "https" } else { "http" };
        format!("{scheme}://{}{target}", self.address)
    }
}

/// A server with a proxy in front of it.
pub struct Site {
    pub server: SocketAddr,
    pub plain: SocketAddr,
    secure: SocketAddr,
    proxy: Running,
    program: Option<Running>,
    _folder: TempDir,
}

impl Site {
    pub fn start(proxy: Proxy) -> Self {
        Self::start_with(proxy, &[])
    }

    pub fn start_with(proxy: Proxy, flags: &[&str]) -> Self {
        let mut program = Command::new(env!("CARGO_BIN_EXE_rendezvous"));
        program
            .args(["serve", "--port", "0", "--trusted-proxy", "127.0.0.1", "--log-level", "warn"])
            .args(flags)
            // This variable is for these tests. The server refuses variables without a flag.
            .env_remove("RENDEZVOUS_PROXY_MIB");
        let mut program = Running(program.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap());
        let greeting = BufReader::new(program.0.stdout.take().unwrap()).lines().next().unwrap().unwrap();
        let server = greeting.strip_prefix("Listening on http://").unwrap().parse().unwrap();
        Self { program: Some(program), ..Self::start_in_front_of(proxy, server) }
    }

    /// Starts a proxy in front of a server that the test provides.
    pub fn start_in_front_of(kind: Proxy, server: SocketAddr) -> Self {
        let [open, secure] = free_addresses();
        let folder = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        fs::write(folder.path().join("both.pem"), made.cert.pem() + &made.signing_key.serialize_pem())
            .unwrap();
        let mut proxy = kind.start(folder.path(), &Addresses { server, open, secure });
        let deadline = Instant::now() + PATIENCE;
        while [open, secure].iter().any(|address| TcpStream::connect(address).is_err()) {
            let log = || fs::read_to_string(folder.path().join("log")).unwrap();
            assert!(
                proxy.0.try_wait().unwrap().is_none() && Instant::now() < deadline,
                "{kind:?}: {}",
                log()
            );
        }
        Self { server, plain: open, secure, proxy, program: None, _folder: folder }
    }

    pub fn open(&self) -> ProxyListener {
        ProxyListener { address: self.plain, is_secure: false }
    }

    pub fn secure(&self) -> ProxyListener {
        ProxyListener { address: self.secure, is_secure: true }
    }

    pub fn listeners(&self) -> [ProxyListener; 2] {
        [self.open(), self.secure()]
    }

    pub fn kill_server(&mut self) {
        self.program.as_mut().unwrap().kill();
    }

    pub fn stop_proxy(&mut self) {
        self.proxy.kill();
    }

    pub fn create(&self) -> String {
        self.ask(&["-X", "POST"], "")["stream"].as_str().unwrap().to_owned()
    }

    pub fn status(&self, id: &str) -> Value {
        self.ask(&[], &format!("/{id}/status"))
    }

    /// Returns the JSON response of the server itself, without the proxy.
    fn ask(&self, arguments: &[&str], path: &str) -> Value {
        let response = curl(arguments).arg(format!("http://{}/stream{path}", self.server)).output().unwrap();
        serde_json::from_slice(&response.stdout).unwrap()
    }

    /// Returns a metric of the server, or 0 if it has none of that name and labels.
    pub fn metric(&self, name: &str) -> u64 {
        let response = curl(&[]).arg(format!("http://{}/metrics", self.server)).output().unwrap();
        let metrics = String::from_utf8(response.stdout).unwrap();
        let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0, |value| value.parse().unwrap())
    }

    fn until_status(&self, id: &str, reached: impl Fn(&Value) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status(id);
            if reached(&status) {
                return;
            }
            assert!(Instant::now() < deadline, "{status}");
        }
    }

    /// Waits until the stream is in `state`.
    pub fn until(&self, id: &str, state: &str) {
        self.until_status(id, |status| status["state"] == state);
    }

    /// Waits until `count` bytes of the body have been passed on.
    pub fn until_bytes(&self, id: &str, count: u64) {
        self.until_status(id, |status| status["bytes_transferred"] == count);
    }
}

/// Returns free ports of a loopback address that no other test uses, so that nothing else takes them before the proxy does.
fn free_addresses() -> [SocketAddr; 2] {
    static TESTS: AtomicU8 = AtomicU8::new(1);
    let process = std::process::id().to_be_bytes();
    let address = Ipv4Addr::new(127, process[2].max(1), process[3], TESTS.fetch_add(1, Ordering::Relaxed));
    let listeners = [(); 2].map(|()| TcpListener::bind((address, 0)).unwrap());
    listeners.map(|listener| listener.local_addr().unwrap())
}
