//! The host names that a loopback listener accepts.
//!
//! An attacker can make the name of a web page resolve to this machine (DNS rebinding). The browser then treats the server as the page's
//! own origin. Only the `Host` of its requests reveals this: it is the page's public name, and not a name of this machine. Pure.

use rendezvous_core::token::AuthError;

use super::head::RequestHead;
use crate::config::{HostName, PublicUrl};

/// The accepted names, in addition to local ones.
#[derive(Debug, Default)]
pub(crate) struct Hosts(Vec<HostName>);

impl Hosts {
    /// Accepts the `allowed` names (`--allow-host`), the `host` that the server listens on (`--host`), and the host of the URLs that it gives
    /// to clients (`--public-url`).
    #[must_use]
    pub(crate) fn new(host: &str, allowed: &[HostName], public_url: Option<&PublicUrl>) -> Self {
        let own = host.parse().into_iter().chain(public_url.map(|url| url.host().clone()));
        Self(own.chain(allowed.iter().cloned()).collect())
    }

    /// Checks every host name in the head of a request to a loopback listener. A head without a name passes, because browsers always
    /// send one.
    ///
    /// # Errors
    /// [`AuthError::Forbidden`] if one is not accepted.
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
        let public_url = "https://node-1.example:8443/relay".parse().unwrap();
        Hosts::new("my.machine", &allowed, Some(&public_url)).check(&request.body(()).unwrap()).is_ok()
    }

    #[test]
    fn a_host_is_accepted_if_it_is_local_or_allowed() {
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
            ("node-1.example", true),
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
    fn every_host_name_of_a_request_must_be_accepted() {
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
