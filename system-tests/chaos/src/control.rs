//! What is asked of a server beside the transfers: streams to be made, statuses, reports.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};

use crate::client::Asker;

/// Between two attempts at a server that is not there, or has no place.
const AGAIN: Duration = Duration::from_millis(20);
/// A server that is restarted is there again by then.
const INSISTS_FOR: Duration = Duration::from_secs(30);
/// For one answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// Connections for questions, to one server.
pub(crate) struct Control {
    address: SocketAddr,
    idle: Mutex<Vec<Asker>>,
}

impl Control {
    /// To the server at `address`.
    #[must_use]
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, idle: Mutex::default() }
    }

    /// The answer.
    ///
    /// # Errors
    /// There is none.
    pub(crate) async fn ask(&self, method: &str, path: &str, body: &str) -> io::Result<(u16, Vec<u8>)> {
        let idle = self.idle.lock().pop();
        let mut asker = idle.unwrap_or_else(|| Asker::new(self.address));
        let answer = timeout(ANSWERS_WITHIN, asker.ask(method, path, body)).await??;
        self.idle.lock().push(asker);
        Ok(answer)
    }

    /// Asks until there is an answer other than that there is no place. `None` where it is not `expected`, or none comes.
    pub(crate) async fn insist(
        &self,
        method: &str,
        path: &str,
        body: &str,
        expected: u16,
    ) -> Option<Vec<u8>> {
        let begun = Instant::now();
        while begun.elapsed() < INSISTS_FOR {
            match self.ask(method, path, body).await {
                Ok((status, answer)) if status == expected => return Some(answer),
                Ok((503, _)) | Err(_) => sleep(AGAIN).await,
                Ok(_) => return None,
            }
        }
        None
    }

    /// Closes the connections.
    pub(crate) fn close(&self) {
        self.idle.lock().clear();
    }
}
