//! What comes in? Numbered packets at an even rate, which go on when the link is back, and rest when they are told to.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sluice_af_packet::{AfPacketConfig, AfPacketTx, TxConfig};

use crate::netns::{Namespace, wait_for};
use crate::traffic::{self, End};

/// What the data of each packet begins with; then come the number of its stream, and its own.
pub const MAGIC: [u8; 4] = *b"soak";
/// Packets of one flow that follow one another.
const FLOW_PACKETS: u64 = 32;
/// Flows until the first one is used again.
const FLOWS: u64 = 512;
/// A socket that took nothing for so long is made anew: its interface may be another one by now.
const BROKEN: Duration = Duration::from_millis(30);

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    rest: AtomicBool,
    rests: AtomicBool,
    sent: AtomicU64,
}

/// A sender; stopped when dropped.
#[derive(Debug)]
pub struct Sender {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Sender {
    /// Sends the packets of `stream` by `device` of `namespace`, so many a second.
    #[must_use]
    pub fn start(namespace: &Namespace, device: &str, stream: u8, rate: u32) -> Self {
        let shared = Arc::new(Shared::default());
        let config = AfPacketConfig { interface: device.to_owned(), rx: None, tx: Some(TxConfig::default()) };
        let thread = namespace.inside({
            let shared = Arc::clone(&shared);
            move || {
                let mut pace = Pace::new(rate);
                while !shared.stop.load(Ordering::Relaxed) {
                    if let Ok((_port, _, Some(mut tx))) = sluice_af_packet::open(&config) {
                        send(&shared, &mut pace, &mut tx, stream);
                    }
                    pace.wait(&shared);
                }
            }
        });
        Self { shared, thread: Some(thread) }
    }

    /// Has it rest, or go on. While it rests, nothing is sent.
    pub fn rest(&self, rest: bool) {
        self.shared.rest.store(rest, Ordering::Relaxed);
        if rest {
            let rests = || self.shared.rests.load(Ordering::Relaxed).then_some(());
            wait_for("a sender to rest", Duration::from_secs(5), rests);
        }
    }

    /// Packets that the kernel took.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// When the next packets are due. What could not be sent is not sent later.
struct Pace {
    rate: u32,
    begin: Instant,
    done: u64,
}

impl Pace {
    fn new(rate: u32) -> Self {
        Self { rate, begin: Instant::now(), done: 0 }
    }

    /// Waits a millisecond, and as long as the sender rests; gives the packets that are due.
    fn wait(&mut self, shared: &Shared) -> u64 {
        std::thread::sleep(Duration::from_millis(1));
        while shared.rest.load(Ordering::Relaxed) && !shared.stop.load(Ordering::Relaxed) {
            shared.rests.store(true, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(1));
            *self = Self::new(self.rate);
        }
        shared.rests.store(false, Ordering::Relaxed);
        let due = u64::try_from(self.begin.elapsed().as_micros()).unwrap() * u64::from(self.rate) / 1_000_000;
        let packets = due - self.done;
        self.done = due;
        // A machine that was busy with other things gets no burst for it.
        packets.min(32)
    }
}

/// Sends until the device takes nothing any more.
fn send(shared: &Shared, pace: &mut Pace, tx: &mut AfPacketTx, stream: u8) {
    let mut worked = Instant::now();
    while !shared.stop.load(Ordering::Relaxed) && worked.elapsed() < BROKEN {
        let due = pace.wait(shared);
        if due == 0 {
            continue;
        }
        for _ in 0..due {
            let number = shared.sent.load(Ordering::Relaxed);
            if tx.tx_frames(&[&[&frame(stream, number)]], |_, why| panic!("{why:?}")) == 0 {
                break;
            }
            shared.sent.store(number + 1, Ordering::Relaxed);
            worked = Instant::now();
        }
    }
}

/// A packet.
#[must_use]
pub fn frame(stream: u8, number: u64) -> Vec<u8> {
    let flow = number / FLOW_PACKETS % FLOWS;
    let port = 10_000 + u16::try_from(flow).unwrap();
    let client = End::new(Ipv4Addr::new(10, 1, stream, 1).into(), port);
    let server = End::new(Ipv4Addr::new(10, 2, stream, 1).into(), 9);
    let mut data = MAGIC.to_vec();
    data.push(stream);
    data.extend(number.to_be_bytes());
    // From short to middling, whatever the number.
    data.resize(data.len() + usize::try_from(number * 37 % 200).unwrap(), 0x5a);
    traffic::udp(&client, &server, &[], &data)
}

/// The stream and number of a packet's data; `None` = it is none of ours.
#[must_use]
pub fn number(data: &[u8]) -> Option<(u8, u64)> {
    let (&stream, rest) = data.strip_prefix(&MAGIC)?.split_first()?;
    Some((stream, u64::from_be_bytes(*rest.first_chunk()?)))
}
