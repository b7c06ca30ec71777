//! A summary of the server's certificate: the host names it covers, and the root that clients must trust. Pure.

use rustls::pki_types::{CertificateDer, ServerName};
use webpki::EndEntityCert;

/// The certificate chain of the server. A certificate that cannot be parsed covers no host.
#[derive(Debug, Clone)]
pub struct CertificateSummary {
    /// The server's own certificate first.
    chain: Vec<CertificateDer<'static>>,
}

impl CertificateSummary {
    /// Summarizes a chain that begins with the server's own certificate.
    #[must_use]
    pub fn new(chain: Vec<CertificateDer<'static>>) -> Self {
        Self { chain }
    }

    /// Whether the certificate is valid for `host`, a DNS name or an IP address without brackets (RFC 9525, section 6).
    #[must_use]
    pub fn covers(&self, host: &str) -> bool {
        let Ok(name) = ServerName::try_from(host) else { return false };
        let leaf = self.chain.first().and_then(|der| EndEntityCert::try_from(der).ok());
        leaf.is_some_and(|leaf| leaf.verify_is_valid_for_subject_name(&name).is_ok())
    }

    /// Returns the DNS names of the certificate, except for wildcards.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let leaf = self.chain.first().and_then(|der| EndEntityCert::try_from(der).ok());
        let names = leaf.iter().flat_map(|leaf| leaf.valid_dns_names());
        names.filter(|name| !name.starts_with('*')).map(str::to_owned).collect()
    }

    /// Whether the chain ends with a root, as that of a self-signed certificate does. Then a client that trusts the certificates in
    /// the file accepts the server. Public authorities leave their root out, because clients have it.
    #[must_use]
    pub fn has_root(&self) -> bool {
        let last = self.chain.last().and_then(|der| EndEntityCert::try_from(der).ok());
        last.is_some_and(|last| last.issuer() == last.subject())
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

    use super::*;

    #[test]
    fn a_self_signed_certificate_covers_its_names_and_is_its_own_root() {
        let names = ["relay.example", "*.wild.example", "192.0.2.1"].map(str::to_owned);
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let summary = CertificateSummary::new(vec![made.cert.der().clone()]);
        assert!(summary.has_root());
        assert_eq!(summary.names(), ["relay.example"]);
        for (host, is_covered) in [
            ("relay.example", true),
            ("RELAY.example", true),
            ("a.wild.example", true),
            ("192.0.2.1", true),
            ("192.0.2.2", false),
            ("localhost", false),
            ("::1", false),
            ("not a host", false),
            ("", false),
        ] {
            assert_eq!(summary.covers(host), is_covered, "{host}");
        }
    }

    #[test]
    fn a_chain_has_a_root_only_if_its_last_certificate_is_one() {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, "a root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(["relay.example".to_owned()]).unwrap();
        let leaf = leaf.signed_by(&key, &root).unwrap().der().clone();
        let root = root.der().clone();
        assert!(!CertificateSummary::new(vec![leaf.clone()]).has_root());
        assert!(CertificateSummary::new(vec![leaf, root]).has_root());
        let broken = CertificateSummary::new(vec![vec![0; 9].into()]);
        assert!(!broken.has_root() && !broken.covers("localhost") && broken.names().is_empty());
        assert!(!CertificateSummary::new(Vec::new()).has_root());
    }
}
