//! Capture files as ports: a thread reads the file and hands frames to the worker, as fast as it takes them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use dpdk::Mempool;
use sluice_capture::CaptureReader;

use super::StartError;
use super::port_state::PortState;
use super::ports::OpenPort;
use super::start::spawn;
use crate::batch::RxInfo;
use crate::port::Feed;

/// How long the reader waits when the worker, or the pool, is behind.
const PAUSE: Duration = Duration::from_micros(100);

/// Starts a thread for each port that is a capture file.
pub(super) fn spawn_all(
    open: &mut [OpenPort],
    pool: &Mempool,
    stop: &Arc<AtomicBool>,
) -> Result<Vec<JoinHandle<()>>, StartError> {
    let mut threads = Vec::new();
    for port in open {
        let Some((reader, queue)) = port.take_feed() else { continue };
        let (state, pool, stop) = (port.state(), pool.clone(), Arc::clone(stop));
        threads.push(spawn("sluice-feeder", move || feed(reader, &queue, &pool, &state, &stop))?);
    }
    Ok(threads)
}

/// Hands over every frame of the file; the port's link goes down at its end.
fn feed(mut reader: CaptureReader, queue: &Feed, pool: &Mempool, state: &PortState, stop: &AtomicBool) {
    let mut frames = 0_u64;
    loop {
        match reader.next_frame() {
            Ok(Some(frame)) => {
                let info = RxInfo { wire_len: frame.wire_len, timestamp_ns: frame.timestamp_ns, gso_size: 0 };
                let mut waiting = None;
                while !stop.load(Ordering::Relaxed) {
                    // Half of the pool stays free for copies and for the other ports.
                    if waiting.is_none() && pool.in_use() < pool.capacity() / 2 {
                        waiting = pool.copy_from(frame.data);
                    }
                    match waiting.take() {
                        None => std::thread::sleep(PAUSE),
                        Some(mbuf) => match queue.push((mbuf, info)) {
                            Ok(()) => {
                                frames += 1;
                                state.count_fed();
                                break;
                            }
                            Err((mbuf, _)) => {
                                waiting = Some(mbuf);
                                std::thread::sleep(PAUSE);
                            }
                        },
                    }
                }
            }
            Ok(None) => {
                tracing::info!(port = state.name(), frames, "the capture file has ended");
                break;
            }
            Err(error) => {
                tracing::error!(port = state.name(), frames, %error, "the capture file is damaged");
                break;
            }
        }
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
    state.set_up(false);
}
