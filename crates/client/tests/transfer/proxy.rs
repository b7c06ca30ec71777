//! A TCP proxy that can cut all its connections.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinHandle};

/// A proxy to an address that can be changed.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    target: Arc<Mutex<SocketAddr>>,
    connections: Arc<Mutex<Vec<AbortHandle>>>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let target = Arc::new(Mutex::new(target));
        let connections = Arc::new(Mutex::new(Vec::new()));
        let (to, open) = (Arc::clone(&target), Arc::clone(&connections));
        let accepting = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let to = *to.lock().unwrap();
                let connection = tokio::spawn(async move {
                    if let Ok(mut server) = TcpStream::connect(to).await {
                        // A cut ends both.
                        drop(copy_bidirectional(&mut client, &mut server).await);
                    }
                });
                open.lock().unwrap().push(connection.abort_handle());
            }
        });
        Self { address, target, connections, accepting }
    }

    /// Cuts all connections. New ones go to the target as before.
    pub(crate) fn cut(&self) {
        for connection in self.connections.lock().unwrap().drain(..) {
            connection.abort();
        }
    }

    /// Cuts all connections, and sends new ones elsewhere.
    pub(crate) fn turn_to(&self, target: SocketAddr) {
        *self.target.lock().unwrap() = target;
        self.cut();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}
