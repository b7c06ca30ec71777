//! The certificate of the listeners that speak TLS: read from its files, and again when they change.
//!
//! A file system may hang, so each look at the files has a thread of its own, away from those of the runtime, and is given
//! [`PATIENCE`]. A look that hangs holds up nothing but the next one; the certificate at hand stays. At most [`MAX_LOOKS`] threads
//! hang, and the end of the process does not wait for them.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::{Notify, Semaphore};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_rustls::TlsAcceptor;
use tracing::{info, warn};

use crate::config::TlsFiles;
use crate::log::Chain;

/// Between two looks at the files.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// For a look at the files, which are small.
const PATIENCE: Duration = Duration::from_secs(5);
/// Looks that may hang at a time: one, and one for each of some reloads that were asked for meanwhile.
const MAX_LOOKS: usize = 4;

/// The certificate and its key are of no use.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can not be read.
    #[error("cannot read {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file system does not answer.
    #[error("cannot read {certificate:?} and {key:?}: the file system has not answered for {PATIENCE:?}")]
    Hangs {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// A file is not what it should be.
    #[error("{path:?} holds no {what} in PEM")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What was looked for in it.
        what: &'static str,
        /// Why.
        source: pem::Error,
    },
    /// They can not be used, or do not belong together.
    #[error("the certificate of {certificate:?} cannot be used with the key of {key:?}")]
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
    /// What the files were like when they were read.
    read_at: Mutex<Modified>,
}

/// What the certificate and the key were like, where that can be told: when they were written, and their inode and size, because a file may
/// take another's place within one tick of the clock.
type Modified = [Option<(SystemTime, u64, u64)>; 2];

impl Certificate {
    pub(super) async fn load(files: TlsFiles) -> Result<Arc<Self>, TlsError> {
        let reading = blocking({
            let files = files.clone();
            move || (modified(&files), read(&files))
        });
        let read = timeout(PATIENCE, reading).await.map_err(|_| hangs(&files))?;
        let (modified, read) =
            read.map_err(|panic| TlsError::Read { path: files.certificate.clone(), source: panic.into() })?;
        let current = Mutex::new(Arc::new(read?));
        Ok(Arc::new(Self { files, current, read_at: Mutex::new(modified) }))
    }

    /// The chain in use, the server's own certificate first.
    pub(super) fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.current.lock().cert.clone()
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
        let threads = Arc::new(Semaphore::new(MAX_LOOKS));
        let mut is_asked = false;
        loop {
            is_asked = tokio::select! {
                biased;
                () = self.look(is_asked, &threads) => tokio::select! {
                    _ = ticks.tick() => false,
                    () = reload.notified() => true,
                },
                // A look that hangs is left behind: by now the files may be others.
                () = reload.notified() => true,
            };
        }
    }

    async fn look(&self, is_asked: bool, threads: &Arc<Semaphore>) {
        let (files, known) = (self.files.clone(), *self.read_at.lock());
        let mut looking = pin!(async {
            let thread = Arc::clone(threads).acquire_owned().await.ok()?;
            let looked = blocking(move || {
                let _until_it_ends = thread;
                let modified = modified(&files);
                (modified, (is_asked || modified != known).then(|| read(&files)))
            });
            // A panic has been logged.
            looked.await.ok()
        });
        let looked = if let Ok(looked) = timeout(PATIENCE, &mut looking).await {
            looked
        } else {
            warn!(error = %hangs(&self.files), "the old certificate stays");
            let looked = looking.await;
            info!("the file system of the certificate answers again");
            looked
        };
        let Some((modified, read)) = looked else { return };
        *self.read_at.lock() = modified;
        match read {
            Some(Ok(fresh)) => {
                *self.current.lock() = Arc::new(fresh);
                info!("the certificate was read again");
            }
            Some(Err(error)) => warn!(error = %Chain(&error), "the old certificate stays"),
            None => {}
        }
    }
}

/// Calls `look` on a thread of its own.
#[allow(clippy::disallowed_methods, reason = "the threads of the runtime are not to wait for a file system")]
fn blocking<T: Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    spawn_blocking(look)
}

fn hangs(TlsFiles { certificate, key }: &TlsFiles) -> TlsError {
    TlsError::Hangs { certificate: certificate.clone(), key: key.clone() }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.lock()))
    }
}

fn modified(files: &TlsFiles) -> Modified {
    let modified = |path: &Path| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.ino(), metadata.len()))
    };
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
