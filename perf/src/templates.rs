//! What does the source of a scenario make packets from?

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use dpdk::Mempool;
use sluice_capture::CaptureReader;
use sluice_core::wire::{self, Fragment, L3};
use sluice_engine::port::{Advance, Mark, TemplateSource};

use crate::scenario::{Scenario, Traffic};
use crate::traffic;

/// Where the mix of real traffic is, in the folder of the captures.
const MIX: &str = "mix-open/mix-open.pcap.gz";
const TCP: u8 = 6;

/// What the source makes packets from.
#[derive(Debug)]
pub struct Templates {
    frames: Vec<Box<[u8]>>,
    advance: Advance,
    /// Original lengths, where frames are sliced.
    wire_lens: Box<[u32]>,
}

impl Templates {
    /// The templates of a scenario, with packets of so many bytes (0 = IMIX) where it does not bring its own.
    ///
    /// # Errors
    /// The mix of real traffic is missing or damaged.
    pub fn of(scenario: &Scenario, packet_bytes: usize) -> Result<Self> {
        let made = |frames, advance| Ok(Self { frames, advance, wire_lens: Box::default() });
        let (flows, ip_offset) = (scenario.flows, traffic::IP_OFFSET);
        match scenario.traffic {
            Traffic::Same => made(traffic::packets(flows, packet_bytes, 1), Advance::Nothing),
            Traffic::Tunnelled => {
                let inner = traffic::packets(flows, packet_bytes, 1);
                made(inner.iter().map(|frame| traffic::in_vxlan(frame)).collect(), Advance::Nothing)
            }
            Traffic::Conversations => {
                made(traffic::conversations(flows, packet_bytes, 1), Advance::Conversation { ip_offset })
            }
            Traffic::NewFlows => {
                made(traffic::packets(flows, packet_bytes, 1), Advance::NewFlow { ip_offset })
            }
            Traffic::Mix => Self::recorded(&folder().join(MIX)),
        }
    }

    /// A recording.
    fn recorded(path: &Path) -> Result<Self> {
        let mut reader = CaptureReader::open(path)
            .with_context(|| "the mix of real traffic: set SLUICE_CAPTURES to the folder of the captures")?;
        let (mut frames, mut marks, mut wire_lens) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(frame) = reader.next_frame()? {
            // What is shorter than its own addresses no NIC would give.
            if frame.data.len() < 14 {
                continue;
            }
            marks.push(mark(frame.data));
            wire_lens.push(frame.wire_len);
            frames.push(frame.data.into());
        }
        Ok(Self { frames, advance: Advance::Recording(marks.into()), wire_lens: wire_lens.into() })
    }

    /// A source over them.
    #[must_use]
    pub fn source(&self, pool: &Mempool, burst: usize) -> TemplateSource {
        let source = TemplateSource::new(pool.clone(), &self.frames, burst, self.advance.clone());
        source.sliced(self.wire_lens.clone())
    }

    /// How many packets there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.frames.len()
    }

    /// The mean length of the packets in bytes, as captured.
    #[must_use]
    pub fn mean_bytes(&self) -> usize {
        self.frames.iter().map(|frame| frame.len()).sum::<usize>() / self.frames.len().max(1)
    }
}

/// What can be changed in this frame.
fn mark(frame: &[u8]) -> Mark {
    let parsed = wire::parse(frame);
    let place = |offset: u16| u8::try_from(offset).unwrap_or(0);
    let id_offset = match parsed.l3 {
        L3::Ipv4 => place(parsed.l3_offset + 4),
        L3::Ipv6 => place(parsed.l3_offset + 2),
        L3::Arp | L3::None => 0,
    };
    let is_segment = parsed.protocol == TCP && parsed.l4_offset > 0 && parsed.fragment != Fragment::Later;
    Mark { id_offset, seq_offset: if is_segment { place(parsed.l4_offset + 4) } else { 0 } }
}

/// The folder of the captures.
fn folder() -> PathBuf {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/captures");
    std::env::var_os("SLUICE_CAPTURES").map_or(beside, PathBuf::from)
}
