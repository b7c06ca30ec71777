//! The certificate of the listeners that speak TLS: read from its files, and again when they change.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};
use tokio_rustls::TlsAcceptor;
use tracing::{info, warn};

use crate::config::TlsFiles;

/// Between two looks at the files.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// The certificate and its key are of no use.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can not be read.
    #[error("cannot read {path:?}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{path:?} holds no {what} in PEM: {source}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What was looked for in it.
        what: &'static str,
        /// Why.
        source: pem::Error,
    },
    /// They can not be used, or do not belong together.
    #[error("the certificate of {certificate:?} can not be used with the key of {key:?}: {source}")]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

/// The certificate at hand.
#[derive(Debug)]
pub(super) struct Certificate {
    files: TlsFiles,
    current: Mutex<Arc<CertifiedKey>>,
    /// How old the files were when they were read.
    read_at: Mutex<Modified>,
}

/// When the certificate and the key were written, where that can be told.
type Modified = [Option<SystemTime>; 2];

impl Certificate {
    pub(super) fn load(files: TlsFiles) -> Result<Arc<Self>, TlsError> {
        let read_at = Mutex::new(modified(&files));
        let current = Mutex::new(Arc::new(read(&files)?));
        Ok(Arc::new(Self { files, current, read_at }))
    }

    /// Accepts TLS 1.2 and 1.3 with whatever certificate is at hand then, for HTTP/2 or HTTP/1.1.
    pub(super) fn acceptor(self: &Arc<Self>) -> TlsAcceptor {
        let mut config =
            ServerConfig::builder().with_no_client_auth().with_cert_resolver(Arc::clone(self) as Arc<_>);
        config.alpn_protocols = ["h2", "http/1.1", "http/1.0"].map(Into::into).to_vec();
        TlsAcceptor::from(Arc::new(config))
    }

    /// Reads the files again when they have changed, or whenever `reload` says so. Connections that exist keep what they
    /// have; a pair that is of no use is logged, and the one at hand stays. Never ends by itself.
    pub(super) async fn keep_fresh(&self, reload: &Notify) {
        let mut ticks = interval(LOOK_AGAIN);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let asked = tokio::select! {
                _ = ticks.tick() => false,
                () = reload.notified() => true,
            };
            let now = modified(&self.files);
            let changed = std::mem::replace(&mut *self.read_at.lock(), now) != now;
            if asked || changed {
                self.reload();
            }
        }
    }

    fn reload(&self) {
        match read(&self.files) {
            Ok(fresh) => {
                *self.current.lock() = Arc::new(fresh);
                info!("the certificate was read again");
            }
            Err(error) => warn!(%error, "the old certificate stays"),
        }
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.lock()))
    }
}

fn modified(files: &TlsFiles) -> Modified {
    let modified = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    [modified(&files.certificate), modified(&files.key)]
}

fn read(files: &TlsFiles) -> Result<CertifiedKey, TlsError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes(&files.certificate)?).collect();
    let chain =
        chain.and_then(|chain| if chain.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(chain) });
    let chain = chain.map_err(|source| TlsError::Pem {
        path: files.certificate.clone(),
        what: "certificate",
        source,
    })?;
    let key = PrivateKeyDer::from_pem_slice(&bytes(&files.key)?).map_err(|source| TlsError::Pem {
        path: files.key.clone(),
        what: "private key",
        source,
    })?;
    CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map_err(|source| TlsError::Pair {
        certificate: files.certificate.clone(),
        key: files.key.clone(),
        source,
    })
}

fn bytes(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}
