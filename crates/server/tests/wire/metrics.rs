//! The metrics: their values match the load, they reveal no secrets, and both formats are valid.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use testkit::client::{Client, WAIT_TIMEOUT};
use testkit::messages::{bearer, framed, request};
use testkit::server::{TestServer, get, is_copied, post};
use testkit::settings::{
    ADMIN_TOKEN, on_all_addresses, with_admin_listener, with_admin_token, with_open_list,
};
use testkit::transport::is_tls;

const OPEN_METRICS: &str = "Accept: application/openmetrics-text\r\n";

/// A scrape, parsed strictly.
#[derive(Debug, Default)]
pub(crate) struct Exposition {
    /// The types of all metric families, by name.
    pub families: BTreeMap<String, String>,
    /// The values of all samples as text, by name and labels.
    pub samples: BTreeMap<Sample, String>,
}

/// A name and labels.
pub(crate) type Sample = (String, BTreeMap<String, String>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    OpenMetrics,
    Prometheus,
}

impl Exposition {
    /// Scrapes the server in the format `OpenMetrics`.
    pub(crate) async fn of(server: &TestServer) -> Self {
        Self::scrape(server, OPEN_METRICS, Format::OpenMetrics).await
    }

    /// Scrapes the server in the older format of Prometheus, where the name of a counter is that of its samples.
    pub(crate) async fn in_prometheus_format(server: &TestServer) -> Self {
        Self::scrape(server, "", Format::Prometheus).await
    }

    async fn scrape(server: &TestServer, fields: &str, format: Format) -> Self {
        let response = server.ask(request("GET", "/metrics", fields)).await;
        assert_eq!(response.status, 200, "{response:?}");
        Self::parse(std::str::from_utf8(&response.body).unwrap(), format)
    }

    /// The sum of the integer values of all samples that have these labels.
    pub(crate) fn count(&self, name: &str, labels: &[(&str, &str)]) -> usize {
        let name = format!("rendezvous_{name}");
        let has = |found: &BTreeMap<String, String>, (label, value): &(&str, &str)| {
            found.get(*label).is_some_and(|found| found == value)
        };
        let samples = self.samples.iter().filter(|((found, _), _)| *found == name);
        let values = samples.filter(|((_, found), _)| labels.iter().all(|label| has(found, label)));
        let values: Vec<usize> = values.map(|(_, value)| value.parse().unwrap()).collect();
        assert!(!values.is_empty(), "no {name} {labels:?}: {self:#?}");
        values.into_iter().sum()
    }

    fn value(&self, name: &str, labels: &[(&str, &str)]) -> &str {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let key = (format!("rendezvous_{name}"), labels);
        self.samples.get(&key).unwrap_or_else(|| panic!("no {key:?}: {self:#?}"))
    }

    /// The integer values, other than 0, of a metric with one label, by that label.
    fn by_label(&self, name: &str) -> BTreeMap<String, usize> {
        let name = format!("rendezvous_{name}");
        let samples = self.samples.iter().filter(|((sample, _), value)| *sample == name && *value != "0");
        samples
            .map(|((_, labels), value)| {
                (labels.values().next_back().unwrap().clone(), value.parse().unwrap())
            })
            .collect()
    }

