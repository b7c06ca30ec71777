//! A TCP proxy that can cut all its connections.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A proxy to an address that can be changed. Dropping it ends it and its connections.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    target: Arc<Mutex<SocketAddr>>,
    connections: Arc<Mutex<JoinSet<()>>>,
    /// Only held: its task ends with it.
    _accepting: JoinSet<()>,
}

impl Proxy {
    pub(crate) async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let target = Arc::new(Mutex::new(target));
        let connections: Arc<Mutex<JoinSet<()>>> = Arc::default();
        let (to, open) = (Arc::clone(&target), Arc::clone(&connections));
        let accepting = JoinSet::from_iter([async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let to = *to.lock();
                open.lock().spawn(async move {
                    if let Ok(mut server) = TcpStream::connect(to).await {
                        // A cut ends both.
                        drop(copy_bidirectional(&mut client, &mut server).await);
                    }
                });
            }
        }]);
        Self { address, target, connections, _accepting: accepting }
    }

    /// Cuts all connections. New ones go to the target as before.
    pub(crate) fn cut(&self) {
        self.connections.lock().abort_all();
    }

    /// Cuts all connections, and sends new ones elsewhere.
    pub(crate) fn turn_to(&self, target: SocketAddr) {
        *self.target.lock() = target;
        self.cut();
    }
}
