//! The workshop: what all servers of a run share, which are the program, the certificate and the ports. It starts the proxies too.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::Context;
use tempfile::TempDir;
use tokio::time::sleep;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::client::{Addresses, Dial};
use crate::plan::{Episode, Proxy};
use crate::proxy::RunningProxy;

/// Attempts to find free ports.
pub(super) const ATTEMPTS: u32 = 10;
/// The ports of the servers.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// The program and the certificate, which all servers of a run share.
pub(crate) struct Workshop {
    folder: TempDir,
    /// The certificate and its key.
    both: String,
    trust: [Arc<ClientConfig>; 2],
    next_port: AtomicU16,
}

impl Workshop {
    /// Copies the program, so that builds during the run have no effect.
    ///
    /// # Errors
    /// There is no such program.
    pub(crate) fn new(program: &Path) -> anyhow::Result<Self> {
        let folder = TempDir::new()?;
        // Other users must be able to read the folder.
        let open = PermissionsExt::from_mode(0o755);
        fs::set_permissions(folder.path(), open)?;
        fs::copy(program, folder.path().join("rendezvous"))
            .with_context(|| format!("there is no server {}: cargo build --release", program.display()))?;
        fs::copy(std::env::current_exe()?, folder.path().join("chaos"))?;
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
        fs::write(folder.path().join("certificate.pem"), made.cert.pem())?;
        fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem())?;
        let both = made.cert.pem() + &made.signing_key.serialize_pem();
        let trust = |protocol: &[u8]| trust(made.cert.der().clone(), protocol);
        // Two runs at the same time begin at different ports.
        let next_port = AtomicU16::new(u16::try_from(std::process::id() * 128 % 50_000)?);
        Ok(Self { trust: [trust(b"http/1.1")?, trust(b"h2")?], folder, both, next_port })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The next ports. They are below the range for clients, so that no client gets the ports of a server that is down.
    pub(super) fn free_ports(&self) -> Ports {
        let port =
            || PORTS.start + self.next_port.fetch_add(1, Ordering::Relaxed) % (PORTS.end - PORTS.start);
        Ports { plain: port(), tls: port() }
    }

    pub(super) fn dial(&self, ports: Ports) -> Dial {
        Dial {
            server: ports.addresses(),
            proxy: None,
            trust: self.trust.clone(),
            certificate: self.path("certificate.pem"),
        }
    }

    /// Starts the proxy of an episode in front of its server, and adds it to `dial`.
    ///
    /// # Errors
    /// The proxy does not start.
    pub(crate) async fn start_proxy(
        &self,
        proxy: Proxy,
        episode: &Episode,
        dial: &mut Dial,
    ) -> anyhow::Result<RunningProxy> {
        let folder = self.path(&format!("{}-{proxy}", episode.number));
        let mut attempts = 0;
        loop {
            attempts += 1;
            let of_proxy = self.free_ports().addresses();
            let addresses = [of_proxy.plain, of_proxy.tls];
            match RunningProxy::start(proxy, &folder, &self.both, dial.server.plain, addresses).await {
                Ok(running) => {
                    dial.proxy = Some(of_proxy);
                    break Ok(running);
                }
                // As for the server, another program may use the ports.
                Err(_) if attempts < ATTEMPTS => sleep(Duration::from_millis(100)).await,
                Err(error) => break Err(error),
            }
        }
    }
}

fn trust(certificate: CertificateDer<'static>, protocol: &[u8]) -> anyhow::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate)?;
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(Arc::new(config))
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    pub(super) plain: u16,
    pub(super) tls: u16,
}

impl Ports {
    fn addresses(self) -> Addresses {
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Addresses { plain: at(self.plain), tls: at(self.tls) }
    }
}
