//! [`PublicUrl`]: where clients reach this very server.

use std::fmt;
use std::str::FromStr;

use http::Uri;

use super::HostName;

/// The URL at which clients reach this server, with `http` or `https`, a host, and a port and a path if there are any. A proxy in front
/// removes the path.
///
/// ```
/// use rendezvous_server::config::PublicUrl;
///
/// let url: PublicUrl = "https://Node-1.Example/relay/".parse()?;
/// assert_eq!(url.to_string(), "https://node-1.example/relay");
/// assert!("node-1.example".parse::<PublicUrl>().is_err());
/// # Ok::<_, rendezvous_server::config::BadPublicUrl>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl {
    /// Without a slash at its end.
    text: String,
    host: HostName,
}

/// A text that is not a [`PublicUrl`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a public URL: give http:// or https:// and the host that clients use, and a port and a path if there are any, such as https://node-1.example or http://10.0.0.5:9999"
)]
pub struct BadPublicUrl(String);

impl PublicUrl {
    /// Returns the URL of the stream with this id.
    #[must_use]
    pub(crate) fn of_stream(&self, id: &str) -> String {
        format!("{}/stream/{id}", self.text)
    }

    /// Returns the host that clients send as `Host`.
    #[must_use]
    pub(crate) fn host(&self) -> &HostName {
        &self.host
    }
}

impl FromStr for PublicUrl {
    type Err = BadPublicUrl;

    fn from_str(text: &str) -> Result<Self, BadPublicUrl> {
        let parse = || {
            let uri: Uri = text.parse().ok()?;
            let scheme = uri.scheme_str().filter(|scheme| matches!(*scheme, "http" | "https"))?;
            let authority = uri.authority()?;
            let port = match uri.port() {
                Some(port) => format!(":{}", port.as_u16()),
                None => String::new(),
            };
            let host = authority.host().to_ascii_lowercase();
            // Neither credentials nor an invalid port.
            let is_plain = authority.as_str().len() == host.len() + port.len() && !text.contains(['?', '#']);
            let path = uri.path().trim_end_matches('/');
            is_plain.then_some(())?;
            Some(Self { text: format!("{scheme}://{host}{port}{path}"), host: host.parse().ok()? })
        };
        parse().ok_or_else(|| BadPublicUrl(text.to_owned()))
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_url_has_a_scheme_and_a_host_and_no_slash_at_its_end() {
        for (text, url) in [
            ("https://node-1.example", "https://node-1.example"),
            ("https://node-1.example/", "https://node-1.example"),
            ("HTTP://Node-1.Example:9999", "http://node-1.example:9999"),
            ("http://10.0.0.5:80", "http://10.0.0.5:80"),
            ("http://[2001:db8::1]:9999", "http://[2001:db8::1]:9999"),
            ("https://example.com/Relay/a//", "https://example.com/Relay/a"),
        ] {
            let parsed: PublicUrl = text.parse().unwrap();
            assert_eq!(parsed.to_string(), url, "{text}");
            assert_eq!(parsed.of_stream("x"), format!("{url}/stream/x"));
        }
    }

    #[test]
    fn a_text_that_is_no_public_url_is_refused_with_examples() {
        for text in [
            "",
            "node-1.example",
            "node-1.example:9999",
            "//node-1.example",
            "/stream",
            "https://",
            "https:///stream",
            "ftp://node-1.example",
            "https://user@node-1.example",
            "https://node-1.example:",
            "https://node-1.example:080",
            "https://node-1.example:99999",
            "https://node-1.example?x",
            "https://node-1.example/#x",
            "https://node 1.example",
            "https://*.example",
        ] {
            let error = text.parse::<PublicUrl>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("{text:?} is not a public URL: give http://")), "{error}");
        }
    }
}
