//! Ranks that find each other by the address of the first one, as those of torchrun, a Kubernetes
//! indexed job or Slurm do.
//!
//! Each rank keeps two connections with the first: one for what they exchange, and one on which
//! nothing is sent until a rank ends, so that a thread that waits there learns it at once, whatever
//! the others are doing.

use std::borrow::Cow;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use scrl_cli::World;

use super::Collective;

/// The time for all ranks to start.
const START: Duration = Duration::from_secs(600);

/// Between two attempts to connect, or to accept.
const ATTEMPT: Duration = Duration::from_millis(50);

/// The time for a new connection to say who it is.
const HELLO: Duration = Duration::from_secs(10);

/// The time for a rank's reason to end to arrive, after its connection was closed.
const REASON: Duration = Duration::from_secs(3);

/// The first bytes of a connection.
const MAGIC: [u8; 8] = *b"scrl-1\r\n";

/// What a connection is for.
const EXCHANGE: u8 = 0;
const ENDING: u8 = 1;

/// Sent by a rank that ends well; any other byte is an exit code.
const WELL: u8 = 0;

/// Connections of a rank: with the first rank, or of the first one with all others in their order.
pub(super) struct Tcp {
    world: World,
    exchanges: Mutex<Vec<TcpStream>>,
    ending: Arc<Ending>,
}

/// How this process learns that another ended, and tells that it does.
#[derive(Debug)]
struct Ending {
    /// The name that error messages begin with.
    program: &'static str,
    world: World,
    links: Vec<TcpStream>,
    /// Whether a thread ends this process already.
    begun: AtomicBool,
}

impl std::fmt::Debug for Tcp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tcp({})", self.world)
    }
}

impl Tcp {
    /// Connects all ranks of `world` of `program`; the first one listens at `address`, a host and a
    /// port.
    ///
    /// # Errors
    /// One line: the address, and what is wrong with it or who is missing.
    pub fn connect(program: &'static str, world: World, address: &str) -> Result<Self, String> {
        let deadline = Instant::now() + START;
        let [exchanges, links] = match world.rank {
            0 => accept_all(world, address, deadline)?,
            _ => connect_to_first(world, address, deadline)?.map(|stream| vec![stream]),
        };
        let ending = Arc::new(Ending { program, world, links, begun: AtomicBool::new(false) });
        for place in 0..ending.links.len() {
            let ending = Arc::clone(&ending);
            let wait = move || ending.wait(place);
            thread::Builder::new()
                .name("other-ranks".to_owned())
                .spawn(wait)
                .map_err(|error| format!("a thread could not be started: {error}"))?;
        }
        Ok(Self { world, exchanges: Mutex::new(exchanges), ending })
    }

    /// Gives the first rank `bytes`, from which it makes the answer for each rank.
    fn exchange(
        &self,
        bytes: &[u8],
        result: &mut [u8],
        answer: impl Fn(&[u8], usize) -> Cow<'_, [u8]>,
    ) {
        let streams = self.exchanges.lock().unwrap_or_else(PoisonError::into_inner);
        let done = match &streams[..] {
            [first] if self.world.rank > 0 => ask(first, bytes, result),
            others => {
                let mut all = vec![0; bytes.len() * self.size()];
                all[..bytes.len()].copy_from_slice(bytes);
                answer_all(others, &mut all, bytes.len(), &answer)
                    .map(|()| result.copy_from_slice(&answer(&all, 0)))
            }
        };
        if let Err(error) = done {
            // A rank that ends says so; this is for one that cannot.
            thread::sleep(REASON);
            self.ending.end(1, &format!("the connection with the other ranks failed: {error}"));
        }
    }
}

/// Sends the first rank `bytes` and receives its answer.
fn ask(mut first: &TcpStream, bytes: &[u8], answer: &mut [u8]) -> io::Result<()> {
    first.write_all(&(bytes.len() as u64).to_le_bytes())?;
    first.write_all(bytes)?;
    first.read_exact(answer)
}

/// Receives `length` bytes of each other rank, and answers them.
fn answer_all(
    others: &[TcpStream],
    all: &mut [u8],
    length: usize,
    answer: impl Fn(&[u8], usize) -> Cow<'_, [u8]>,
) -> io::Result<()> {
    for (rank, mut stream) in (1..).zip(others) {
        expect_length(stream, length)?;
        stream.read_exact(&mut all[rank * length..][..length])?;
    }
    for (rank, mut stream) in (1..).zip(others) {
        stream.write_all(&answer(all, rank))?;
    }
    Ok(())
}

