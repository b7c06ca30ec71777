//! The benchmark of distance: throughput and CPU time of transfers with a client that is far away. `cargo bench --bench distance` runs it.
//!
//! It starts the server, and uploads and downloads through it. One side of each transfer, the *distant* one, connects through
//! [`measure::forwarder`], which puts a round trip between the two, and speaks HTTP/1.1, HTTP/1.1 over TLS or HTTP/2 over TLS. The other
//! side, the *near* one, connects directly over plain HTTP/1.1 and is fast. Without a round trip there is no forwarder.
//!
//! The contenders are the server and
//!
//! - an earlier build, if `BASELINE` names one: over HTTP/2, and without distance over HTTP/1.1 with TLS. `relay` measures its plain
//!   connections;
//! - nginx, if it is installed, without distance: it passes the distant side's bytes on to a plain HTTP/1.1 server or from it, which is
//!   what the server does for the same bytes. Once with its defaults, and once with large buffers.
//!
//! They take turns within each round. Everything runs on the same CPUs, so without distance the CPU time is more reliable than the
//! throughput.
//!
//! A path has a bound on the bytes that are sent and not acknowledged: the default is 4 MiB, to which Linux limits a socket's send buffer.
//! Eight HTTP/2 streams share one connection, and so one such bound. Eight connections of HTTP/1.1 get an eighth of it each, so that both
//! share the same path. In reality eight connections to an idle path would get eight times as much: a property of TCP, which
//! no server can give to one connection.
//!
//! A transfer over a distance is what the source can send in a number of round trips, and at most what the path can carry in them. With
//! a number of bytes alone, a contender at a hundredth of the speed would take minutes. Without the second limit the kernels' buffers would
//! take tens of MiB. Throughput is the bytes divided by the time from the start of the PUT until its 200 and the destination's last
//! byte. The last byte counts because a download is acknowledged by the forwarder's kernel. Connections and the first request of a
//! destination come before that time. A connection is new, so its windows and buffers grow within it.
//!
//! | variable | effect |
//! |---|---|
//! | `ROUNDS=3` | number of rounds |
//! | `QUICK=1` | one round of short transfers, as a smoke test |
//! | `BASELINE=path/to/rendezvous` | adds an earlier build |
//! | `SVG=docs/distance.svg` | draws a chart into this file |
//! | `RATE=12500000` | bytes per second in each direction of a path; 0, the default, for no limit |
//! | `IN_FLIGHT=4194304` | bytes on the way in each direction of a path; 0 for no limit |
//!
//! Relative paths start at the root of the repository. Arguments select the workloads whose names contain all of them:
//! `cargo bench --bench distance -- upload "50 ms"`.
//!
//! Read [`linux`] (the rounds) first, then `workload` (what is measured).
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the report goes to stdout, progress to stderr"
)]
#![allow(clippy::disallowed_methods, reason = "it measures real time; tasks end with the runtime")]
#![allow(clippy::cast_precision_loss, reason = "figures need fewer than 16 digits")]

#[cfg(target_os = "linux")]
mod linux;

#[cfg(target_os = "linux")]
fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (options, words): (Vec<_>, Vec<_>) =
        arguments.into_iter().partition(|argument| argument.starts_with("--"));
    // `cargo test --all-targets` runs this program too, without `--bench`.
    if options.iter().any(|option| option == "--bench") {
        linux::run(&words)
    } else {
        println!("nothing measured: run `cargo bench --bench distance`");
        Ok(())
    }
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("nothing measured: the benchmark needs /proc, which only Linux has");
}
