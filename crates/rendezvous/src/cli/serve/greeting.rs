//! The text that the program prints once it listens: its addresses, and commands that try it with the settings in force.
//!
//! *Invariant.* Tests and scripts read the text, so its form is fixed: a line for each listener, that of `--port` first; then comments; then
//! the commands.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;

use rendezvous_server::CertificateSummary;

/// The values in the text, which its [`Display`](fmt::Display) prints. Pure.
pub(crate) struct Greeting<'a> {
    /// The listener of `--port`.
    pub(crate) main: SocketAddr,
    /// The listener of `--plain-port`.
    pub(crate) plain: Option<SocketAddr>,
    /// The listener of `--admin-listen`.
    pub(crate) admin: Option<SocketAddr>,
    /// The value of `--host`.
    pub(crate) host: &'a str,
    /// The file of the certificate chain and its content, if `main` speaks TLS.
    pub(crate) tls: Option<(&'a Path, CertificateSummary)>,
    /// The file of the token that creating a stream requires.
    pub(crate) create_token_file: Option<&'a Path>,
    /// This machine's address in its network, for a `main` that listens on all of them.
    pub(crate) own_address: Option<IpAddr>,
}

/// The URL and options with which curl reaches the server.
struct Target {
    /// The URL without a path.
    url: String,
    /// The options of curl that the certificate needs.
    options: String,
    /// Comments on what the user must replace or add on other machines.
    comments: Vec<String>,
}

impl Greeting<'_> {
    /// The URL of `main`, with the address that it listens on.
    pub(crate) fn base(&self) -> String {
        self.url(self.main)
    }

    fn url(&self, authority: impl fmt::Display) -> String {
        format!("{}://{authority}", if self.tls.is_some() { "https" } else { "http" })
    }

    fn is_on_loopback(&self) -> bool {
        self.main.ip().to_canonical().is_loopback()
    }

    /// The address of `main`; if it listens on all addresses, the machine's own.
    fn address(&self) -> Option<SocketAddr> {
        if self.main.ip().to_canonical().is_unspecified() {
            self.own_address.map(|ip| SocketAddr::new(ip, self.main.port()))
        } else {
            Some(self.main)
        }
    }

    fn target(&self) -> Target {
        let Some((file, certificate)) = &self.tls else { return self.target_without_tls() };
        let (host, mut comments) = match self.covered_host(certificate) {
            Some(host) => host,
            // A connection that does not leave the machine cannot be intercepted.
            None if self.is_on_loopback() => {
                let reason = format!("-k, because the certificate does not cover {}", self.main.ip());
                return Target { url: self.base(), options: " -k".to_owned(), comments: vec![reason] };
            }
            None => {
                let placeholder =
                    "HOST: a name that the certificate covers and that resolves to this machine";
                (format!("HOST:{}", self.main.port()), vec![placeholder.to_owned()])
            }
        };
        let mut options = String::new();
        if certificate.has_root() {
            options = format!(" --cacert {}", quoted(file));
            if !self.is_on_loopback() {
                comments.push("--cacert: on other machines, a copy of the file".to_owned());
            }
        } else {
            comments.push(
                "If curl does not trust the issuer of the certificate, add --cacert and the issuer's certificate".to_owned(),
            );
        }
        Target { url: self.url(host), options, comments }
    }

    fn target_without_tls(&self) -> Target {
        let (url, comments) = if let Some(address) = self.address() {
            (self.url(address), Vec::new())
        } else {
            let placeholder = "HOST: an address or name of this machine that others reach";
            (self.url(format_args!("HOST:{}", self.main.port())), vec![placeholder.to_owned()])
        };
        Target { url, options: String::new(), comments }
    }

    /// A host that the certificate covers, with the port, and comments on it. A name of the certificate is the last choice, because it
    /// may resolve to another machine.
    fn covered_host(&self, certificate: &CertificateSummary) -> Option<(String, Vec<String>)> {
        let (address, port) = (self.address(), self.main.port());
        let named = |name: &str| format!("{name}:{port}");
        if let Some(address) = address
            && certificate.covers(&address.ip().to_canonical().to_string())
        {
            return Some((address.to_string(), Vec::new()));
        }
        if self.host.parse::<IpAddr>().is_err() && certificate.covers(self.host) {
            return Some((named(self.host), Vec::new()));
        }
        if self.is_on_loopback() {
            return certificate.covers("localhost").then(|| (named("localhost"), Vec::new()));
        }
        let covered = certificate.names();
        let name = covered.iter().find(|name| *name != "localhost").or(covered.first())?;
        let address = address.map_or_else(|| "ADDRESS".to_owned(), |address| bracketed(address.ip()));
        let place = if name == "localhost" {
            "On other machines"
        } else {
            "Where this name does not resolve to this machine"
        };
        Some((named(name), vec![format!("{place}, add --resolve {name}:{port}:{address}")]))
    }
}

