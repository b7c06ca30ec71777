//! Distance between a client and a server: a TCP proxy on loopback that delays, and may limit, what it passes on.
//!
//! It owns its listener and its connections. Each direction of a connection is a [`Route`] of its own:
//!
//! - a piece that is read at *t* is written at *t* + half the round trip, or up to a millisecond later, because tokio's clock is that
//!   coarse. The end of the bytes travels in the same way
//! - at most `in_flight` bytes are between being read and being acknowledged: half a round trip after they were written. A real path has
//!   such a bound, because a sender's kernel keeps what is not acknowledged
//! - `rate` is the rate at which pieces enter the route
//!
//! It is in user space, because netem is not available on every kernel. So the kernels of both ends see a short round trip, and only the
//! applications see the distance: there is no slow start, no loss, no retransmission, and the connection itself takes no round trip.
//! A sender's kernel reports bytes as acknowledged once the forwarder's kernel has them. The buffers of the sockets have
//! their default sizes, so that in each direction the kernels hold some MiB more, before the forwarder reads them and after it has written
//! them. They delay bytes behind them, but add nothing to the throughput.
//!
//! *Concurrency.* One task for each connection, which ends with the forwarder. An error of one side closes both.
//!
//! *Bounds.* `in_flight` bytes for each direction of a connection.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::unbounded_channel;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio::try_join;

/// The most bytes in a piece.
const MAX_PIECE: u32 = 64 * 1024;
/// The least number of pieces that `in_flight` is divided into, so that little of it is unused while a piece waits for room.
const PIECES_IN_FLIGHT: usize = 32;
/// The least number of pieces in a second at a limited rate.
const PIECES_PER_SECOND: u32 = 500;
/// By how much a timer may be late. The rate makes up for that much.
const TIMER_SLACK: Duration = Duration::from_millis(2);

/// The properties of one direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The round trip. Each direction takes half of it.
    pub round_trip: Duration,
    /// Bytes per second. `None` for no limit.
    pub rate: Option<u32>,
    /// The most bytes that are not acknowledged, at least 1. `None` for no limit: then bytes that the other end does not read gather in memory.
    pub in_flight: Option<usize>,
}

/// A running forwarder. Dropping it ends its connections.
pub struct Forwarder {
    /// Where it accepts connections.
    pub address: SocketAddrV4,
    task: JoinHandle<io::Result<()>>,
}

impl Forwarder {
    /// Starts to forward connections to `target`, with a route like this for each direction.
    ///
    /// # Errors
    /// If it cannot listen.
    pub async fn start(route: Route, target: SocketAddrV4) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, listener.local_addr()?.port());
        Ok(Self { address, task: tokio::spawn(accept(listener, route, target)) })
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, route: Route, target: SocketAddrV4) -> io::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let (near, _) = listener.accept().await?;
        connections.spawn(async move {
            let far = TcpStream::connect(target).await?;
            forward(route, near, far).await
        });
        // An error has closed both sides, so that both have noticed it.
        while connections.try_join_next().is_some() {}
    }
}

async fn forward(route: Route, mut near: TcpStream, mut far: TcpStream) -> io::Result<()> {
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let ((from_near, to_near), (from_far, to_far)) = (near.split(), far.split());
    try_join!(route.carry(from_near, to_far), route.carry(from_far, to_near))?;
    Ok(())
}

/// Bytes on their way. Without bytes it is the end.
struct Piece {
    arrives_at: Instant,
    bytes: Vec<u8>,
    room: OwnedSemaphorePermit,
}

