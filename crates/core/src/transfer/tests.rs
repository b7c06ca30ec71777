//! A transfer and its relay, on a clock that stands still while they do anything.

use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::time::timeout;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
/// The idle limit.
const IDLE: Duration = Duration::from_secs(10);

#[tokio::test(start_paused = true)]
async fn a_destination_stalls_the_idle_limit_after_the_kernel_has_last_handed_it_bytes() {
    /// Bytes that the kernel holds in this second.
    type Held = fn(second: u64) -> u64;
    let cases: [(&str, Held, u64); 5] = [
        ("nothing is held", |_| 0, 10),
        ("what is held at the first look may have been more before", |_| 100, 11),
        ("the last bytes leave the kernel", |second| if second < 5 { 100 } else { 0 }, 15),
        ("some stay", |second| if second < 5 { 100 } else { 50 }, 16),
        ("it holds more than before", |second| 100 + second, 11),
    ];
    for (what, held, expected) in cases {
        let transfer = transfer();
        transfer.set_awaited(Awaited::Destination);
        let began = Instant::now();
        let fault =
            timeout(100 * SECOND, transfer.stalled(Judged::Both, || held(began.elapsed().as_secs()))).await;
        assert_eq!(fault, Ok(transfer.destination_stalled()), "{what}");
        assert_eq!(began.elapsed().as_secs(), expected, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_is_lost_that_leaves_before_the_rest_of_its_body_has_arrived() {
    for (has_left, has_arrived, has_ended, is_lost) in [
        (true, false, false, true),
        (true, true, false, false),
        (true, false, true, false),
        (false, false, false, false),
    ] {
        let body = Body { has_left, has_arrived, has_ended };
        let offer = Offer { body, length: None, headers: None };
        let mut relay = Relay::new(offer, false, transfer(), std::future::pending());
        let first = timeout(SECOND, relay.first()).await;
        assert_eq!(first.is_ok(), has_ended);
        let lost = timeout(SECOND, relay.source_lost()).await;
        assert_eq!(lost.is_ok(), is_lost, "left {has_left}, arrived {has_arrived}, ended {has_ended}");
    }
}

/// A transfer without its halves: it has ended, which nothing here looks at.
fn transfer() -> Arc<Transfer> {
    let (source, _) = Transfer::pass_through(Arc::default(), IDLE);
    Arc::clone(source.transfer())
}

/// A body without bytes.
struct Body {
    has_left: bool,
    has_arrived: bool,
    has_ended: bool,
}

impl SourceBody for Body {
    type Kernel = ();

    fn poll_data(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Fault>>> {
        if self.has_ended { Poll::Ready(None) } else { Poll::Pending }
    }

    fn in_kernel(&self) -> Option<((), u64)> {
        None
    }

    fn skip(&mut self, _: u64) {}

    fn has_arrived(&self) -> bool {
        self.has_arrived
    }

    fn departure(&self) -> Option<Departure> {
        if self.has_left {
            Some(Box::pin(std::future::ready(())))
        } else {
            Some(Box::pin(std::future::pending()))
        }
    }

    fn presence(&self) -> Option<PresenceCheck> {
        None
    }
}
