//! What does a receiver see when packets are lost on the way? A wire in user space that drops some of them, known ones: the
//! kernel of test machines has no netem.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sluice_af_packet::{AfPacketConfig, AfPacketRx, AfPacketTx, RxConfig, TxConfig};

use crate::netns::Namespace;

/// The protocols whose packets may be dropped: UDP and GRE, which carry tunnels.
const TUNNELS: [u8; 2] = [17, 47];

/// A wire between two interfaces of a namespace that drops some of what goes from the first to the second.
#[derive(Debug)]
pub struct Dropper {
    passed: Arc<AtomicU64>,
    dropped: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Dropper {
    /// Forwards between `first` and `second`, both ways; of the tunnel packets from the first one those are dropped that
    /// `choice` names by their number in the order of arrival. Returns when it forwards.
    pub fn start(
        namespace: &Namespace,
        first: &str,
        second: &str,
        choice: impl Fn(u64) -> bool + Send + 'static,
    ) -> Self {
        let config = |device: &str| AfPacketConfig {
            interface: device.to_owned(),
            rx: Some(RxConfig { ignore_outgoing: true, ..RxConfig::default() }),
            tx: Some(TxConfig::default()),
        };
        let configs = [config(first), config(second)];
        let (passed, dropped) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let stop = Arc::<AtomicBool>::default();
        let (forwarding, ready) = std::sync::mpsc::channel();
        let thread = namespace.inside({
            let (passed, dropped, stop) = (Arc::clone(&passed), Arc::clone(&dropped), Arc::clone(&stop));
            move || {
                let [(first, first_rx, first_tx), (second, second_rx, second_tx)] =
                    configs.map(|config| sluice_af_packet::open(&config).unwrap());
                let (mut first_rx, mut first_tx) = (first_rx.unwrap(), first_tx.unwrap());
                let (mut second_rx, mut second_tx) = (second_rx.unwrap(), second_tx.unwrap());
                forwarding.send(()).unwrap();
                let mut count = 0;
                while !stop.load(Ordering::Relaxed) {
                    let there = forward(&mut first_rx, &mut second_tx, |frame| {
                        if !is_tunnel(frame) {
                            return true;
                        }
                        let drops = choice(count);
                        count += 1;
                        if drops { &dropped } else { &passed }.fetch_add(1, Ordering::Relaxed);
                        !drops
                    });
                    let back = forward(&mut second_rx, &mut first_tx, |_| true);
                    if there + back == 0 {
                        std::thread::sleep(Duration::from_micros(50));
                    }
                }
                first.stats().kernel_drops + second.stats().kernel_drops
            }
        });
        ready.recv().unwrap();
        Self { passed, dropped, stop, thread }
    }

    /// Tunnel packets that went on so far.
    #[must_use]
    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }

    /// Tunnel packets that were dropped so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// The count of those itself, for a sender that goes by it.
    #[must_use]
    pub fn counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.dropped)
    }

    /// Ends it; the kernel must not have dropped anything itself.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        assert_eq!(self.thread.join().unwrap(), 0, "dropped by the kernel in front of the dropper");
    }
}

/// Forwards what `passes`; returns how many frames came.
fn forward(from: &mut AfPacketRx, to: &mut AfPacketTx, mut passes: impl FnMut(&[u8]) -> bool) -> usize {
    from.rx_frames(64, |frame, _| {
        if passes(frame) {
            let end = Instant::now() + Duration::from_secs(2);
            while to.tx_frames(&[&[frame]], |_, why| panic!("{} bytes: {why:?}", frame.len())) == 0 {
                assert!(Instant::now() < end, "the kernel takes no frame");
            }
        }
        true
    })
}

/// Whether a frame is an untagged IP packet that carries a tunnel.
fn is_tunnel(frame: &[u8]) -> bool {
    match frame.get(12..14) {
        Some([0x08, 0x00]) => frame.get(23).is_some_and(|protocol| TUNNELS.contains(protocol)),
        Some([0x86, 0xdd]) => frame.get(20).is_some_and(|protocol| TUNNELS.contains(protocol)),
        _ => false,
    }
}
