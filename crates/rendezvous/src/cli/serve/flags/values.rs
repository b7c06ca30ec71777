//! Parsers for values of flags whose type the server does not define.

use std::error::Error;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::ValueEnum;
use rendezvous_server::config::{BadEngineUrl, EngineUrl, SecretError, Secrets, Token};

/// The maximum of `--threads`. A larger number is a mistake.
const MAX_THREADS: usize = 1024;

/// The values of `--data-path`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum DataPathName {
    Splice,
    Copy,
}

/// A token, and the file that it was read from.
#[derive(Debug, Clone)]
pub(super) struct TokenFile {
    pub(super) path: PathBuf,
    pub(super) token: Token,
}

pub(super) fn threads(text: &str) -> Result<usize, String> {
    let threads = text.parse().ok().filter(|threads| (1..=MAX_THREADS).contains(threads));
    threads.ok_or_else(|| format!("give a whole number from 1 to {MAX_THREADS}"))
}

pub(super) fn count(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| *count >= 1 && u32::try_from(*count).is_ok());
    count.ok_or_else(|| format!("give a whole number from 1 to {}", u32::MAX))
}

pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "give an address and a port, such as 127.0.0.1:9998 or [::1]:0".to_owned())
}

pub(super) fn engine_url(text: &str) -> Result<EngineUrl, String> {
    text.parse().map_err(|error: BadEngineUrl| error.to_string())
}

pub(super) fn secret_file(path: &str) -> Result<Arc<Secrets>, String> {
    let causes = |error: SecretError| match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    };
    Secrets::load(Path::new(path)).map(Arc::new).map_err(causes)
}

pub(super) fn token_file(path: &str) -> Result<TokenFile, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("the file cannot be read: {error}"))?;
    let token = Token::parse(text.trim()).map_err(|error| format!("the file holds no token: {error}"))?;
    Ok(TokenFile { path: path.into(), token })
}
