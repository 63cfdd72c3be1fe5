//! A scripted TCP front between Walden and a service: it passes bytes on, late, slowly, in part or not at all.
//!
//! It knows nothing of S3, so anything may stand behind it: the S3 of the tests, SeaweedFS, or TLS in front of either. Each
//! connection gets a [`Script`]: the next one that waits in the queue ([`Front::next`]), else the standing one
//! ([`Front::always`]). Without scripts everything passes as it is.

use std::collections::VecDeque;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::patience::wait_until;

/// The most that is read at a time.
const CHUNK: usize = 64 << 10;

/// How many chunks may be on their way in one direction: 16 MiB, which at 50 ms is 300 MB a second.
const ON_THEIR_WAY: usize = 256;

/// What happens to one connection.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// From Walden to the service.
    pub up: Way,
    /// From the service to Walden.
    pub down: Way,
}

/// What happens in one direction.
#[derive(Clone, Debug, Default)]
pub struct Way {
    /// Every byte arrives so much later. The first bytes up also wait for the round trip that a handshake takes.
    pub latency: Duration,
    /// Bytes a second.
    pub bandwidth: Option<u64>,
    /// What happens when, if anything; before that all bytes pass.
    pub accident: Option<(When, Accident)>,
}

/// The moment of an accident.
#[derive(Clone, Copy, Debug)]
pub enum When {
    /// So many bytes have passed; with 0, the first one has come.
    Bytes(u64),
    /// The first answer has passed, read as HTTP with a Content-Length. Only on the way down, and without TLS.
    AnswerEnds,
}

#[derive(Clone, Copy, Debug)]
pub enum Accident {
    /// Both sides see the connection reset.
    Reset,
    /// Both sides see it closed in order.
    Cut,
    /// Nothing more passes in this direction, for ever.
    Stall,
    /// From here on a single byte passes, and then this pause.
    Trickle(Duration),
}

impl Script {
    /// Half of the round trip each way.
    pub fn round_trip(time: Duration) -> Script {
        let way = Way { latency: time / 2, ..Way::default() };
        Script { up: way.clone(), down: way }
    }

    /// An accident on the way to the service.
    pub fn up(when: When, accident: Accident) -> Script {
        Script { up: Way { accident: Some((when, accident)), ..Way::default() }, ..Script::default() }
    }

    /// An accident on the way back.
    pub fn down(when: When, accident: Accident) -> Script {
        Script { down: Way { accident: Some((when, accident)), ..Way::default() }, ..Script::default() }
    }
}

/// A running front; it ends when this is dropped.
pub struct Front {
    address: SocketAddr,
    shared: Arc<Shared>,
    runtime: Option<tokio::runtime::Runtime>,
}

struct Shared {
    behind: SocketAddr,
    scripts: Mutex<Scripts>,
    open: watch::Sender<bool>,
    connections: AtomicUsize,
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
}

#[derive(Default)]
struct Scripts {
    queue: VecDeque<Script>,
    always: Script,
}

impl Front {
    /// Before the service at `behind`.
    pub fn start(behind: SocketAddr) -> Front {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let shared = Arc::new(Shared {
            behind,
            scripts: Mutex::default(),
            open: watch::Sender::new(true),
            connections: AtomicUsize::new(0),
            bytes_up: AtomicU64::new(0),
            bytes_down: AtomicU64::new(0),
        });
        let (tell, told) = std::sync::mpsc::channel();
        let task = shared.clone();
        runtime.spawn(async move {
            let listener = listen(bound("127.0.0.1:0".parse().unwrap()).unwrap());
            tell.send(listener.local_addr().unwrap()).unwrap();
            task.run(listener).await;
        });
        let address = told.recv().unwrap();
        Front { address, shared, runtime: Some(runtime) }
    }

