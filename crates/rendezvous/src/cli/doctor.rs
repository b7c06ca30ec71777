//! `rendezvous doctor`: sends probes to itself through whatever stands before a relay, and says what has to be mended.
//!
//! `probes` observes, `findings` judges, `mend` has the lines of the proxies, `report` writes. `wire` is the HTTP of the probes.
//!
//! *Bounds.* All probes run at the same time, over at most a dozen connections; the longest takes `--wait`. They send some 2 MiB.

#![allow(clippy::doc_markdown, reason = "the help is plain text")]

mod findings;
mod mend;
mod probes;
mod report;
mod wire;

use std::io::{IsTerminal, Write, stderr, stdout};
use std::net::IpAddr;
use std::time::Duration;

use clap::Args;
use rendezvous_server::config::Period;

use self::findings::{Finding, Verdict};
use self::probes::Access;
use self::report::Report;
use self::wire::Target;
use super::exit::{Exit, Failure};
use super::transfer;
use super::transfer::relay::{TokenFlag, choose};
use super::transfer::text::harmless;

/// Find out what stands between you and a relay
///
/// Sends probes to itself through the relay and the proxies before it, and reports what they do to
/// uploads, large bodies, waits and interim responses. Each fault comes with the lines for nginx,
/// HAProxy or Caddy that mend it. Exits with 0 if there is no fault, otherwise with 1. The probes
/// connect directly, not by the proxies of this machine's settings.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct DoctorArguments {
    /// URL of the relay [default: as for send]
    #[arg(value_name = "URL", env = "RENDEZVOUS_TO")]
    url: Option<String>,
    #[command(flatten)]
    token: TokenFlag,
    /// Report as one JSON object
    #[arg(long)]
    json: bool,
    /// How long a request waits, to find out whether it is cut
    ///
    /// send and recv never wait longer than the default.
    #[arg(long, value_name = "PERIOD", default_value = "25s", verbatim_doc_comment)]
    wait: Period,
}

/// Examines the relay and prints the report.
pub(crate) fn run(arguments: &DoctorArguments) -> Result<Exit, Failure> {
    let (relay, token) = choose(arguments.url.as_deref(), &arguments.token)?;
    let target = Target::new(relay.url, token)?;
    let wait = arguments.wait.get();
    if stderr().is_terminal() && !arguments.json {
        let _ = writeln!(stderr(), "sending probes, for up to {} s", wait.as_secs() + 5);
    }
    let ended = transfer::run(|stop| async move {
        tokio::select! {
            report = examine(&target, wait) => report.map_err(Failure::from),
            () = stop.cancelled() => Err(Failure::new(Exit::Interrupted, "interrupted")),
        }
    });
    let report = ended??;
    let text = if arguments.json { format!("{}\n", report.json()) } else { report.text(are_colors_shown()) };
    let mut out = stdout().lock();
    // Standard output may be closed; the exit code still has the answer.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    Ok(if report.has_fault() { Exit::Failed } else { Exit::Stored })
}

/// Whether standard output is a terminal that shows colours, and its user wants them (<https://no-color.org>).
fn are_colors_shown() -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    stdout().is_terminal() && !is_set("NO_COLOR") && !is_dumb
}

async fn examine(target: &Target, wait: Duration) -> anyhow::Result<Report> {
    let handshake = target.handshake().await?;
    let identity = probes::identity(target).await?;
    let mut findings = vec![
        findings::version(&identity),
        findings::tls(handshake.as_ref(), is_loopback(target)),
        findings::http2(handshake.as_ref()),
    ];
    if identity.version.is_some() {
        let access = probes::access(target).await;
        findings.push(findings::access(&access));
        if access == Access::Open {
            findings.extend(transfers(target, wait).await);
        } else {
            let text = "uploads, body, idle, interim and seats could not be measured without paths";
            findings.push(Finding::new("others", Verdict::Unknown, text));
        }
    }
    findings.push(findings::clock(identity.clock));
    let through = identity.through.as_deref().map(harmless);
    Ok(Report { url: target.url.to_string(), through, findings })
}

/// Runs all probes that need a path, at the same time.
async fn transfers(target: &Target, wait: Duration) -> Vec<Finding> {
    let (with_length, chunked, body, waiting, pausing, interim, departure) = tokio::join!(
        probes::uploads(target, false),
        probes::uploads(target, true),
        probes::body_limit(target),
        probes::waiting(target, wait),
        probes::pausing(target, wait),
        probes::interim(target),
        probes::departure(target),
    );
    let judged = |check, finding: anyhow::Result<Finding>| {
        finding.unwrap_or_else(|error| Finding::unknown(check, &error))
    };
    let uploads = with_length.and_then(|with_length| Ok(findings::uploads(with_length, chunked?)));
    vec![
        judged("uploads", uploads),
        judged("body", body.map(|limit| findings::body(&limit))),
        judged("idle", waiting.map(|waiting| findings::idle(&waiting, &pausing, wait))),
        judged("interim", interim.map(findings::interim)),
        judged("seats", departure.map(findings::departure)),
    ]
}

/// Whether the URL names this machine.
fn is_loopback(target: &Target) -> bool {
    let host = target.url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    match host.parse::<IpAddr>() {
        Ok(ip) => ip.to_canonical().is_loopback(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}