impl fmt::Display for Greeting<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Listening on {}", self.base())?;
        if let Some(plain) = self.plain {
            writeln!(f, "Listening without TLS on http://{plain}")?;
        }
        if let Some(admin) = self.admin {
            writeln!(f, "Listening for operators on http://{admin}")?;
        }
        let Target { url, options, comments } = self.target();
        for comment in comments {
            writeln!(f, "  # {comment}")?;
        }
        let mut token = "";
        if let Some(file) = self.create_token_file {
            token = r#" -H "Authorization: Bearer $TOKEN""#;
            writeln!(f, "  TOKEN=$(tr -d '[:space:]' <{})", quoted(file))?;
        }
        // Brackets are special in some shells.
        let quote = if url.contains('[') { "\"" } else { "" };
        let all = format!("{quote}{url}/stream{quote}");
        let one = format!("{quote}{url}/stream/$id{quote}");
        writeln!(
            f,
            r#"  id=$(curl -fsS{options}{token} -X POST {all} | cut -d'"' -f4); curl -fsS{options} {one} &"#
        )?;
        writeln!(f, "  echo hello | curl -fsS{options} -T - {one}")
    }
}

/// The address in the syntax of URLs.
fn bracketed(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

/// The absolute path, quoted for a shell if necessary.
fn quoted(path: &Path) -> String {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string();
    let is_plain = path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-+@%:,=".contains(&byte));
    if is_plain { path } else { format!("'{}'", path.replace('\'', r"'\''")) }
}

/// Returns the address of this machine at which others reach a listener on `all` addresses: the source address of the default route.
/// `None` without a route. Nothing is sent, because connecting a UDP socket only looks up the route.
pub(crate) fn own_address(all: IpAddr) -> Option<IpAddr> {
    // Addresses for documentation (RFC 5737 and RFC 3849), which only a default route matches.
    let toward_ipv4 = || source_address(Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into());
    let toward_ipv6 = || {
        source_address(Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into())
    };
    match all {
        IpAddr::V4(_) => toward_ipv4(),
        IpAddr::V6(_) => toward_ipv6().or_else(toward_ipv4),
    }
}

fn source_address(any: IpAddr, destination: IpAddr) -> Option<IpAddr> {
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((destination, 9)).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_unspecified() && !address.is_loopback()).then_some(address)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};

    use super::*;

    fn greeting(main: &str) -> Greeting<'static> {
        Greeting {
            main: main.parse().unwrap(),
            plain: None,
            admin: None,
            host: "127.0.0.1",
            tls: None,
            create_token_file: None,
            own_address: Some([10, 0, 0, 5].into()),
        }
    }

    fn lines(greeting: &Greeting<'_>) -> Vec<String> {
        greeting.to_string().lines().map(|line| line.trim_start().to_owned()).collect()
    }

    fn self_signed(names: &[&str]) -> CertificateSummary {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        CertificateSummary::new(vec![made.cert.der().clone()])
    }

    fn issued(name: &str) -> CertificateSummary {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, "an authority");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let certificate = params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap();
        CertificateSummary::new(vec![certificate.der().clone()])
    }

    /// Whether a URL is in a command as a whole.
    fn has_url(line: &str, url: &str) -> bool {
        let quote = if url.contains('[') { "\"" } else { "" };
        line.contains(&format!(" {quote}{url}/stream/$id{quote}"))
    }

    #[test]
    fn every_listener_has_a_line_and_the_commands_come_last() {
        let greeting = Greeting {
            plain: "127.0.0.1:8080".parse().ok(),
            admin: "127.0.0.1:9998".parse().ok(),
            ..greeting("127.0.0.1:9999")
        };
        assert_eq!(
            greeting.to_string(),
            "Listening on http://127.0.0.1:9999\n\
             Listening without TLS on http://127.0.0.1:8080\n\
             Listening for operators on http://127.0.0.1:9998\n\
             \x20 id=$(curl -fsS -X POST http://127.0.0.1:9999/stream | cut -d'\"' -f4); \
             curl -fsS http://127.0.0.1:9999/stream/$id &\n\
             \x20 echo hello | curl -fsS -T - http://127.0.0.1:9999/stream/$id\n"
        );
    }

    #[test]
    fn a_create_token_is_read_from_its_file() {
        let file = Path::new("/etc/a relay's/token");
        let lines = lines(&Greeting { create_token_file: Some(file), ..greeting("127.0.0.1:9999") });
        assert_eq!(lines[1], r"TOKEN=$(tr -d '[:space:]' <'/etc/a relay'\''s/token')");
        assert!(lines[2].contains(r#"-fsS -H "Authorization: Bearer $TOKEN" -X POST "#), "{lines:?}");
        assert_eq!(lines[2].matches("TOKEN").count() + lines[3].matches("TOKEN").count(), 1, "{lines:?}");
    }

    #[test]
    fn the_commands_for_a_listener_on_all_addresses_have_the_machines_own_or_a_placeholder() {
        for (main, own, url) in [
            ("0.0.0.0:9999", Some("10.0.0.5"), "http://10.0.0.5:9999"),
            ("[::]:9999", Some("2001:db8::5"), "http://[2001:db8::5]:9999"),
            ("[::ffff:0.0.0.0]:9999", Some("10.0.0.5"), "http://10.0.0.5:9999"),
            ("0.0.0.0:9999", None, "http://HOST:9999"),
            ("192.0.2.7:80", None, "http://192.0.2.7:80"),
            ("[::1]:80", None, "http://[::1]:80"),
        ] {
            let own_address = own.map(|own| own.parse().unwrap());
            let lines = lines(&Greeting { own_address, ..greeting(main) });
            assert_eq!(lines[0], format!("Listening on http://{main}"));
            let commands = &lines[lines.len() - 2..];
            assert!(commands.iter().all(|line| has_url(line, url)), "{lines:?}");
            let comment = "# HOST: an address or name of this machine that others reach";
            assert_eq!(lines.contains(&comment.to_owned()), url.contains("HOST"), "{lines:?}");
        }
    }

    #[test]
    fn the_commands_have_a_host_that_the_certificate_covers() {
        let (near, all) = ("127.0.0.1:9443", "0.0.0.0:9443");
        let resolve =
            "# Where this name does not resolve to this machine, add --resolve relay.example:9443:10.0.0.5";
        for (main, host, names, url, comment) in [
            (near, "127.0.0.1", &["127.0.0.1"][..], "https://127.0.0.1:9443", None),
            (near, "127.0.0.1", &["localhost"], "https://localhost:9443", None),
            (near, "my.example", &["localhost", "my.example"], "https://my.example:9443", None),
            (all, "0.0.0.0", &["10.0.0.5"], "https://10.0.0.5:9443", None),
            (all, "0.0.0.0", &["localhost", "relay.example"], "https://relay.example:9443", Some(resolve)),
            (
                all,
                "0.0.0.0",
                &["localhost"],
                "https://localhost:9443",
                Some("# On other machines, add --resolve localhost:9443:10.0.0.5"),
            ),
            ("10.0.0.5:9443", "relay.example", &["relay.example"], "https://relay.example:9443", None),
            (
                all,
                "0.0.0.0",
                &["*.example"],
                "https://HOST:9443",
                Some("# HOST: a name that the certificate covers and that resolves to this machine"),
            ),
        ] {
            let tls = Some((Path::new("/cert.pem"), self_signed(names)));
            let lines = lines(&Greeting { host, tls, ..greeting(main) });
            let commands = &lines[lines.len() - 2..];
            assert!(commands.iter().all(|line| has_url(line, url)), "{lines:?}");
            assert!(commands.iter().all(|line| line.contains("curl -fsS --cacert /cert.pem ")), "{lines:?}");
            let copy = (main != near).then_some("# --cacert: on other machines, a copy of the file");
            let comments: Vec<_> = comment.into_iter().chain(copy).collect();
            assert_eq!(lines[1..lines.len() - 2], comments, "{lines:?}");
        }
    }

    #[test]
    fn a_certificate_that_does_not_cover_loopback_is_not_verified_there() {
        let tls = Some((Path::new("/cert.pem"), self_signed(&["relay.example"])));
        let lines = lines(&Greeting { tls, ..greeting("127.0.0.1:9443") });
        assert_eq!(lines[1], "# -k, because the certificate does not cover 127.0.0.1");
        assert!(lines[2..].iter().all(|line| line.contains("curl -fsS -k ")), "{lines:?}");
        assert!(lines[2..].iter().all(|line| has_url(line, "https://127.0.0.1:9443")), "{lines:?}");
    }

    #[test]
    fn curl_is_expected_to_trust_the_issuer_of_a_certificate() {
        let tls = Some((Path::new("/cert.pem"), issued("localhost")));
        let lines = lines(&Greeting { tls, ..greeting("127.0.0.1:9443") });
        assert!(lines[1].starts_with("# If curl does not trust the issuer of the certificate"), "{lines:?}");
        assert!(lines.iter().all(|line| !line.contains("--cacert /")), "{lines:?}");
    }

    #[test]
    fn the_own_address_is_one_that_other_machines_can_use() {
        for all in [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()] {
            let address: Option<IpAddr> = own_address(all);
            assert!(address.is_none_or(|address| !address.is_loopback() && !address.is_unspecified()));
        }
    }
}