    /// Where it listens, as a URL.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The same with a certificate's name, where TLS stands behind this front.
    pub fn tls_endpoint(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    /// One of the next connections gets this script. Each is used once, in order.
    pub fn next(&self, script: Script) {
        self.shared.scripts.lock().unwrap().queue.push_back(script);
    }

    /// Connections for which nothing is queued get this script from now on.
    pub fn always(&self, script: Script) {
        self.shared.scripts.lock().unwrap().always = script;
    }

    /// Takes back all scripts; connections that have one keep it.
    pub fn heal(&self) {
        *self.shared.scripts.lock().unwrap() = Scripts::default();
    }

    /// Scripts that no connection has taken yet.
    pub fn scripts_left(&self) -> usize {
        self.shared.scripts.lock().unwrap().queue.len()
    }

    /// From now on connections are refused, and those that there are are cut: nothing listens there any more.
    pub fn close(&self) {
        self.shared.open.send_replace(false);
        // Whoever is refused from now on is refused by the kernel, not by a front that has not noticed yet.
        wait_until("the front refuses", || std::net::TcpStream::connect(self.address).is_err());
    }

    /// Listens again, on the same port.
    pub fn open(&self) {
        self.shared.open.send_replace(true);
        wait_until("the front listens", || std::net::TcpStream::connect(self.address).is_ok());
    }

    /// How many connections there have been that carried anything.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// How many bytes have been passed on: to the service, and back.
    pub fn bytes(&self) -> (u64, u64) {
        (self.shared.bytes_up.load(Ordering::Relaxed), self.shared.bytes_down.load(Ordering::Relaxed))
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Addresses of this machine where nobody listens, each another one. They were never listened on, so that no copy of a
/// listener, in a program that is just being started, stands in the way of whoever takes them.
pub fn free_addresses<const N: usize>() -> [SocketAddr; N] {
    [(); N].map(|()| bound("127.0.0.1:0".parse().unwrap()).unwrap()).map(|socket| socket.local_addr().unwrap())
}

pub fn free_address() -> SocketAddr {
    let [address] = free_addresses();
    address
}

/// A socket that has the port but does not listen: connections are refused, and nobody else gets the port.
fn bound(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// The same of a port whose listener was just dropped. A program that another test is starting at this moment holds a copy
/// of the listener until it is executed, and for so long the port is not to be had.
async fn bound_again(address: SocketAddr) -> TcpSocket {
    loop {
        match bound(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => sleep(Duration::from_millis(1)).await,
            socket => return socket.unwrap(),
        }
    }
}

fn listen(socket: TcpSocket) -> TcpListener {
    socket.listen(1024).unwrap()
}

impl Shared {
    async fn run(self: Arc<Self>, mut listener: TcpListener) {
        let (mut open, address) = (self.open.subscribe(), listener.local_addr().unwrap());
        loop {
            tokio::select! {
                () = self.accept(&listener) => {}
                closed = open.wait_for(|open| !*open) => drop(closed),
            }
            drop(listener);
            let socket = bound_again(address).await;
            open.wait_for(|open| *open).await.unwrap();
            listener = listen(socket);
        }
    }

    async fn accept(self: &Arc<Self>, listener: &TcpListener) {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let (shared, mut open) = (self.clone(), self.open.subscribe());
            tokio::spawn(async move {
                tokio::select! {
                    () = shared.carry(client) => {}
                    _ = open.wait_for(|open| !*open) => {}
                }
            });
        }
    }

    async fn carry(&self, mut client: TcpStream) {
        // A connection that is closed before it has said anything, as Front::open makes them, takes no script.
        if client.peek(&mut [0]).await.unwrap_or(0) == 0 {
            return;
        }
        self.connections.fetch_add(1, Ordering::Relaxed);
        let script = {
            let mut scripts = self.scripts.lock().unwrap();
            scripts.queue.pop_front().unwrap_or_else(|| scripts.always.clone())
        };
        let Ok(mut service) = TcpStream::connect(self.behind).await else { return };
        client.set_nodelay(true).unwrap();
        service.set_nodelay(true).unwrap();
        let end = {
            let (from_client, to_client) = client.split();
            let (from_service, to_service) = service.split();
            let handshake = script.up.latency + script.down.latency;
            let up = script.up.pass(from_client, to_service, handshake, &self.bytes_up);
            let down = script.down.pass(from_service, to_client, Duration::ZERO, &self.bytes_down);
            both(up, down).await
        };
        if end == Some(Hangup::Reset) {
            for stream in [client, service] {
                let _ = stream.set_zero_linger();
            }
        }
    }
}

/// How the front ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hangup {
    Reset,
    Cut,
}

/// Until one direction hangs up or both have come to their ends.
async fn both(up: impl Future<Output = Option<Hangup>>, down: impl Future<Output = Option<Hangup>>) -> Option<Hangup> {
    tokio::pin!(up, down);
    tokio::select! {
        end = &mut up => if end.is_some() { end } else { down.await },
        end = &mut down => if end.is_some() { end } else { up.await },
    }
}

impl Way {
    /// Passes on what comes until the sender closes (`None`) or an accident ends the connection.
    async fn pass(
        &self,
        mut from: ReadHalf<'_>,
        to: WriteHalf<'_>,
        handshake: Duration,
        count: &AtomicU64,
    ) -> Option<Hangup> {
        let (sender, receiver) = mpsc::channel(ON_THEIR_WAY);
        let read = async move {
            let not_before = Instant::now() + handshake + self.latency;
            loop {
                let mut chunk = vec![0; CHUNK];
                let Ok(size @ 1..) = from.read(&mut chunk).await else { break };
                chunk.truncate(size);
                let due = not_before.max(Instant::now() + self.latency);
                if sender.send((due, chunk)).await.is_err() {
                    break;
                }
            }
            drop(sender);
            pending::<Option<Hangup>>().await
        };
        tokio::select! {
            end = self.deliver(receiver, to, count) => end,
            end = read => end,
        }
    }

    async fn deliver(
        &self,
        mut chunks: mpsc::Receiver<(Instant, Vec<u8>)>,
        mut to: WriteHalf<'_>,
        count: &AtomicU64,
    ) -> Option<Hangup> {
        let (mut passed, mut answer) = (0, Answer::default());
        while let Some((due, chunk)) = chunks.recv().await {
            sleep_until(due).await;
            let until = match self.accident {
                Some((When::Bytes(at), _)) => at.checked_sub(passed),
                Some((When::AnswerEnds, _)) => answer.end_in(&chunk),
                None => None,
            };
            let until = until.map(|until| until as usize).filter(|until| *until <= chunk.len());
            let (before, after) = chunk.split_at(until.unwrap_or(chunk.len()));
            if let Some(bandwidth) = self.bandwidth {
                sleep(Duration::from_secs_f64(before.len() as f64 / bandwidth as f64)).await;
            }
            if to.write_all(before).await.is_err() {
                return Some(Hangup::Cut);
            }
            passed += before.len() as u64;
            count.fetch_add(before.len() as u64, Ordering::Relaxed);
            if let (Some(_), Some((_, accident))) = (until, self.accident) {
                return accident.happen(after, chunks, to).await;
            }
        }
        // The sender has closed its direction, and so do we.
        let _ = to.shutdown().await;
        None
    }
}

impl Accident {
    async fn happen(
        self,
        rest: &[u8],
        mut chunks: mpsc::Receiver<(Instant, Vec<u8>)>,
        mut to: WriteHalf<'_>,
    ) -> Option<Hangup> {
        let pause = match self {
            Accident::Reset => return Some(Hangup::Reset),
            Accident::Cut => return Some(Hangup::Cut),
            Accident::Stall => return pending().await,
            Accident::Trickle(pause) => pause,
        };
        let mut chunk = rest.to_vec();
        loop {
            for byte in chunk {
                if to.write_all(&[byte]).await.is_err() {
                    return Some(Hangup::Cut);
                }
                sleep(pause).await;
            }
            match chunks.recv().await {
                Some((_, next)) => chunk = next,
                None => return None,
            }
        }
    }
}

/// Where the first answer ends.
#[derive(Default)]
struct Answer {
    head: Vec<u8>,
    /// Bytes of the body that are still to come, once the head is complete.
    left: Option<u64>,
}

impl Answer {
    /// How many of these bytes belong to the answer, if it ends in them.
    fn end_in(&mut self, chunk: &[u8]) -> Option<u64> {
        let mut used = 0;
        if self.left.is_none() {
            let had = self.head.len();
            self.head.extend_from_slice(chunk);
            let end = self.head.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
            used = end - had;
            self.left = Some(content_length(&self.head[..end]));
        }
        let left = self.left.as_mut()?;
        let body = (chunk.len() - used) as u64;
        if *left <= body {
            return Some(used as u64 + *left);
        }
        *left -= body;
        None
    }
}

fn content_length(head: &[u8]) -> u64 {
    let head = String::from_utf8_lossy(head).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    length.map_or(0, |length| length.trim().parse().unwrap())
}
