//! The certificate of the listeners that speak TLS: loaded from its files, and reloaded when they change.
//!
//! *Invariant.* A certificate that cannot be loaded never replaces the current one.
//!
//! *Concurrency.* A file system may hang, so each check of the files runs on a blocking thread of the runtime, not on a worker, and times out after [`CHECK_TIMEOUT`]. A check
//! that hangs delays only the next one; handshakes use the current certificate meanwhile.
//!
//! *Bounds.* At most [`MAX_CHECKS`] threads hang. The process does not wait for them when it exits.

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

/// Interval of the checks for changed files.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// Time limit of a check, which reads only small files.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// Checks that may hang at a time: a periodic one, and some that were requested meanwhile.
const MAX_CHECKS: usize = 4;

/// The certificate or its key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file system does not answer.
    #[error(
        "cannot read {certificate:?} and {key:?}: the file system has not answered for {CHECK_TIMEOUT:?}"
    )]
    Hangs {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// A file does not contain a certificate or a private key in PEM.
    #[error("{path:?} holds no {what} in PEM")]
    Pem {
        /// The file.
        path: PathBuf,
        /// The expected content: `certificate` or `private key`.
        what: &'static str,
        /// The cause.
        source: pem::Error,
    },
    /// The certificate or the key is of an unsupported kind, or they do not match.
    #[error("the certificate of {certificate:?} cannot be used with the key of {key:?}")]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// The cause.
        source: rustls::Error,
    },
}

/// The certificate that handshakes use, and the files it comes from.
#[derive(Debug)]
pub(super) struct Certificate {
    files: TlsFiles,
    current: Mutex<Arc<CertifiedKey>>,
    /// The fingerprint of the files when they were last read.
    fingerprint: Mutex<Fingerprint>,
}

/// Modification time, inode and size of the certificate and of the key; `None` if unknown. The time alone is not enough: a file may be replaced
/// within one tick of the clock.
type Fingerprint = [Option<(SystemTime, u64, u64)>; 2];

impl Certificate {
    pub(super) async fn load(files: TlsFiles) -> Result<Arc<Self>, TlsError> {
        let reading = blocking({
            let files = files.clone();
            move || (fingerprint(&files), read(&files))
        });
        let read = timeout(CHECK_TIMEOUT, reading).await.map_err(|_| timeout_error(&files))?;
        let (fingerprint, read) =
            read.map_err(|panic| TlsError::Read { path: files.certificate.clone(), source: panic.into() })?;
        let current = Mutex::new(Arc::new(read?));
        Ok(Arc::new(Self { files, current, fingerprint: Mutex::new(fingerprint) }))
    }

    /// Returns the current chain, the server's own certificate first.
    pub(super) fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.current.lock().cert.clone()
    }

    /// Returns an acceptor of TLS 1.2 and 1.3 that offers HTTP/2 and HTTP/1 and uses the certificate current at each handshake.
    pub(super) fn acceptor(self: &Arc<Self>) -> TlsAcceptor {
        let mut config =
            ServerConfig::builder().with_no_client_auth().with_cert_resolver(Arc::clone(self) as Arc<_>);
        config.alpn_protocols = ["h2", "http/1.1", "http/1.0"].map(Into::into).to_vec();
        TlsAcceptor::from(Arc::new(config))
    }

    /// Reloads the files when they have changed, and whenever `reload` is notified. Existing connections are not affected. A certificate that
    /// cannot be used is logged, and the current one stays. Never returns.
    pub(super) async fn watch(&self, reload: &Notify) {
        let mut ticks = interval(CHECK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let permits = Arc::new(Semaphore::new(MAX_CHECKS));
        let mut is_requested = false;
        loop {
            is_requested = tokio::select! {
                biased;
                () = self.check(is_requested, &permits) => tokio::select! {
                    _ = ticks.tick() => false,
                    () = reload.notified() => true,
                },
                // A check that hangs is abandoned: the files may have changed since it began.
                () = reload.notified() => true,
            };
        }
    }

    async fn check(&self, is_requested: bool, permits: &Arc<Semaphore>) {
        let (files, known) = (self.files.clone(), *self.fingerprint.lock());
        let mut checking = pin!(async {
            let permit = Arc::clone(permits).acquire_owned().await.ok()?;
            let checked = blocking(move || {
                // Held until the thread is done, even if the check was abandoned.
                let _permit = permit;
                let fingerprint = fingerprint(&files);
                (fingerprint, (is_requested || fingerprint != known).then(|| read(&files)))
            });
            // The panic hook has logged a panic.
            checked.await.ok()
        });
        let checked = if let Ok(checked) = timeout(CHECK_TIMEOUT, &mut checking).await {
            checked
        } else {
            warn!(error = %timeout_error(&self.files), "the old certificate stays");
            let checked = checking.await;
            info!("the file system of the certificate answers again");
            checked
        };
        let Some((fingerprint, read)) = checked else { return };
        *self.fingerprint.lock() = fingerprint;
        match read {
            Some(Ok(fresh)) => {
                *self.current.lock() = Arc::new(fresh);
                info!("the certificate was reloaded");
            }
            Some(Err(error)) => warn!(error = %Chain(&error), "the old certificate stays"),
            None => {}
        }
    }
}

/// Calls `check` on a blocking thread.
#[expect(clippy::disallowed_methods, reason = "the runtime's worker threads must not wait for a file system")]
fn blocking<T: Send + 'static>(check: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    spawn_blocking(check)
}

fn timeout_error(TlsFiles { certificate, key }: &TlsFiles) -> TlsError {
    TlsError::Hangs { certificate: certificate.clone(), key: key.clone() }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.lock()))
    }
}

fn fingerprint(files: &TlsFiles) -> Fingerprint {
    let of = |path: &Path| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.ino(), metadata.len()))
    };
    [of(&files.certificate), of(&files.key)]
}

fn read(files: &TlsFiles) -> Result<CertifiedKey, TlsError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read_file(&files.certificate)?).collect();
    let chain =
        chain.and_then(|chain| if chain.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(chain) });
    let chain = chain.map_err(|source| TlsError::Pem {
        path: files.certificate.clone(),
        what: "certificate",
        source,
    })?;
    let key = PrivateKeyDer::from_pem_slice(&read_file(&files.key)?).map_err(|source| TlsError::Pem {
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

fn read_file(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}