impl Route {
    /// Passes on all bytes of `input` and their end.
    async fn carry(
        self,
        mut input: impl AsyncRead + Unpin,
        mut output: impl AsyncWrite + Unpin,
    ) -> io::Result<()> {
        let one_way = self.round_trip / 2;
        let (depart, mut arriving) = unbounded_channel::<Piece>();
        let (acknowledge, mut acknowledged) = unbounded_channel();
        let send = async move {
            let in_flight = Arc::new(Semaphore::new(self.in_flight.unwrap_or(Semaphore::MAX_PERMITS)));
            let mut link = Link { rate: self.rate, idle_at: Instant::now() };
            let size = self.piece();
            loop {
                let room = Arc::clone(&in_flight).acquire_many_owned(size).await;
                let mut room = room.map_err(io::Error::other)?;
                let mut bytes = Vec::with_capacity(size as usize);
                let count = (&mut input).take(size.into()).read_buf(&mut bytes).await?;
                drop(room.split(size as usize - count));
                link.transmit(count).await;
                let piece = Piece { arrives_at: Instant::now() + one_way, bytes, room };
                // Fails only if the other end has failed, which ends this task.
                let _ = depart.send(piece);
                if count == 0 {
                    return Ok(());
                }
            }
        };
        let deliver = async move {
            while let Some(Piece { arrives_at, bytes, room }) = arriving.recv().await {
                sleep_until(arrives_at).await;
                if bytes.is_empty() {
                    output.shutdown().await?;
                }
                output.write_all(&bytes).await?;
                // Fails only if this task ends.
                let _ = acknowledge.send((Instant::now() + one_way, room));
            }
            Ok(())
        };
        let return_room = async move {
            while let Some((at, room)) = acknowledged.recv().await {
                sleep_until(at).await;
                drop(room);
            }
            Ok(())
        };
        try_join!(send, deliver, return_room).map(|_| ())
    }

    /// The most bytes in a piece.
    fn piece(self) -> u32 {
        let of_room = self.in_flight.map_or(usize::MAX, |room| room / PIECES_IN_FLIGHT);
        let of_rate = self.rate.map_or(MAX_PIECE, |rate| rate / PIECES_PER_SECOND);
        u32::try_from(of_room).unwrap_or(MAX_PIECE).min(of_rate).clamp(1, MAX_PIECE)
    }
}

/// The entrance of the route, which takes bytes at its rate.
struct Link {
    /// Bytes per second.
    rate: Option<u32>,
    /// When it has transmitted what it was given so far.
    idle_at: Instant,
}

impl Link {
    /// Waits until this number of bytes is transmitted.
    async fn transmit(&mut self, bytes: usize) {
        let Some(rate) = self.rate else { return };
        let begins_at = self.idle_at.max(Instant::now() - TIMER_SLACK);
        self.idle_at = begins_at + Duration::from_secs_f64(bytes as f64 / f64::from(rate));
        sleep_until(self.idle_at).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;
    use tokio::time::{sleep, timeout};

    use super::*;

    const HERE: Route = Route { round_trip: Duration::ZERO, rate: None, in_flight: None };
    /// More than any piece, and no multiple of one.
    const MANY: usize = 1_000_003;
    /// More than these tests send.
    const ROOM: usize = 1 << 22;

    fn pattern(bytes: usize) -> Vec<u8> {
        (0..=250).cycle().take(bytes).collect()
    }

    /// Passes bytes on by `route`, and returns the time until they had all arrived.
    async fn time_of(route: Route, bytes: usize) -> Duration {
        let (mut source, input) = duplex(ROOM);
        let (output, mut destination) = duplex(ROOM);
        let began = Instant::now();
        source.write_all(&pattern(bytes)).await.unwrap();
        drop(source);
        let read = async {
            let mut arrived = Vec::new();
            destination.read_to_end(&mut arrived).await.unwrap();
            assert!(arrived == pattern(bytes), "{route:?} changed the bytes");
            began.elapsed()
        };
        let (carried, time) = tokio::join!(route.carry(input, output), read);
        carried.unwrap();
        time
    }

    #[tokio::test]
    async fn both_directions_pass_all_bytes_and_their_end() {
        let route = Route { round_trip: Duration::from_millis(4), rate: None, in_flight: Some(100_000) };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let target = SocketAddrV4::new(Ipv4Addr::LOCALHOST, listener.local_addr().unwrap().port());
        let forwarder = Forwarder::start(route, target).await.unwrap();
        let near = async {
            let mut stream = TcpStream::connect(forwarder.address).await.unwrap();
            stream.write_all(&pattern(MANY)).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            answer
        };
        let far = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            stream.read_to_end(&mut request).await.unwrap();
            stream.write_all(&pattern(MANY / 2)).await.unwrap();
            request
        };
        let both = async { tokio::join!(near, far) };
        let (answer, request) =
            timeout(Duration::from_secs(20), both).await.expect("the end is not passed on");
        assert!(request == pattern(MANY));
        assert!(answer == pattern(MANY / 2));
    }

