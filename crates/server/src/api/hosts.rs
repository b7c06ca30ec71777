//! Which host names a listener on loopback accepts. Pure.
//!
//! The name of a web page can be made to resolve to this machine (DNS rebinding). The browser then treats the server as the
//! page's own origin. Only the `Host` of its requests shows it: it is the page's public name, and not one of this machine.

use rendezvous_core::token::AuthError;

use super::head::RequestHead;
use crate::config::HostName;

/// The accepted names, besides local ones.
#[derive(Debug, Default)]
pub(crate) struct Hosts(Vec<HostName>);

impl Hosts {
    /// Accepts the `allowed` names, and the `host` that the server listens on.
    #[must_use]
    pub(crate) fn new(host: &str, allowed: &[HostName]) -> Self {
        Self(host.parse().into_iter().chain(allowed.iter().cloned()).collect())
    }

    /// Checks every name in the head of a request to a listener on loopback. Browsers always send one, so a head without a name
    /// passes.
    ///
    /// # Errors
    /// [`AuthError::Forbidden`]
    pub(crate) fn check(&self, head: &impl RequestHead) -> Result<(), AuthError> {
        let is_ours = |host: HostName| host.is_local() || self.0.contains(&host);
        if head
            .authorities()
            .all(|named| named.and_then(|named| named.host().parse().ok()).is_some_and(is_ours))
        {
            Ok(())
        } else {
            Err(AuthError::Forbidden(
                "This listener is on loopback and does not accept this Host: use http://localhost, or start the server with \
                 --allow-host NAME, or, behind a proxy, with --trusted-proxy",
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn check(target: &str, hosts: &[&str]) -> bool {
        let allowed = ["relay.example".parse().unwrap(), "10.0.0.5".parse().unwrap()];
        let request =
            hosts.iter().fold(Request::builder().uri(target), |builder, host| builder.header("host", *host));
        Hosts::new("my.machine", &allowed).check(&request.body(()).unwrap()).is_ok()
    }

    #[test]
    fn a_host_is_one_of_this_machine_or_one_that_was_allowed() {
        for (host, passes) in [
            ("localhost", true),
            ("LOCALHOST:9999", true),
            ("localhost.:9999", true),
            ("a.b.localhost:1", true),
            ("127.0.0.1:9999", true),
            ("127.255.0.1", true),
            ("[::1]:9999", true),
            ("[::1]", true),
            ("[::ffff:127.0.0.1]:80", true),
            ("my-machine:9999", true),
            ("another-machine", true),
            ("my.machine:9999", true),
            ("relay.example", true),
            ("Relay.Example.:8080", true),
            ("10.0.0.5:9999", true),
            ("", true),
            ("evil.example", false),
            ("evil.example:9999", false),
            ("localhost.evil.example", false),
            ("evil-localhost.example", false),
            ("127.0.0.1.evil.example", false),
            ("relay.example.evil.example", false),
            ("sub.relay.example", false),
            ("localhost@evil.example", false),
            ("10.0.0.6", false),
            ("0.0.0.0:9999", false),
            ("[::2]", false),
            ("[::1", false),
            ("a b", false),
            ("*", false),
        ] {
            assert_eq!(check("/", &[host]), passes, "{host}");
        }
    }

    #[test]
    fn every_name_of_a_request_counts() {
        for (target, hosts, passes) in [
            ("/", &[][..], true),
            ("/", &["localhost", "localhost"], true),
            ("/", &["localhost", "evil.example"], false),
            ("/", &["evil.example", "localhost"], false),
            ("http://localhost/", &[], true),
            ("http://evil.example/", &[], false),
            ("http://evil.example/", &["localhost"], false),
            ("http://localhost/", &["evil.example"], false),
        ] {
            assert_eq!(check(target, hosts), passes, "{target} {hosts:?}");
        }
    }
}
