//! `rendezvous serve`: starts the server, handles signals, and reports to the terminal and the service manager.

mod flags;
mod greeting;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use rendezvous_server::config::Config;
use rendezvous_server::{BindError, ClusterConfig, Inherited, ListenerKind, SHUTDOWN_GRACE, Server};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

pub(crate) use self::flags::ServeArguments;
use self::greeting::{Greeting, own_address};
use super::signals::Signals;
use super::{log, systemd};

/// How long a blocking thread without work is kept. It must be shorter than the interval of the checks of the certificate: a check that begins
/// before the thread of the one before it is idle starts another thread, and the checks would keep both for ever.
const BLOCKING_THREAD_KEEP_ALIVE: Duration = Duration::from_secs(1);

/// Runs the server until a signal ends it.
pub(crate) fn run(arguments: &ServeArguments) -> anyhow::Result<()> {
    // Before the log and the runtime start their threads.
    let inherited = systemd::sockets()?;
    let (filter, format) = arguments.log();
    let _log_guard = log::start(filter, format);
    let config = arguments.config(raise_descriptor_limit());
    let cluster = arguments.cluster();
    let create_token_file = arguments.create_token_file().map(ToOwned::to_owned);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = arguments.threads() {
        runtime.worker_threads(threads);
    }
    runtime.thread_keep_alive(BLOCKING_THREAD_KEEP_ALIVE);
    let runtime = runtime.enable_all().build().context("cannot start the threads of the server")?;
    // Spawned on a worker of the runtime, so that the thread that accepts a connection can serve it.
    let ended = runtime.block_on(runtime.spawn(serve(config, cluster, create_token_file, inherited)));
    // Does not wait for blocking tasks, because a read of a file system that hangs may never end.
    runtime.shutdown_background();
    ended.context("a defect of the server")?
}

async fn serve(
    config: Config,
    cluster: Option<ClusterConfig>,
    create_token_file: Option<PathBuf>,
    inherited: Vec<Inherited>,
) -> anyhow::Result<()> {
    let mut signals = Signals::new().context("cannot listen for signals")?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot listen for signals")?;
    let drain = config.drain_timeout.get() + SHUTDOWN_GRACE;
    let (host, tls) = (config.host.clone(), config.tls.clone());
    let server = tokio::select! {
        bound = bind(config, inherited, cluster) => bound?,
        // There are no streams to drain yet.
        () = signals.next() => return Ok(()),
    };
    if let Some(main) = server.address(ListenerKind::Main) {
        let greeting = Greeting {
            main,
            plain: server.address(ListenerKind::Plain),
            admin: server.address(ListenerKind::Admin),
            host: &host,
            tls: tls.as_ref().map(|files| files.certificate.as_path()).zip(server.certificate()),
            create_token_file: create_token_file.as_deref(),
            own_address: own_address(main.ip()),
        };
        // Standard output may be closed.
        let _ = print(&greeting);
        systemd::ready(greeting.base());
    }
    let reload = server.reload();
    let stop = CancellationToken::new();
    tokio::select! {
        () = server.run(stop.cancelled()) => Ok(()),
        () = systemd::feed_watchdog() => Ok(()),
        () = async { while hangup.recv().await.is_some() { reload.notify_one() } } => Ok(()),
        () = async {
            signals.next().await;
            systemd::stopping(drain);
            stop.cancel();
            signals.next().await;
        } => anyhow::bail!("a second signal ended the server at once; running transfers were aborted"),
    }
}

async fn bind(
    config: Config,
    inherited: Vec<Inherited>,
    cluster: Option<ClusterConfig>,
) -> Result<Server, BindError> {
    match cluster {
        Some(cluster) => Server::bind_in_cluster(config, inherited, cluster).await,
        None => Server::bind(config, inherited).await,
    }
}

fn print(greeting: &Greeting<'_>) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    write!(out, "{greeting}")?;
    out.flush()
}

/// Raises the limit on descriptors as far as the system allows, because every connection needs one. Returns the limit in force, or
/// `None` if there is none.
fn raise_descriptor_limit() -> Option<usize> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // If this fails, the old limit is read below.
    let _ = setrlimit(Resource::Nofile, limit);
    let descriptors = getrlimit(Resource::Nofile).current?;
    Some(usize::try_from(descriptors).unwrap_or(usize::MAX))
}
