//! What a service manager such as systemd gives, and is told: the sockets that it keeps for the server
//! (`sd_listen_fds(3)`), and how the server is (`sd_notify(3)`). Without one, nothing of this does anything.

use std::fmt::Display;
use std::future::pending;
use std::time::Duration;

use anyhow::Context;
use listenfd::ListenFd;
use rendezvous_server::{Inherited, ListenerKind};
use sd_notify::{NotifyState, notify, watchdog_enabled};
use tracing::warn;

/// The sockets that were handed over. Those whose name is `plain` or `admin` (`FileDescriptorName=` in a socket unit) take the
/// place of `--plain-port` and of `--admin-listen`, any other that of `--port`. Called once, before the process starts a thread:
/// it changes the environment, which no other thread may read meanwhile.
pub(crate) fn sockets() -> anyhow::Result<Vec<Inherited>> {
    debug_assert!(has_one_thread(), "the environment is changed beside another thread");
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut given = ListenFd::from_env();
    let mut sockets = Vec::new();
    for index in 0..given.len() {
        let kind = match names.next() {
            Some("plain") => ListenerKind::Plain,
            Some("admin") => ListenerKind::Admin,
            _ => ListenerKind::Main,
        };
        let socket = given.take_tcp_listener(index).context("cannot use a socket that was handed over")?;
        sockets.extend(socket.map(|socket| Inherited { kind, socket }));
    }
    Ok(sockets)
}

/// True also where the system does not list the threads.
fn has_one_thread() -> bool {
    std::fs::read_dir("/proc/self/task").map_or(true, |threads| threads.count() == 1)
}

/// The server listens, at `address`.
pub(crate) fn ready(address: impl Display) {
    tell(&[NotifyState::Ready, NotifyState::Status(&format!("Listening on {address}"))]);
}

/// The server drains, which is to be over in `time`.
pub(crate) fn stopping(time: Duration) {
    let time = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
    tell(&[
        NotifyState::Stopping,
        NotifyState::Status("Draining: streams end, and none begins"),
        NotifyState::ExtendTimeoutUsec(time),
    ]);
}

/// Says that the server lives, as often as the manager wants to hear it. A runtime that is stuck does not.
pub(crate) async fn keep_watchdog_calm() {
    let Some(patience) = watchdog_enabled().filter(|patience| !patience.is_zero()) else {
        return pending().await;
    };
    let mut turns = tokio::time::interval(patience / 2);
    loop {
        turns.tick().await;
        tell(&[NotifyState::Watchdog]);
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = notify(states) {
        warn!(%error, "the service manager can not be told how the server is");
    }
}