fn expect_length(mut stream: &TcpStream, length: usize) -> io::Result<()> {
    let mut found = [0; 8];
    stream.read_exact(&mut found)?;
    let found = u64::from_le_bytes(found);
    match found == length as u64 {
        true => Ok(()),
        false => Err(io::Error::other(format!("{found} bytes instead of {length}"))),
    }
}

impl Collective for Tcp {
    fn rank(&self) -> usize {
        self.world.rank as usize
    }

    fn size(&self) -> usize {
        self.world.size as usize
    }

    fn all_gather(&self, bytes: &[u8], all: &mut [u8]) {
        self.exchange(bytes, all, |all, _| Cow::Borrowed(all));
    }

    fn all_to_all(&self, bytes: &[u8], parts: &mut [u8]) {
        let (length, part) = (bytes.len(), bytes.len() / self.size());
        self.exchange(bytes, parts, |all, rank| {
            let of_rank = all.chunks_exact(length.max(1));
            Cow::Owned(of_rank.flat_map(|bytes| &bytes[rank * part..][..part]).copied().collect())
        });
    }

    fn abort(&self, code: u8) -> ! {
        self.ending.end(code, "")
    }
}

impl Drop for Tcp {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.ending.tell(WELL);
        }
    }
}

impl Ending {
    /// Waits until the rank at the other end of a connection ends, and if it does not end well, ends
    /// this process.
    fn wait(&self, place: usize) {
        let mut code = [WELL];
        match (&self.links[place]).read_exact(&mut code) {
            Ok(()) if code == [WELL] => {}
            Ok(()) => self.end(code[0], ""),
            Err(_) => {
                let other = if self.world.rank == 0 { place + 1 } else { 0 };
                self.end(1, &format!("rank {other} of {} has ended", self.world.size))
            }
        }
    }

    /// Ends this process with a line about the reason, unless it is empty, and all others.
    fn end(&self, code: u8, reason: &str) -> ! {
        if self.begun.swap(true, Ordering::SeqCst) {
            loop {
                thread::park();
            }
        }
        self.tell(code);
        // One rank reports: the first, or, should it be lost, the second.
        if !reason.is_empty() && self.world.rank < 2 {
            eprintln!("{}: {reason}", self.program);
        }
        // SAFETY: ends the process. Unlike `exit`, it does not wait for a GPU whose kernels wait for
        // a rank that has ended.
        unsafe { libc::_exit(code.into()) }
    }

    fn tell(&self, code: u8) {
        for mut link in &self.links {
            // A rank that cannot be told has ended.
            let _ = link.write_all(&[code]);
        }
    }
}

