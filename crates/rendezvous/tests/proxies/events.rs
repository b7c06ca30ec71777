//! Events (`text/event-stream`) through a proxy.

use std::io::{BufRead, BufReader};
use std::process::ChildStdout;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::client::{Client, Framing};
use crate::site::{Proxy, ProxyListener, Running, Site, spawn};

/// A subscriber: the real `curl`, which writes what it has at once.
struct Subscriber {
    curl: Running,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Subscriber {
    fn to(listener: &ProxyListener, target: &str) -> Self {
        // Without the time limit, an event that does not arrive would block the test.
        let mut curl = spawn(listener.curl(&["-N", "--max-time", "30"]).arg(listener.target(target)));
        let lines = BufReader::new(curl.0.stdout.take().unwrap()).lines();
        Self { curl, lines }
    }

    /// Returns the lines up to the next empty one.
    fn block(&mut self) -> Vec<String> {
        let lines = self.lines.by_ref().map(|line| line.unwrap());
        lines.take_while(|line| !line.is_empty()).collect()
    }

    /// Returns the status in the next event.
    fn status(&mut self) -> Value {
        loop {
            let block = self.block();
            assert!(!block.is_empty(), "the events have ended");
            if let Some(data) = block.iter().find_map(|line| line.strip_prefix("data: ")) {
                return serde_json::from_str(data).unwrap();
            }
        }
    }

    fn state(&mut self) -> String {
        self.status()["state"].as_str().unwrap().to_owned()
    }

    /// Waits for the end of the response. Returns whether it was whole.
    fn ends(mut self) -> bool {
        assert_eq!(self.block(), Vec::<String>::new());
        self.curl.output().status.success()
    }
}

/// The next change is made only when the subscribers have the last one, so a proxy that holds an event back stops the test. Only the
/// subscribers use the proxy.
pub fn each_event_arrives_before_the_next_change(proxy: Proxy) {
    let site = Site::start_with(proxy, &["--open-list"]);
    for listener in site.listeners() {
        let mut all = Subscriber::to(&listener, "/events");
        assert_eq!(all.block(), [":"], "the subscription has begun");
        let id = site.create();
        assert_eq!(all.state(), "CREATED");
        let mut one = Subscriber::to(&listener, &format!("/stream/{id}/events"));
        assert_eq!(one.state(), "CREATED");

        let mut leaving = Client::connect(site.server);
        leaving.get(&id);
        assert_eq!(one.state(), "DST_CONNECTED");
        drop(leaving);
        assert_eq!(one.state(), "CREATED");
        let mut source = Client::connect(site.server);
        source.put(&id, Framing::Chunked, 0);
        assert_eq!(one.state(), "SRC_CONNECTED");
        let mut destination = Client::connect(site.server);
        destination.get(&id);
        assert_eq!((one.state(), all.state()), ("STREAMING".into(), "STREAMING".into()));

        source.body(Framing::Chunked, b"x");
        assert_eq!(one.status()["bytes_transferred"], 1, "the progress");
        source.end(Framing::Chunked);
        assert_eq!((one.state(), all.state()), ("FINISHED".into(), "FINISHED".into()));
        assert!(one.ends(), "{listener:?}");
    }
}

/// Otherwise the proxy would keep a connection to the server for each subscriber that has left, until it cannot pass on the next comment.
pub fn a_subscriber_that_leaves_is_noticed(proxy: Proxy) {
    const SUBSCRIBERS: usize = 10;
    /// That of this test, which asks for the metric, and one that the proxy keeps for the next request.
    const LEFT: u64 = 2;
    const BEFORE_THE_NEXT_COMMENT: Duration = Duration::from_secs(10);
    let site = Site::start_with(proxy, &["--open-list"]);
    let id = site.create();
    for listener in site.listeners() {
        for target in ["/events", &format!("/stream/{id}/events")] {
            for _ in 0..SUBSCRIBERS {
                let mut subscriber = Subscriber::to(&listener, target);
                assert_ne!(subscriber.block(), Vec::<String>::new(), "{listener:?} {target}");
            }
            let deadline = Instant::now() + BEFORE_THE_NEXT_COMMENT;
            loop {
                let open = site.metric("rendezvous_open_connections");
                if open <= LEFT {
                    break;
                }
                assert!(Instant::now() < deadline, "{listener:?} {target}: {open} connections");
            }
        }
    }
}