    fn parse(text: &str, format: Format) -> Self {
        let mut read = Self::default();
        let text = match format {
            Format::OpenMetrics => text.strip_suffix("# EOF\n").unwrap(),
            Format::Prometheus => text,
        };
        assert!(text.ends_with('\n'));
        let (mut family, mut helped) = (String::new(), String::new());
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help.split_once(' ').unwrap();
                assert!(is_name(name) && !help.is_empty() && !help.contains(['\\', '"']), "{line}");
                name.clone_into(&mut helped);
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                assert_eq!(name, helped, "{line}");
                assert!(is_kind(kind, format), "{line}");
                assert!(read.families.insert(name.to_owned(), kind.to_owned()).is_none(), "{line}: twice");
                name.clone_into(&mut family);
            } else if let Some(unit) = line.strip_prefix("# UNIT ") {
                let (name, unit) = unit.split_once(' ').unwrap();
                assert_eq!((name, format), (family.as_str(), Format::OpenMetrics), "{line}");
                assert!(
                    name.ends_with(&format!("_{unit}")) && ["seconds", "bytes"].contains(&unit),
                    "{line}"
                );
            } else {
                let (sample, value) = parse_sample(line);
                let suffix = sample.0.strip_prefix(&family).unwrap_or_else(|| panic!("{line}: in {family}"));
                assert!(is_suffix(&read.families[&family], suffix, &family, format), "{line}");
                assert!(read.samples.insert(sample, value).is_none(), "{line}: twice");
            }
        }
        for (name, kind) in &read.families {
            assert!(name.starts_with("rendezvous_"), "{name}");
            assert!(read.samples.keys().any(|(sample, _)| is_of(sample, name)), "{name} has no sample");
            if kind == "histogram" {
                read.check_histogram(name);
            }
        }
        read
    }

    fn check_histogram(&self, name: &str) {
        let buckets = self.samples.iter().filter(|((sample, _), _)| *sample == format!("{name}_bucket"));
        let mut buckets: Vec<_> = buckets
            .map(|((_, labels), count)| (number(&labels["le"]), count.parse::<usize>().unwrap()))
            .collect();
        buckets.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        assert!(buckets.is_sorted_by(|(_, one), (_, other)| one <= other), "{name}: {buckets:?}");
        let (last, all) = buckets.last().unwrap();
        assert!(last.is_infinite(), "{name}: {buckets:?}");
        assert_eq!(self.samples[&(format!("{name}_count"), BTreeMap::new())], all.to_string(), "{name}");
        assert!(self.samples.contains_key(&(format!("{name}_sum"), BTreeMap::new())), "{name}");
    }
}