/// The connections of the first rank.
fn accept_all(
    world: World,
    address: &str,
    deadline: Instant,
) -> Result<[Vec<TcpStream>; 2], String> {
    let resolved = resolve(address, deadline)?;
    // The address may be that of a service in front of this machine. On a single machine, others
    // need not be let in.
    let any = match resolved.ip() {
        ip if ip.is_loopback() => ip,
        IpAddr::V4(_) => IpAddr::from([0u8; 4]),
        IpAddr::V6(_) => IpAddr::from([0u8; 16]),
    };
    let failed = |error: io::Error| format!("listening at {address}: {error}");
    let listener = TcpListener::bind((any, resolved.port())).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let others = world.size as usize - 1;
    let mut found = [(); 2].map(|()| (0..others).map(|_| None).collect::<Vec<Option<TcpStream>>>());
    while found.iter().flatten().any(Option::is_none) {
        match listener.accept() {
            Ok((stream, _)) => {
                // Something else that connects is not answered.
                let Ok((kind, other)) = read_hello(&stream) else { continue };
                let place = (other.rank as usize).wrapping_sub(1);
                match found[usize::from(kind)].get_mut(place) {
                    Some(empty @ None) if other.size == world.size => *empty = Some(stream),
                    _ => return Err(format!("{address}: another process says it is {other}")),
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(ATTEMPT),
            Err(error) => return Err(failed(error)),
        }
        if Instant::now() > deadline {
            let missing = found[0].iter().position(Option::is_none).map_or(1, |place| place + 1);
            return Err(format!(
                "rank {missing} of {} did not connect to {address} within {} minutes",
                world.size,
                START.as_secs() / 60
            ));
        }
    }
    Ok(found.map(|streams| streams.into_iter().flatten().collect()))
}

/// The connections of another rank with the first.
fn connect_to_first(
    world: World,
    address: &str,
    deadline: Instant,
) -> Result<[TcpStream; 2], String> {
    let connect = |kind: u8| loop {
        let connected = resolve(address, deadline).and_then(|resolved| {
            TcpStream::connect_timeout(&resolved, HELLO).map_err(|error| error.to_string())
        });
        match connected {
            Ok(stream) => {
                let said = stream.set_nodelay(true).and_then(|()| say_hello(&stream, kind, world));
                return said.map(|()| stream).map_err(|error| format!("{address}: {error}"));
            }
            Err(_) if Instant::now() < deadline => thread::sleep(ATTEMPT),
            Err(error) => return Err(format!("rank 0 does not answer at {address}: {error}")),
        }
    };
    Ok([connect(EXCHANGE)?, connect(ENDING)?])
}

/// The address, once the name of its host is known.
fn resolve(address: &str, deadline: Instant) -> Result<SocketAddr, String> {
    loop {
        let found = address.to_socket_addrs().map(|mut all| all.next());
        match found {
            Ok(Some(resolved)) => return Ok(resolved),
            Err(error) if error.kind() == ErrorKind::InvalidInput => {
                return Err(format!("{address} is not a host and a port"));
            }
            _ if Instant::now() < deadline => thread::sleep(20 * ATTEMPT),
            _ => return Err(format!("{address}: there is no such host")),
        }
    }
}

fn say_hello(mut stream: &TcpStream, kind: u8, world: World) -> io::Result<()> {
    let numbers = [world.rank, world.size].map(u32::to_le_bytes).concat();
    stream.write_all(&[&MAGIC[..], &[kind], &numbers].concat())
}

fn read_hello(mut stream: &TcpStream) -> io::Result<(u8, World)> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(HELLO))?;
    let mut hello = [0; MAGIC.len() + 9];
    stream.read_exact(&mut hello)?;
    stream.set_read_timeout(None)?;
    let (magic, rest) = hello.split_at(MAGIC.len());
    let number =
        |at: usize| u32::from_le_bytes([rest[at], rest[at + 1], rest[at + 2], rest[at + 3]]);
    match rest[0] {
        kind @ (EXCHANGE | ENDING) if magic == MAGIC => {
            Ok((kind, World { rank: number(1), size: number(5) }))
        }
        _ => Err(ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::Ranks;

    /// Runs `work` on connected ranks of this process.
    fn run<R: Send>(size: u32, work: impl Fn(Ranks) -> R + Sync) -> Vec<R> {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        thread::scope(|scope| {
            let start = |rank| {
                let work = &work;
                let world = World { rank, size };
                scope.spawn(move || {
                    work(Ranks::new(Tcp::connect("test", world, &free.to_string()).unwrap()))
                })
            };
            let threads: Vec<_> = (0..size).map(start).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn ranks_exchange_bytes() {
        let found = run(3, |ranks| {
            let rank = ranks.rank() as u8;
            let (mut all, mut parts) = ([0; 6], [0; 6]);
            ranks.all_gather(&[rank, 10 * rank], &mut all);
            ranks.all_to_all(&[0, 1, 2, 3, 4, 5].map(|i| 10 * rank + i), &mut parts);
            ranks.all_gather(&[], &mut []);
            ranks.all_to_all(&[], &mut []);
            (all, parts)
        });
        for (rank, (all, parts)) in found.into_iter().enumerate() {
            assert_eq!(all, [0, 0, 1, 10, 2, 20]);
            let first = 2 * rank as u8;
            assert_eq!(parts, [0, 1, 10, 11, 20, 21].map(|i| i + first));
        }
    }

    #[test]
    fn strangers_are_ignored() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let address = free.to_string();
        thread::scope(|scope| {
            let first = scope.spawn(|| Tcp::connect("test", World { rank: 0, size: 2 }, &address));
            let mut stranger = loop {
                if let Ok(stream) = TcpStream::connect(free) {
                    break stream;
                }
            };
            stranger.write_all(b"GET / HTTP/1.1\r\nHost: somewhere\r\n\r\n").unwrap();
            let second = Tcp::connect("test", World { rank: 1, size: 2 }, &address);
            assert!(first.join().unwrap().is_ok() && second.is_ok());
        });
    }

    #[test]
    fn another_world_is_refused() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let address = free.to_string();
        let first = thread::scope(|scope| {
            let first = scope.spawn(|| Tcp::connect("test", World { rank: 0, size: 2 }, &address));
            let hello = |kind| {
                let stream = loop {
                    if let Ok(stream) = TcpStream::connect(free) {
                        break stream;
                    }
                };
                say_hello(&stream, kind, World { rank: 1, size: 4 }).unwrap();
            };
            hello(EXCHANGE);
            first.join().unwrap().unwrap_err()
        });
        assert!(first.ends_with("another process says it is rank 1 of 4"), "{first}");
    }
}
