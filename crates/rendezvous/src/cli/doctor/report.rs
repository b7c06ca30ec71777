//! The report of `doctor`, as text and as JSON. Pure.

use std::fmt::Write;

use serde_json::{Value, json};

use super::findings::{Finding, Verdict};
use super::mend::Proxy;

/// What was found.
pub(super) struct Report {
    /// The URL that was given.
    pub(super) url: String,
    /// What the proxies say about themselves.
    pub(super) through: Option<String>,
    pub(super) findings: Vec<Finding>,
}

impl Report {
    pub(super) fn has_fault(&self) -> bool {
        self.findings.iter().any(|finding| finding.verdict == Verdict::Fault)
    }

    /// The proxies whose lines are shown: the one that has named itself, or all that there is a sample of.
    fn proxies(&self) -> Vec<Proxy> {
        let named = self.through.as_deref().and_then(Proxy::named_in);
        named.map_or_else(|| Proxy::ALL.to_vec(), |proxy| vec![proxy])
    }

    /// The report for people. With `colors` for a terminal that shows them.
    pub(super) fn text(&self, colors: bool) -> String {
        let mut text = self.url.clone();
        if let Some(through) = &self.through {
            let _ = write!(text, " · through {through}");
        }
        text.push('\n');
        for Finding { check, verdict, text: found, .. } in &self.findings {
            let (begin, end) = if colors { (color(*verdict), "\x1b[0m") } else { ("", "") };
            let _ = writeln!(text, "  {begin}{:<8}{end}{check:<9}{found}", verdict.word());
        }
        for finding in &self.findings {
            let Some(mend) = finding.mend else { continue };
            let _ = writeln!(text, "\nTo mend {}:", finding.check);
            for proxy in self.proxies() {
                let _ = writeln!(text, "  {}", proxy.name());
                let lines = mend.lines(proxy);
                if lines.is_empty() {
                    let _ = writeln!(text, "      {}", mend.otherwise(proxy));
                }
                for line in lines {
                    let _ = writeln!(text, "      {line}");
                }
            }
        }
        let _ = match self.findings.iter().filter(|finding| finding.verdict == Verdict::Fault).count() {
            0 => writeln!(text, "\nno fault"),
            1 => writeln!(text, "\n1 fault"),
            faults => writeln!(text, "\n{faults} faults"),
        };
        text
    }

    /// The report for programs.
    pub(super) fn json(&self) -> Value {
        let proxies = self.proxies();
        let finding = |finding: &Finding| {
            json!({
                "check": finding.check,
                "verdict": finding.verdict.word(),
                "text": finding.text,
                "mend": finding.mend.map(|mend| mend.json(&proxies)),
            })
        };
        json!({
            "relay": self.url,
            "through": self.through,
            "ok": !self.has_fault(),
            "findings": self.findings.iter().map(finding).collect::<Vec<_>>(),
        })
    }
}

/// The escape sequence of a verdict's colour.
const fn color(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Good => "\x1b[32m",
        Verdict::Note => "\x1b[36m",
        Verdict::Fault => "\x1b[31m",
        Verdict::Unknown => "\x1b[33m",
    }
}

#[cfg(test)]
mod tests {
    use super::super::probes::Arrival;
    use super::*;
    use crate::cli::doctor::findings;

    fn report(through: Option<&str>) -> Report {
        Report {
            url: "https://relay.example/".into(),
            through: through.map(str::to_owned),
            findings: vec![findings::http2(None), findings::uploads(Arrival::End, Arrival::End)],
        }
    }

    #[test]
    fn a_fault_comes_with_the_lines_of_the_proxy_that_is_there() {
        assert_eq!(
            report(Some("nginx/1.22.1")).text(false),
            "https://relay.example/ · through nginx/1.22.1\n\
             \x20 note    HTTP/2   not offered without TLS: clients use HTTP/1.1, which is no fault\n\
             \x20 fault   uploads  buffered: a body is held until its end, so nothing is live\n\
             \n\
             To mend uploads:\n\
             \x20 nginx\n\
             \x20     proxy_http_version 1.1;\n\
             \x20     proxy_request_buffering off;\n\
             \x20     proxy_buffering off;\n\
             \n\
             1 fault\n"
        );
        let text = report(None).text(false);
        assert!(Proxy::ALL.iter().all(|proxy| text.contains(proxy.name())), "{text}");
        assert!(!text.contains('\x1b'));
        assert!(report(None).text(true).contains("\x1b[31mfault"));
    }

    #[test]
    fn the_report_for_programs_has_the_same() {
        let json = report(Some("nginx")).json();
        assert_eq!(json["ok"], false);
        assert_eq!(json["findings"][0]["mend"], Value::Null);
        assert_eq!(json["findings"][1]["verdict"], "fault");
        assert_eq!(json["findings"][1]["mend"]["nginx"][1], "proxy_request_buffering off;");
        assert_eq!(json["findings"][1]["mend"]["caddy"], Value::Null);
    }
}
