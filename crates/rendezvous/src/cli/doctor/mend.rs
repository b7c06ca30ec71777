//! The lines of a proxy's configuration that mend a fault. They are those of the samples in `packaging/proxies`, which a test compares.

use serde_json::{Value, json};

/// What has to be mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mend {
    Buffering,
    BodyLimit,
    IdleLimit,
    Interim,
    Departure,
}

/// A proxy with a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proxy {
    Nginx,
    Haproxy,
    Caddy,
}

impl Proxy {
    pub(super) const ALL: [Self; 3] = [Self::Nginx, Self::Haproxy, Self::Caddy];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
            Self::Caddy => "Caddy",
        }
    }

    /// The proxy that names itself in `Server` or `Via`.
    pub(super) fn named_in(fields: &str) -> Option<Self> {
        let fields = fields.to_ascii_lowercase();
        Self::ALL.into_iter().find(|proxy| fields.contains(&proxy.name().to_ascii_lowercase()))
    }
}

impl Mend {
    #[cfg(test)]
    pub(super) const ALL: [Self; 5] =
        [Self::Buffering, Self::BodyLimit, Self::IdleLimit, Self::Interim, Self::Departure];

    /// The lines that mend it; none where the proxy has this fault only by a setting that has to go.
    pub(super) const fn lines(self, proxy: Proxy) -> &'static [&'static str] {
        match (self, proxy) {
            (Self::Buffering, Proxy::Nginx) => {
                &["proxy_http_version 1.1;", "proxy_request_buffering off;", "proxy_buffering off;"]
            }
            (Self::Buffering, Proxy::Haproxy) => &["option http-no-delay", "no option http-buffer-request"],
            (Self::Buffering | Self::Departure, Proxy::Caddy) => &["flush_interval 1ms"],
            (Self::BodyLimit, Proxy::Nginx) => &["client_max_body_size 0;"],
            (Self::IdleLimit, Proxy::Nginx) => &[
                "client_body_timeout 7h;",
                "send_timeout 7h;",
                "proxy_read_timeout 7h;",
                "proxy_send_timeout 7h;",
            ],
            (Self::IdleLimit, Proxy::Haproxy) => &["timeout client 7h", "timeout server 7h"],
            (Self::Interim, Proxy::Nginx) => &["proxy_http_version 1.1;"],
            (Self::Interim, Proxy::Caddy) => &["versions 1.1"],
            (Self::Departure, Proxy::Nginx) => {
                &["proxy_http_version 1.1;", "proxy_request_buffering off;", "proxy_ignore_client_abort off;"]
            }
            (Self::Departure, Proxy::Haproxy) => {
                &["# in the section defaults, because the frontend needs it too", "option abortonclose"]
            }
            (Self::BodyLimit, Proxy::Haproxy | Proxy::Caddy)
            | (Self::IdleLimit, Proxy::Caddy)
            | (Self::Interim, Proxy::Haproxy) => &[],
        }
    }

    /// What to look for where no line has to be added.
    pub(super) const fn otherwise(self, proxy: Proxy) -> &'static str {
        match (self, proxy) {
            (Self::BodyLimit, Proxy::Caddy) => "# no limit by default: remove `max_size` of `request_body`",
            (Self::BodyLimit, _) => "# no limit by default: remove rules on req.body_size or Content-Length",
            (Self::IdleLimit, _) => {
                "# no limit by default: remove `read_timeout` and `response_header_timeout`"
            }
            (Self::Interim, _) => "# passed on by default: remove rules that delete Expect",
            _ => "# nothing by default",
        }
    }

    /// The lines of the proxies as JSON.
    pub(super) fn json(self, proxies: &[Proxy]) -> Value {
        let lines = |proxy: &Proxy| (proxy.name().to_ascii_lowercase(), json!(self.lines(*proxy)));
        Value::Object(proxies.iter().map(lines).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLES: [(Proxy, &str); 3] = [
        (Proxy::Nginx, include_str!("../../../../../packaging/proxies/nginx.conf")),
        (Proxy::Haproxy, include_str!("../../../../../packaging/proxies/haproxy.cfg")),
        (Proxy::Caddy, include_str!("../../../../../packaging/proxies/Caddyfile")),
    ];

    #[test]
    fn every_line_is_one_of_the_sample_of_its_proxy() {
        for (proxy, sample) in SAMPLES {
            for line in Mend::ALL.iter().flat_map(|mend| mend.lines(proxy)) {
                assert!(sample.lines().any(|known| known.trim() == *line), "{proxy:?}: {line}");
            }
        }
    }

    #[test]
    fn every_fault_can_be_mended_in_nginx_and_is_explained_elsewhere() {
        for mend in Mend::ALL {
            assert!(!mend.lines(Proxy::Nginx).is_empty(), "{mend:?}");
            for proxy in Proxy::ALL {
                assert!(!mend.lines(proxy).is_empty() || mend.otherwise(proxy) != "# nothing by default");
            }
        }
    }

    #[test]
    fn a_proxy_is_known_by_its_name() {
        assert_eq!(Proxy::named_in("nginx/1.22.1"), Some(Proxy::Nginx));
        assert_eq!(Proxy::named_in("1.1 Caddy"), Some(Proxy::Caddy));
        assert_eq!(Proxy::named_in("cloudflare"), None);
    }
}