fn is_name(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

fn is_kind(kind: &str, format: Format) -> bool {
    matches!(kind, "counter" | "gauge" | "histogram") || (kind == "info" && format == Format::OpenMetrics)
}

/// Whether a sample of a metric of this kind may have this suffix.
fn is_suffix(kind: &str, suffix: &str, name: &str, format: Format) -> bool {
    match (kind, format) {
        ("counter", Format::OpenMetrics) => suffix == "_total",
        ("counter", Format::Prometheus) => suffix.is_empty() && name.ends_with("_total"),
        ("info", _) => suffix == "_info",
        ("histogram", _) => ["_bucket", "_sum", "_count"].contains(&suffix),
        _ => suffix.is_empty(),
    }
}

/// Whether a sample with the name `sample` belongs to `metric`.
pub(crate) fn is_of(sample: &str, metric: &str) -> bool {
    let suffix = sample.strip_prefix(metric);
    suffix.is_some_and(|suffix| ["", "_total", "_info", "_bucket", "_sum", "_count"].contains(&suffix))
}

/// Parses `name{label="value",…} number`.
fn parse_sample(line: &str) -> (Sample, String) {
    let (sample, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
    let (name, labels) = match sample.split_once('{') {
        None => (sample, ""),
        Some((name, labels)) => (name, labels.strip_suffix('}').unwrap_or_else(|| panic!("{line}"))),
    };
    assert!(is_name(name), "{line}");
    let mut read = BTreeMap::new();
    for label in labels.split(',').filter(|_| !labels.is_empty()) {
        let (name, value) = label.split_once('=').unwrap();
        let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap();
        assert!(is_name(name) && !value.contains(['"', '\\']), "{line}");
        assert!(read.insert(name.to_owned(), value.to_owned()).is_none(), "{line}");
    }
    number(value);
    ((name.to_owned(), read), value.to_owned())
}

fn number(text: &str) -> f64 {
    let number = if text == "+Inf" { f64::INFINITY } else { text.parse().unwrap_or(f64::NAN) };
    assert!(number >= 0.0 && (number.is_finite() || text == "+Inf"), "{text:?} is not a valid value");
    number
}

/// Waits until a sample has the value `count`.
pub(crate) async fn until(server: &TestServer, name: &str, labels: &[(&str, &str)], count: usize) {
    let reached = async { while Exposition::of(server).await.count(name, labels) != count {} };
    let reached = tokio::time::timeout(WAIT_TIMEOUT, reached).await;
    assert!(reached.is_ok(), "{name} is {}", Exposition::of(server).await.count(name, labels));
}

/// Transfers bodies of several sizes, with a length and chunked. Returns the sizes.
async fn finish_transfers(server: &TestServer) -> Vec<usize> {
    let mut passed_on = Vec::new();
    for (turn, size) in [0, 1, 1000, 65_536, 1_000_003].into_iter().enumerate() {
        let body = vec![b'x'; size];
        for chunked in [false, true] {
            let id = server.create().await;
            let (fields, upload) = framed(&body, chunked);
            let (mut source, mut destination) = server.connect_sides(&id, &fields, turn % 2 == 0).await;
            let (_, received) = tokio::join!(source.push(&upload), destination.response());
            assert!(received.body == body);
            assert_eq!(source.response().await.status, 200);
            passed_on.push(size);
        }
    }
    passed_on
}

/// Cuts two transfers after 5 bytes: a source leaves, and a destination.
async fn cut_transfers(server: &TestServer) {
    for source_leaves in [true, false] {
        let id = server.create().await;
        let mut source = server.put(&id, "Content-Length: 10\r\n").await;
        let mut destination = server.get(&id).await;
        source.send("12345").await;
        destination.head().await.unwrap();
        destination.body_bytes(5).await;
        let state = if source_leaves {
            source.reset();
            "SRC_DISCONNECTED"
        } else {
            destination.reset();
            "DST_DISCONNECTED"
        };
        assert_eq!(server.until(&id, state).await["bytes_transferred"], 5);
    }
}

/// Reports two errors: one while a destination waits, the other before it connects.
async fn report_errors(server: &TestServer) {
    for waits in [true, false] {
        let id = server.create().await;
        let mut destination = server.connect().await;
        if waits {
            destination.send(get(&format!("/stream/{id}"))).await;
            server.until(&id, "DST_CONNECTED").await;
        }
        assert_eq!(server.post(&format!("/stream/{id}/error"), "").await.status, 200);
        if !waits {
            destination.send(get(&format!("/stream/{id}"))).await;
        }
        assert_eq!(destination.response().await.status, 400);
    }
}

#[tokio::test]
async fn the_numbers_agree_with_the_load_to_the_byte() {
    let server = TestServer::start().await;
    let sizes = finish_transfers(&server).await;
    cut_transfers(&server).await;
    report_errors(&server).await;
    let finished = sizes.len();

    let metrics = Exposition::of(&server).await;
    assert_eq!(metrics.count("body_bytes_total", &[]), sizes.iter().sum::<usize>() + 2 * 5);
    let outcomes = [
        ("destination_disconnected", 1),
        ("finished", finished),
        ("reported", 2),
        ("source_disconnected", 1),
    ];
    assert_eq!(
        metrics.by_label("streams_ended_total"),
        outcomes.map(|(name, count)| (name.to_owned(), count)).into()
    );
    assert_eq!(metrics.by_label("streams"), [("ended".to_owned(), (finished + 4))].into());
    assert_eq!(metrics.count("delivery_wait_seconds_count", &[]), finished);
    for histogram in ["pairing_wait", "transfer_duration"] {
        assert_eq!(metrics.count(&format!("{histogram}_seconds_count"), &[]), (finished + 2));
    }
    assert_eq!(metrics.by_label("refusals_total"), [("reported".to_owned(), 2)].into());
}

#[tokio::test]
async fn a_stream_counts_in_its_state_and_its_bytes_while_they_move() {
    let server = TestServer::start().await;
    let (created, waiting, received, streaming) =
        (server.create().await, server.create().await, server.create().await, server.create().await);
    let _source = server.put(&waiting, "Content-Length: 1\r\n").await;
    let _destination = server.get(&received).await;
    let mut source = server.put(&streaming, "Content-Length: 10\r\n").await;
    let mut destination = server.get(&streaming).await;
    source.send("12345").await;
    destination.head().await.unwrap();
    destination.body_bytes(5).await;
    server.until(&waiting, "SRC_CONNECTED").await;
    server.until(&received, "DST_CONNECTED").await;

    let metrics = Exposition::of(&server).await;
    for state in ["created", "source_waits", "destination_waits", "streaming"] {
        assert_eq!(metrics.count("streams", &[("state", state)]), 1, "{state}");
    }
    assert_eq!(metrics.count("streams", &[("state", "ended")]), 0);
    assert_eq!(metrics.count("body_bytes_total", &[]), 5);
    assert_eq!(metrics.count("transfer_duration_seconds_count", &[]), 0);

    source.send("67890").await;
    assert_eq!(source.response().await.status, 200);
    let metrics = Exposition::of(&server).await;
    assert_eq!(metrics.count("streams", &[("state", "streaming")]), 0);
    assert_eq!(metrics.count("streams", &[("state", "ended")]), 1);
    assert_eq!(metrics.count("body_bytes_total", &[]), 10);
    assert_eq!(server.status(&created).await["state"], "CREATED");
}

#[tokio::test(start_paused = true)]
async fn waits_and_durations_are_those_of_the_clock() {
    let server = TestServer::start().await;
    let advance = async |seconds| tokio::time::advance(Duration::from_secs(seconds)).await;
    let id = server.create().await;
    let mut destination = server.get(&id).await;
    server.until(&id, "DST_CONNECTED").await;
    advance(20).await;
    let mut source = server.put(&id, "Content-Length: 2\r\n").await;
    source.send("h").await;
    server.until(&id, "STREAMING").await;
    advance(100).await;
    source.send("i").await;
    assert_eq!(destination.response().await.body, b"hi");
    assert_eq!(source.response().await.status, 200);
    server.create().await;
    advance(61).await;
    until(&server, "streams_ended_total", &[("outcome", "expired")], 1).await;

    let metrics = Exposition::of(&server).await;
    let near = |name: &str, seconds: f64| {
        let sum = number(metrics.value(&format!("{name}_seconds_sum"), &[]));
        assert!((seconds..seconds + 1.0).contains(&sum), "{name}: {sum}");
    };
    near("pairing_wait", 20.0);
    near("transfer_duration", 100.0);
    near("delivery_wait", 0.0);
    assert_eq!(metrics.count("pairing_wait_seconds_bucket", &[("le", "15.0")]), 0);
    assert_eq!(metrics.count("pairing_wait_seconds_bucket", &[("le", "30.0")]), 1);
}

#[tokio::test]
async fn a_connection_counts_once_under_the_protocol_of_its_first_request() {
    let server = TestServer::start().await;
    let tls = if is_tls() { "yes" } else { "no" };
    let count = |metrics: &Exposition, protocol| {
        metrics.count("connections_total", &[("protocol", protocol), ("tls", tls)])
    };
    let mut first = server.connect_and_send(request("POST", "/stream", "")).await;
    first.response().await;
    let before = Exposition::of(&server).await;
    // The connection of `first`, and that of the scrape.
    assert_eq!(count(&before, "http1"), 2);

    // Further requests on the same connection do not count.
    first.send(get("/ping")).await;
    first.response().await;
    let silent = server.connect().await;
    silent.close();
    until(&server, "connections_total", &[("protocol", "none"), ("tls", tls)], 1).await;
    let scrapes = Exposition::of(&server).await;
    let metrics = Exposition::of(&server).await;
    assert_eq!(count(&metrics, "http1"), count(&scrapes, "http1") + 1);
    assert_eq!(count(&metrics, "http2"), 0);

    // The connections of `first` and of the scrape itself are open.
    until(&server, "open_connections", &[], 2).await;
    first.close();
    until(&server, "open_connections", &[], 1).await;
}

#[tokio::test]
async fn refusals_are_counted_by_error_name() {
    let server = TestServer::start_with(|config| {
        config.max_streams = 3;
        config.streams.max_bytes = Some("5".parse().unwrap());
    })
    .await;
    let id = server.create().await;
    let split = server.create_response(r#"{"access":"split"}"#).await["stream"].as_str().unwrap().to_owned();
    let promised = server.create_with(r#"{"download_headers":{"Content-Length":1}}"#).await;
    let _waiting = server.get(&id).await;
    server.until(&id, "DST_CONNECTED").await;
    let mut errors = BTreeMap::new();
    for refused in [
        request("GET", "/nowhere", ""),
        request("GET", "/stream/unknown", ""),
        request("PUT", "/stream/unknown", ""),
        request("GET", "/stream/unknown/status", ""),
        request("GET", &format!("/stream/{id}"), ""),
        request("GET", &format!("/stream/{split}"), ""),
        request("GET", &format!("/stream/{split}?token=x"), ""),
        request("PUT", &format!("/stream/{promised}"), "Content-Length: 2\r\n"),
        request("PUT", &format!("/stream/{id}"), "Content-Length: 6\r\n"),
        request("PUT", &format!("/stream/{id}"), "Content-Range: bytes 0-1/2\r\nContent-Length: 2\r\n"),
        request("POST", "/stream", ""),
        String::from_utf8(post("/stream", "not JSON")).unwrap(),
        "GET /ping HTTP/1.1\r\n\r\n".to_owned(),
    ] {
        let error = server.ask(&refused).await.error();
        *errors.entry(error[4..].to_owned()).or_default() += 1;
    }
    assert!(errors.len() >= 10, "{errors:?}");
    assert_eq!(Exposition::of(&server).await.by_label("refusals_total"), errors);
}

#[tokio::test]
async fn a_pipe_counts_while_a_body_passes_through_it() {
    let server = TestServer::start().await;
    let body = vec![b'x'; 400_000];
    let id = server.create().await;
    let mut source = server.put(&id, "Content-Length: 800000\r\n").await;
    let mut destination = server.get(&id).await;
    let has_pipes = cfg!(target_os = "linux") && !is_copied() && !is_tls();
    let (receiving, sending) = (destination.response(), async {
        source.send(&body).await;
        if has_pipes {
            until(&server, "pipes_in_use", &[], 1).await;
        }
        source.send(&body).await;
        source.response().await
    });
    let (download, upload) = tokio::join!(receiving, sending);
    assert_eq!((download.body.len(), upload.status), (800_000, 200));
    assert_eq!(Exposition::of(&server).await.count("pipes_in_use", &[]), 0);
}

#[tokio::test]
async fn the_pipe_of_an_aborted_body_is_returned() {
    if !cfg!(target_os = "linux") || is_copied() || is_tls() {
        return;
    }
    // This many descriptors are enough for four pipes.
    let server = TestServer::start_with(|config| config.descriptors = Some(64)).await;
    let body = vec![7; 100_000_000];
    for round in 0..6 {
        let id = server.create().await;
        let mut source = server.put(&id, "Content-Length: 100000000\r\n").await;
        let mut destination = Client::connect_with_small_receive_buffer(server.address()).await;
        destination.send(get(&format!("/stream/{id}"))).await;
        // Fills all buffers up, so that the pipe is full.
        let pushing = tokio::time::timeout(Duration::from_millis(200), source.push(&body));
        assert!(pushing.await.is_err(), "{round}");
        assert_eq!(Exposition::of(&server).await.count("pipes_in_use", &[]), 1, "{round}");
        destination.reset();
        assert_eq!(source.response().await.error(), "502 StreamDestinationError", "{round}");
        assert_eq!(Exposition::of(&server).await.count("pipes_in_use", &[]), 0, "{round}");
    }
}

#[tokio::test]
async fn a_scrape_without_accept_openmetrics_gets_the_same_samples_in_the_older_format() {
    let server = TestServer::start().await;
    let mut scrapes = Vec::new();
    for (fields, format, content_type) in [
        ("", Format::Prometheus, "text/plain; version=0.0.4; charset=utf-8"),
        ("Accept: */*\r\n", Format::Prometheus, "text/plain; version=0.0.4; charset=utf-8"),
        (OPEN_METRICS, Format::OpenMetrics, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
    ] {
        for target in ["/metrics", "/metrics/?x"] {
            let response = server.ask(request("GET", target, fields)).await;
            let expected = (200, vec![content_type]);
            assert_eq!((response.status, response.fields("content-type")), expected, "{fields}");
            let head = server.connect_and_send(request("HEAD", target, fields)).await.head().await.unwrap();
            assert!(head.starts_with("HTTP/1.1 200 ") && head.contains(content_type), "{head}");
            scrapes.push(Exposition::parse(std::str::from_utf8(&response.body).unwrap(), format));
        }
        let refused = server.ask(request("POST", "/metrics", fields)).await;
        assert_eq!(refused.error(), "404 BadRouteError");
    }
    let names = |scrape: &Exposition| scrape.samples.keys().cloned().collect::<BTreeSet<_>>();
    assert!(scrapes.iter().all(|scrape| names(scrape) == names(&scrapes[0])));
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    assert_eq!(scrapes[0].count("build_info", &version), 1);
}

#[tokio::test]
async fn metrics_reveal_no_ids_addresses_or_secrets() {
    let server = TestServer::start().await;
    let created =
        server.create_response(r#"{"access":"split","download_headers":{"X-Secret":"hidden-value"}}"#).await;
    let id = server.create().await;
    let _waiting = server.get(&id).await;
    server.until(&id, "DST_CONNECTED").await;
    let reported = server.create().await;
    server.post(&format!("/stream/{reported}/error"), r#"{"name":"SecretError","message":"secret"}"#).await;
    assert_eq!(server.ask(get(&format!("/stream/{reported}"))).await.error(), "400 SecretError");
    for accept in ["", OPEN_METRICS] {
        let text = String::from_utf8(server.ask(request("GET", "/metrics", accept)).await.body).unwrap();
        for secret in created.as_object().unwrap().values().map(|value| value.as_str().unwrap()) {
            assert!(!text.contains(secret));
        }
        let address = server.address().to_string();
        for secret in [&id, &id[..13], &reported, "127.0.0.1", &address, "ecret", "hidden-value"] {
            assert!(!text.contains(secret), "{secret}: {text}");
        }
    }
}

#[tokio::test]
async fn the_metrics_need_the_authorization_of_the_list() {
    let server = TestServer::start_with(on_all_addresses).await;
    let refused = server.ask(get("/metrics")).await;
    assert_eq!(refused.error(), "403 ForbiddenError");
    assert!(refused.message().contains("metrics"), "{}", refused.message());
    let server = TestServer::start_with(|config| {
        on_all_addresses(config);
        with_open_list(config);
    })
    .await;
    assert_eq!(server.ask(get("/metrics")).await.status, 200);
    let server = TestServer::start_with(with_admin_token).await;
    assert_eq!(server.ask(get("/metrics")).await.error(), "401 UnauthorizedError");
    assert_eq!(server.ask(get("/metrics?token=x")).await.error(), "403 ForbiddenError");
    assert_eq!(server.ask(request("GET", "/metrics", &bearer(ADMIN_TOKEN))).await.status, 200);
}

#[tokio::test]
async fn the_metrics_move_to_the_admin_listener_and_are_served_until_the_server_ends() {
    let mut server = TestServer::start_with(with_admin_listener).await;
    assert_eq!(server.ask(get("/metrics")).await.error(), "404 BadRouteError");
    assert_eq!(server.ask_admin(get("/metrics")).await.status, 200);
    let id = server.create().await;
    let (mut source, mut destination) =
        (server.put(&id, "Content-Length: 2\r\n").await, server.get(&id).await);
    server.until(&id, "STREAMING").await;
    server.stop().await;
    let text = server.ask_admin(get("/metrics")).await.body;
    let metrics = Exposition::parse(std::str::from_utf8(&text).unwrap(), Format::Prometheus);
    assert_eq!(metrics.count("streams", &[("state", "streaming")]), 1);
    source.send("hi").await;
    assert_eq!(destination.response().await.body, b"hi");
    assert_eq!(source.response().await.status, 200);
    server.ended().await;
}