    #[tokio::test]
    async fn the_end_of_a_forwarder_closes_its_connections() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let target = SocketAddrV4::new(Ipv4Addr::LOCALHOST, listener.local_addr().unwrap().port());
        let forwarder = Forwarder::start(HERE, target).await.unwrap();
        let mut near = TcpStream::connect(forwarder.address).await.unwrap();
        let (_far, _) = listener.accept().await.unwrap();
        drop(forwarder);
        assert_eq!(near.read(&mut [0]).await.unwrap_or(0), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn each_direction_takes_half_a_round_trip() {
        let route = Route { round_trip: Duration::from_millis(100), ..HERE };
        for bytes in [0, 1, MANY] {
            let time = time_of(route, bytes).await;
            assert!(time >= Duration::from_millis(50), "{bytes} bytes arrived after {time:?}");
            assert!(time < Duration::from_millis(60), "{bytes} bytes arrived after {time:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_do_not_wait_for_those_before_them() {
        let (mut source, input) = duplex(ROOM);
        let (output, mut destination) = duplex(ROOM);
        let route = Route { round_trip: Duration::from_millis(100), ..HERE };
        let began = Instant::now();
        let write = async {
            for byte in 0..10 {
                source.write_all(&[byte]).await.unwrap();
                sleep(Duration::from_millis(10)).await;
            }
            drop(source);
        };
        let read = async {
            for byte in 0..10_u8 {
                assert_eq!(destination.read_u8().await.unwrap(), byte);
                let written_at = began + Duration::from_millis(10) * u32::from(byte);
                let late = written_at.elapsed();
                assert!(late >= Duration::from_millis(50), "{byte}: {late:?}");
                assert!(late < Duration::from_millis(55), "{byte}: {late:?}");
            }
        };
        let (carried, (), ()) = tokio::join!(route.carry(input, output), write, read);
        carried.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_kept() {
        for rate in [10_000, 1_000_000, 100_000_000] {
            let route = Route { rate: Some(rate), ..HERE };
            let (time, ideal) = (time_of(route, MANY).await, MANY as f64 / f64::from(rate));
            assert!(time.as_secs_f64() > ideal - 0.003, "{rate} bytes/s: {time:?}");
            assert!(time.as_secs_f64() < ideal * 1.02 + 0.01, "{rate} bytes/s: {time:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_the_limit_arrives_in_a_round_trip() {
        for in_flight in [1000, 100_000] {
            let round_trip = Duration::from_millis(100);
            let route = Route { round_trip, in_flight: Some(in_flight), ..HERE };
            let time = time_of(route, MANY).await;
            // The last bytes arrive half a round trip after all before them were acknowledged.
            let round_trips = (MANY / in_flight) as f64 + 0.5;
            let ideal = round_trips * round_trip.as_secs_f64();
            assert!(time.as_secs_f64() >= ideal, "{in_flight} bytes in flight: {time:?}");
            assert!(time.as_secs_f64() < ideal * 1.1, "{in_flight} bytes in flight: {time:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_that_are_not_read_count_as_in_flight() {
        let (mut source, input) = duplex(1000);
        let (output, _destination) = duplex(1000);
        let route = Route { in_flight: Some(5000), ..HERE };
        let write = async {
            let mut written = 0;
            loop {
                source.write_all(&[0; 100]).await.unwrap();
                written += 100;
                if written > 7000 {
                    return;
                }
            }
        };
        tokio::select! {
            _ = route.carry(input, output) => panic!("the bytes have an end"),
            () = write => panic!("more than 7000 bytes were taken"),
            () = sleep(Duration::from_mins(1)) => {}
        }
    }
}
