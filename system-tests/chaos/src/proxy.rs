//! A real nginx or `HAProxy` in front of a server, configured by our samples in `packaging/proxies`. The server may restart behind it. It
//! ends with its episode.

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use crate::plan::Proxy;

/// The time within which a proxy must listen.
const STARTS_WITHIN: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The configuration that Debian's nginx has around a file of `conf.d`.
const NGINX: &str = "daemon off; master_process off; pid nginx.pid; error_log stderr;
events {}
http {
    access_log off;
    client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;
    include rendezvous.conf;
}
";

/// The proxies of a run, as its arguments name them: a list, or `none`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proxies(pub(crate) Vec<Proxy>);

impl Proxies {
    /// The proxies that are in the path.
    #[must_use]
    pub(crate) fn installed() -> Self {
        let is_there =
            |proxy: &Proxy| env::split_paths(&path()).any(|folder| folder.join(proxy.program()).exists());
        Self(Proxy::ALL.into_iter().filter(is_there).collect())
    }
}

/// The path for programs of administrators too: for users other than root, Debian leaves out /usr/sbin.
fn path() -> String {
    format!("{}:/usr/sbin", env::var("PATH").unwrap_or_default())
}

impl FromStr for Proxies {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = |name: &str| {
            let proxy = Proxy::ALL.into_iter().find(|proxy| proxy.to_string() == name);
            proxy.ok_or_else(|| format!("{name:?} is not nginx or haproxy"))
        };
        match text {
            "none" => Ok(Self(Vec::new())),
            _ => Ok(Self(text.split(',').map(named).collect::<Result<_, _>>()?)),
        }
    }
}

impl Proxy {
    fn program(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
        }
    }

    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Nginx => &["-e", "stderr", "-p", ".", "-c", "main.conf"],
            Self::Haproxy => &["-db", "-f", "rendezvous.conf"],
        }
    }

    /// Our sample, with these addresses. `both.pem` has the certificate and its key.
    fn configuration(self, server: SocketAddr, plain: SocketAddr, tls: SocketAddr) -> anyhow::Result<String> {
        let (sample, replacements) = match self {
            Self::Nginx => (
                include_str!("../../../packaging/proxies/nginx.conf"),
                [
                    ("listen 80;", format!("listen {plain};")),
                    ("listen 443 ", format!("listen {tls} ")),
                    ("/etc/ssl/certs/rendezvous.pem", "both.pem".to_owned()),
                    ("/etc/ssl/private/rendezvous.key", "both.pem".to_owned()),
                ]
                .to_vec(),
            ),
            Self::Haproxy => (
                include_str!("../../../packaging/proxies/haproxy.cfg"),
                [
                    ("bind :80\n", format!("bind {plain}\n")),
                    ("bind :443 ", format!("bind {tls} ")),
                    ("/etc/haproxy/rendezvous.pem", "both.pem".to_owned()),
                ]
                .to_vec(),
            ),
        };
        let mut text = sample.to_owned();
        for (found, here) in replacements.into_iter().chain([("127.0.0.1:9999", server.to_string())]) {
            ensure!(text.contains(found), "the sample for {self} does not contain {found:?}");
            text = text.replace(found, &here);
        }
        Ok(text)
    }
}

/// A running proxy.
pub(crate) struct RunningProxy(Child);

impl RunningProxy {
    /// Makes a folder and starts the proxy in it. `both` is its certificate and key, in PEM.
    ///
    /// # Errors
    /// The proxy does not listen within 20 s.
    pub(crate) async fn start(
        proxy: Proxy,
        folder: &Path,
        both: &str,
        server: SocketAddr,
        [plain, tls]: [SocketAddr; 2],
    ) -> anyhow::Result<Self> {
        fs::create_dir_all(folder)?;
        fs::write(folder.join("both.pem"), both)?;
        fs::write(folder.join("rendezvous.conf"), proxy.configuration(server, plain, tls)?)?;
        fs::write(folder.join("main.conf"), NGINX)?;
        let log = fs::File::create(folder.join("log"))?;
        let mut command = Command::new(proxy.program());
        command.args(proxy.arguments()).env("PATH", path()).current_dir(folder).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut child = command.spawn().with_context(|| format!("cannot start {}", proxy.program()))?;
        let begun = Instant::now();
        for address in [plain, tls] {
            while TcpStream::connect(address).await.is_err() {
                let is_alive = child.try_wait()?.is_none() && begun.elapsed() < STARTS_WITHIN;
                ensure!(is_alive, "{proxy} does not listen: {}", fs::read_to_string(folder.join("log"))?);
                sleep(LOOK_AGAIN).await;
            }
        }
        Ok(Self(child))
    }

    /// Ends the proxy, with its connections to the server.
    ///
    /// # Errors
    /// The proxy had ended by itself.
    pub(crate) async fn end(mut self) -> anyhow::Result<()> {
        let ended = self.0.try_wait()?;
        ensure!(ended.is_none(), "the proxy has ended by itself: {ended:?}");
        Ok(self.0.kill().await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_named_and_none_is_none() {
        assert_eq!("none".parse(), Ok(Proxies(Vec::new())));
        assert_eq!("haproxy,nginx".parse(), Ok(Proxies(vec![Proxy::Haproxy, Proxy::Nginx])));
        assert!("squid".parse::<Proxies>().is_err());
        assert!("".parse::<Proxies>().is_err());
    }

    #[test]
    fn each_sample_has_what_is_replaced() {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        for proxy in Proxy::ALL {
            let text = proxy.configuration(address(1001), address(1002), address(1003)).unwrap();
            assert!([1001, 1002, 1003].iter().all(|port| text.contains(&format!(":{port}"))), "{text}");
        }
    }
}
