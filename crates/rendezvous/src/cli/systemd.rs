//! The protocols of a service manager such as systemd: it passes sockets to the server (`sd_listen_fds(3)`), and the server reports
//! its state to it (`sd_notify(3)`). Without a service manager the functions have no effect.

use std::fmt::Display;
use std::future::pending;
use std::time::Duration;

use anyhow::Context;
use listenfd::ListenFd;
use rendezvous_server::{Inherited, ListenerKind};
use sd_notify::{NotifyState, notify, watchdog_enabled};
use tracing::warn;

/// Takes the sockets that the service manager passed. A socket named `plain` or `admin` (`FileDescriptorName=` in a socket unit)
/// replaces the listener of `--plain-port` or `--admin-listen`, and any other socket that of `--port`.
///
/// Must be called before the process starts a thread, because it changes the environment, which no other thread may read meanwhile.
pub(crate) fn sockets() -> anyhow::Result<Vec<Inherited>> {
    debug_assert!(has_one_thread(), "another thread may read the environment that this call changes");
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut passed = ListenFd::from_env();
    let mut sockets = Vec::new();
    for index in 0..passed.len() {
        let kind = match names.next() {
            Some("plain") => ListenerKind::Plain,
            Some("admin") => ListenerKind::Admin,
            _ => ListenerKind::Main,
        };
        let socket = passed.take_tcp_listener(index).context("cannot use a socket of the service manager")?;
        sockets.extend(socket.map(|socket| Inherited { kind, socket }));
    }
    Ok(sockets)
}

/// Whether the process has one thread; also true on systems without `/proc`.
fn has_one_thread() -> bool {
    std::fs::read_dir("/proc/self/task").map_or(true, |threads| threads.count() == 1)
}

/// Reports that the server listens at `address`.
pub(crate) fn ready(address: impl Display) {
    report(&[NotifyState::Ready, NotifyState::Status(&format!("Listening on {address}"))]);
}

/// Reports that the server drains and will stop within `time`.
pub(crate) fn stopping(time: Duration) {
    let time = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
    report(&[
        NotifyState::Stopping,
        NotifyState::Status("Draining: existing streams may finish, and new ones are refused"),
        NotifyState::ExtendTimeoutUsec(time),
    ]);
}

/// Reports that the server is alive, twice in each interval of the watchdog, as long as the runtime does not hang. Never returns.
pub(crate) async fn feed_watchdog() {
    let Some(interval) = watchdog_enabled().filter(|interval| !interval.is_zero()) else {
        return pending().await;
    };
    let mut ticks = tokio::time::interval(interval / 2);
    loop {
        ticks.tick().await;
        report(&[NotifyState::Watchdog]);
    }
}

fn report(states: &[NotifyState<'_>]) {
    if let Err(error) = notify(states) {
        warn!(%error, "cannot report to the service manager");
    }
}
