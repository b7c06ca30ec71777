//! nginx as a proxy with TLS in front, which passes every request on to [`Origin`] over plain HTTP/1.1.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use measure::process::Process;
use measure::settings::find_program;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::certificate::Certificate;
use super::contender::{Kind, Relay};
use super::origin::Origin;

/// The timeout until it accepts connections.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(20);
/// Directives that let it move more bytes at a time. By default it reads 16 KiB of a request and 4 KiB of a response.
const LARGE_BUFFERS: &str = "client_body_buffer_size 256k; proxy_buffer_size 256k; proxy_buffers 8 256k;
    http2_chunk_size 16k;";

/// A running nginx. Dropping it ends it.
pub(crate) struct Nginx {
    process: Process,
    /// Its configuration and temporary files.
    _folder: TempDir,
    _origin: Origin,
}

/// Starts nginx with each of its configurations, if it is installed.
pub(crate) async fn all(certificate: &Certificate) -> anyhow::Result<Vec<Relay>> {
    let mut all = Vec::new();
    if find_program("nginx", "/usr/sbin").is_none() {
        eprintln!("SKIPPED: nginx is not installed (`apt-get install nginx-light`)");
        return Ok(all);
    }
    for (name, directives) in [("nginx", ""), ("nginx, large buffers", LARGE_BUFFERS)] {
        all.push(start(name, directives, certificate).await?);
    }
    Ok(all)
}

async fn start(name: &'static str, directives: &str, certificate: &Certificate) -> anyhow::Result<Relay> {
    let program = find_program("nginx", "/usr/sbin").context("nginx has disappeared")?;
    let origin = Origin::start().await?;
    let folder = TempDir::new()?;
    // A port that was free a moment ago, because nginx does not print which one it takes for port 0.
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    fs::write(folder.path().join("nginx.conf"), configuration(address, directives, certificate, &origin))?;
    let mut command = Command::new(program);
    command.args(["-e", "stderr", "-c", "nginx.conf", "-p"]).arg(folder.path());
    let process = Process::start(&mut command)?;
    let connected = async {
        while TcpStream::connect(address).await.is_err() {
            sleep(PAUSE).await;
        }
    };
    timeout(START_TIMEOUT, connected).await.context("nginx does not start")?;
    let nginx = Nginx { process, _folder: folder, _origin: origin };
    Ok(Relay { name, secure: address, kind: Kind::Nginx(nginx) })
}

/// `listen … http2` is deprecated since nginx 1.25.1, but understood by all versions.
fn configuration(
    address: SocketAddrV4,
    directives: &str,
    certificate: &Certificate,
    origin: &Origin,
) -> String {
    let (chain, key, origin) = (certificate.chain(), certificate.key(), origin.address);
    format!(
        "daemon off; worker_processes 2; pid nginx.pid; error_log stderr error;
events {{}}
http {{
    access_log off;
    client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;
    client_max_body_size 0;
    {directives}
    server {{
        listen {address} ssl http2;
        ssl_certificate {chain};
        ssl_certificate_key {key};
        ssl_protocols TLSv1.3;
        location / {{
            proxy_pass http://{origin};
            proxy_http_version 1.1;
            proxy_request_buffering off;
            proxy_buffering off;
        }}
    }}
}}
",
        chain = chain.display(),
        key = key.display(),
    )
}

impl Nginx {
    /// Returns the CPU time of its workers so far, in nanoseconds.
    pub(crate) fn cpu(&self) -> anyhow::Result<u64> {
        let cpu = self.process.fine_cpu_of_children()?;
        ensure!(cpu > 0, "nginx has no workers");
        Ok(cpu)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The SIGKILL of the process would leave the workers running.
        if let Err(error) = self.process.terminate() {
            eprintln!("nginx: {error}");
        }
    }
}
