//! Randomly generated transfers.

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};
use testkit::messages::pattern;
use testkit::script::{Role, Script};

use crate::play::{HANGS, Servers};

#[derive(Debug, Clone, Copy, PartialEq)]
enum When {
    /// Before the other side connects. The side that left returns.
    Waiting,
    BeforeFirstByte,
    /// Half of the body has been passed on.
    Midway,
    /// Half of the body has been sent, and may not have been passed on.
    InFlight,
}

#[derive(Debug, Clone)]
struct Transfer {
    /// The size of the chunks, or `None` for `Content-Length`.
    chunked: Option<usize>,
    promised: bool,
    expects: bool,
    http10: (bool, bool),
    source_first: bool,
    size: usize,
    /// Which side leaves, when and how.
    leaves: Option<(&'static str, When, &'static str)>,
}

fn transfers() -> impl Strategy<Value = Transfer> {
    let when = select(vec![When::Waiting, When::BeforeFirstByte, When::Midway, When::InFlight]);
    let leaves = (select(vec!["S", "D"]), when, select(vec!["close", "reset", "half-close"]));
    let size = prop_oneof![0usize..3, 0usize..10_000, 0usize..200 * 1024];
    let chunk = prop::option::of(prop_oneof![1usize..100, 1usize..40_000]);
    (chunk, any::<[bool; 5]>(), size, prop::option::weighted(0.6, leaves)).prop_map(
        |(chunk, [promised, expects, source10, destination10, source_first], size, leaves)| Transfer {
            // Small chunks in large bodies would only take time.
            chunked: chunk.map(|chunk| chunk.max(size / 500)).filter(|_| !source10),
            promised,
            expects,
            http10: (source10, destination10),
            source_first,
            size,
            leaves,
        },
    )
}

impl Transfer {
    fn encode(&self, data: &[u8]) -> Vec<u8> {
        let chunk = |data: &[u8]| [format!("{:x};e\r\n", data.len()).as_bytes(), data, b"\r\n"].concat();
        self.chunked.map_or_else(|| data.to_vec(), |size| data.chunks(size).flat_map(chunk).collect())
    }

    fn script(&self) -> Script {
        let body = pattern(self.size);
        let (half, rest) = body.split_at(self.size / 2);
        let framing = match self.chunked {
            Some(_) => "Transfer-Encoding: chunked".to_owned(),
            None => format!("Content-Length: {}", self.size),
        };
        let expect = if self.expects { " ~ Expect: 100-continue" } else { "" };
        let put = format!("put{} {framing}{expect}", if self.http10.0 { "10" } else { "" });
        let get = format!("get{}", if self.http10.1 { "10" } else { "" });
        let (first, second) = if self.source_first { (put, get) } else { (get, put) };
        let first = format!("{first} | until {}_CONNECTED", if self.source_first { "SRC" } else { "DST" });

        let mut script = Script::default();
        if self.promised && self.size > 0 {
            script.create = format!(r#"{{"download_headers":{{"x-y":1,"content-length":{}}}}}"#, self.size);
        }
        if let Some((_, When::Waiting, how)) = self.leaves {
            let role = if self.source_first { "S" } else { "D" };
            // A FIN after a whole body may be a half-close, and the server cannot send an HTTP/1.0 client a 100 to find out.
            let how = if self.size == 0 && self.http10.0 { "reset" } else { how.trim_start_matches("half-") };
            script = script.then(&format!("{first} | {role} {how} | until CREATED"));
        }
        script = script.then(&format!("{first} | {second}"));
        let is_empty = self.size == 0 && self.chunked.is_none();
        let Some((role, when, how)) = self.leaves.filter(|(_, when, _)| *when != When::Waiting && !is_empty)
        else {
            let end = if self.chunked.is_some() { "0\r\nT: x\r\n\r\n" } else { "" };
            let body = [self.encode(half), self.encode(rest), end.into()].concat();
            return script.send(Role::Source, body).then("both");
        };
        script = script.then("until STREAMING");
        if when != When::BeforeFirstByte {
            script = script.send(Role::Source, self.encode(half));
        }
        script = match when {
            When::Midway => script.then(&format!("passed {}", half.len())),
            When::InFlight => script.then("racy"),
            _ => script,
        };
        script.then(&format!("{role} {how}")).then(match (role, how) {
            ("S", "half-close") => "both | until SRC_DISCONNECTED",
            ("S", _) => "D answer | until SRC_DISCONNECTED",
            (_, "half-close") => "S answer | D answer | until DST_DISCONNECTED",
            _ => "S answer | until DST_DISCONNECTED",
        })
    }
}

#[test]
fn generated_transfers_look_the_same_on_either_data_path() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let servers = runtime.block_on(Servers::start());
    // No shrinking: cases are short, and many that hang would take too long.
    let config = Config { cases: 64, failure_persistence: None, max_shrink_iters: 0, ..Config::default() };
    let check = |(transfer, seed): (Transfer, u64)| {
        let seen = runtime.block_on(servers.play(&transfer.script(), seed)).map_err(TestCaseError::fail)?;
        prop_assert_ne!(seen.last().map(String::as_str), Some(HANGS));
        Ok(())
    };
    TestRunner::new(config).run(&(transfers(), 0..4u64), check).unwrap();
}
