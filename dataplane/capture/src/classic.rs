//! Where is the next packet of a (classic) pcap file?
//!
//! The file header is parsed by `pcap-parser`. The 16-byte record header is read here: its length must be
//! judged before the record is brought into memory, and the formats of old and patched libpcaps differ in it.

use crate::error::{Damage, Fault};
use crate::link::{Framing, LinkType};
use crate::order::Order;
use crate::reader::{Located, MAX_CAP_LEN};
use crate::window::Window;

/// Length of the file header, in bytes.
const FILE_HEADER_BYTES: usize = 24;
/// The part of the link type field that is the number; above lie the frame check sequence's length and flags.
const LINKTYPE_MASK: u32 = 0x03ff_ffff;

/// A pcap file behind its file header.
#[derive(Debug)]
pub(crate) struct Classic {
    order: Order,
    /// 1,000 for microseconds, 1 for nanoseconds.
    fraction_ns: u32,
    /// 16, or 24 in Kuznetzov's patched format.
    record_header_bytes: usize,
    lengths: Lengths,
    framing: Framing,
}

/// In which order a record states captured and original length.
///
/// libpcap swapped them at 0.4 (file version 2.3); files of 2.3 come both ways.
#[derive(Clone, Copy, Debug)]
enum Lengths {
    CapturedFirst,
    OriginalFirst,
    LargerIsOriginal,
}

impl Classic {
    /// Whether a file that begins with `magic` is one of these.
    pub(crate) fn recognises(magic: [u8; 4]) -> bool {
        variant(magic).is_some()
    }

    /// Reads the file header, which must be recognised.
    pub(crate) fn open(window: &mut Window) -> Result<Self, Fault> {
        if !window.ensure(FILE_HEADER_BYTES)? {
            return Err(cut(window, "pcap file header", FILE_HEADER_BYTES));
        }
        let malformed = Fault::Damage(0, Damage::Malformed { part: "pcap file header" });
        let mut header = [0; FILE_HEADER_BYTES];
        header.copy_from_slice(&window.data()[..FILE_HEADER_BYTES]);
        let Some((order, fraction_ns, record_header_bytes)) =
            variant([header[0], header[1], header[2], header[3]])
        else {
            return Err(malformed);
        };
        // The library knows the patched format in one byte order only; apart from the magic the headers agree.
        let plain_magic = match order {
            Order::Little => 0xa1b2_c3d4_u32.to_le_bytes(),
            Order::Big => 0xa1b2_c3d4_u32.to_be_bytes(),
        };
        header[..4].copy_from_slice(&plain_magic);
        let Ok((_, parsed)) = pcap_parser::parse_pcap_header(&header) else {
            return Err(malformed);
        };
        let (major, minor) = (parsed.version_major, parsed.version_minor);
        let lengths = match (major, minor) {
            // 543.0 is what DG/UX tcpdump wrote.
            (2, 0..=2) | (543, 0) => Lengths::OriginalFirst,
            (2, 3) => Lengths::LargerIsOriginal,
            (2, _) => Lengths::CapturedFirst,
            _ => return Err(Fault::Damage(0, Damage::Version { format: "pcap", major, minor })),
        };
        let link_type = LinkType(parsed.network.0.cast_unsigned() & LINKTYPE_MASK);
        let Some(framing) = link_type.framing(order) else {
            return Err(Fault::LinkType { offset: 0, link_type, interface: 0 });
        };
        window.consume(FILE_HEADER_BYTES);
        Ok(Self { order, fraction_ns, record_header_bytes, lengths, framing })
    }

    /// The next packet, consumed but still in the window's buffer; `None` at the end of the file.
    #[inline]
    pub(crate) fn locate(&mut self, window: &mut Window) -> Result<Option<Located>, Fault> {
        let header_bytes = self.record_header_bytes;
        if !window.ensure(header_bytes)? {
            return if window.available() == 0 {
                Ok(None)
            } else {
                Err(cut(window, "record header", header_bytes))
            };
        }
        let header = window.data();
        let seconds = self.order.u32_at(header, 0);
        let fraction = self.order.u32_at(header, 4);
        let (first, second) = (self.order.u32_at(header, 8), self.order.u32_at(header, 12));
        let (cap_len, wire_len) = match self.lengths {
            Lengths::CapturedFirst => (first, second),
            Lengths::OriginalFirst => (second, first),
            Lengths::LargerIsOriginal => (first.min(second), first.max(second)),
        };
        if cap_len > MAX_CAP_LEN {
            let damage = Damage::CapturedLength { cap_len, limit_bytes: MAX_CAP_LEN };
            return Err(Fault::Damage(window.offset(), damage));
        }
        let record_bytes = header_bytes + cap_len as usize;
        if !window.ensure(record_bytes)? {
            return Err(cut(window, "packet record", record_bytes));
        }
        let at = window.position() + header_bytes;
        window.consume(record_bytes);
        Ok(Some(Located {
            at,
            cap_len: cap_len as usize,
            wire_len,
            timestamp_ns: u64::from(seconds) * 1_000_000_000
                + u64::from(fraction) * u64::from(self.fraction_ns),
            interface: 0,
            framing: self.framing,
        }))
    }
}

/// Byte order, nanoseconds of one unit of the time's fraction, and length of a record header.
fn variant(magic: [u8; 4]) -> Option<(Order, u32, usize)> {
    match magic {
        [0xd4, 0xc3, 0xb2, 0xa1] => Some((Order::Little, 1_000, 16)),
        [0xa1, 0xb2, 0xc3, 0xd4] => Some((Order::Big, 1_000, 16)),
        [0x4d, 0x3c, 0xb2, 0xa1] => Some((Order::Little, 1, 16)),
        [0xa1, 0xb2, 0x3c, 0x4d] => Some((Order::Big, 1, 16)),
        [0x34, 0xcd, 0xb2, 0xa1] => Some((Order::Little, 1_000, 24)),
        [0xa1, 0xb2, 0xcd, 0x34] => Some((Order::Big, 1_000, 24)),
        _ => None,
    }
}

fn cut(window: &Window, part: &'static str, need: usize) -> Fault {
    let damage = Damage::Cut { part, have_bytes: window.available() as u64, need_bytes: need as u64 };
    Fault::Damage(window.offset(), damage)
}
