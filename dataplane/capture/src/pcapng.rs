//! Where is the next packet of a pcapng file?
//!
//! Section headers and interface descriptions, with their options, are parsed by `pcap-parser`. The fixed fields
//! of packet blocks are read here: the library collects every packet's options in a vector, and nobody asks
//! for them. Blocks that hold no packets are skipped without being brought into memory.
//!
//! Source: draft-ietf-opsawg-pcapng; the obsolete Packet Block as in its appendix.

use pcap_parser::pcapng as blocks;

use crate::error::{Damage, Fault};
use crate::link::{Framing, LinkType};
use crate::order::Order;
use crate::reader::{Located, MAX_CAP_LEN};
use crate::window::{WINDOW_BYTES, Window};

/// The type of a section header block, the same in both byte orders.
const SECTION_HEADER: u32 = blocks::SHB_MAGIC;
const INTERFACE_DESCRIPTION: u32 = blocks::IDB_MAGIC;
const OBSOLETE_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = blocks::SPB_MAGIC;
const ENHANCED_PACKET: u32 = blocks::EPB_MAGIC;

/// Type, length, and the length again.
const MIN_BLOCK_BYTES: u32 = 12;
/// Largest block that is brought into memory, in bytes: a packet of [`MAX_CAP_LEN`] leaves 700 kB for options.
const MAX_BLOCK_BYTES: usize = WINDOW_BYTES;
/// Interfaces of one section that are believed.
const MAX_INTERFACES: usize = 65_536;

/// A pcapng file, at a block's begin.
#[derive(Debug)]
pub(crate) struct Pcapng {
    order: Order,
    interfaces: Vec<Interface>,
    /// Interfaces of the sections before this one.
    earlier_interfaces: u32,
    /// Time of the packet before, for those that have none.
    last_timestamp_ns: u64,
}

/// What packets need from the description of their interface.
#[derive(Clone, Copy, Debug)]
struct Interface {
    link_type: LinkType,
    framing: Option<Framing>,
    /// 0 = no limit.
    snaplen: u32,
    clock: Clock,
}

/// The unit and the zero point of an interface's time stamps.
#[derive(Clone, Copy, Debug)]
struct Clock {
    /// `if_tsresol`: a negative power of 10, or of 2 when the upper bit is set.
    resolution: u8,
    /// `if_tsoffset`, in seconds.
    offset_seconds: i64,
}

/// The fields that all packet blocks have, as they stand in the block.
struct Packet {
    interface: u32,
    /// In units of the interface; `None` when the block has no time.
    timestamp: Option<u64>,
    cap_len: u32,
    wire_len: u32,
    /// Where in the block the captured bytes begin.
    data_at: usize,
}

impl Pcapng {
    /// Whether a file that begins with `magic` is one of these.
    pub(crate) fn recognises(magic: [u8; 4]) -> bool {
        u32::from_le_bytes(magic) == SECTION_HEADER
    }

    /// A file before its first section header, which must be recognised.
    pub(crate) fn new() -> Self {
        Self { order: Order::Little, interfaces: Vec::new(), earlier_interfaces: 0, last_timestamp_ns: 0 }
    }

    /// The next packet, consumed but still in the window's buffer; `None` at the end of the file.
    pub(crate) fn locate(&mut self, window: &mut Window) -> Result<Option<Located>, Fault> {
        loop {
            if !window.ensure(8)? {
                return if window.available() == 0 { Ok(None) } else { Err(cut(window, "block header", 8)) };
            }
            let block_type = self.order.u32_at(window.data(), 0);
            match block_type {
                SECTION_HEADER => self.section(window)?,
                INTERFACE_DESCRIPTION => self.interface(window)?,
                OBSOLETE_PACKET | SIMPLE_PACKET | ENHANCED_PACKET => {
                    return self.packet(window, block_type).map(Some);
                }
                _ => self.skip(window, block_type)?,
            }
        }
    }

    fn section(&mut self, window: &mut Window) -> Result<(), Fault> {
        let part = "section header block";
        if !window.ensure(12)? {
            return Err(cut(window, part, 28));
        }
        let magic = Order::Little.u32_at(window.data(), 8);
        self.order = if magic == blocks::BOM_MAGIC {
            Order::Little
        } else if magic == blocks::BOM_MAGIC.swap_bytes() {
            Order::Big
        } else {
            return Err(Fault::Damage(window.offset(), Damage::Malformed { part }));
        };
        let len = self.load(window, SECTION_HEADER, part, 28)?;
        let offset = window.offset();
        let Ok((_, header)) = blocks::parse_sectionheaderblock(&window.data()[..len]) else {
            return Err(Fault::Damage(offset, Damage::Malformed { part }));
        };
        let (major, minor) = (header.major_version, header.minor_version);
        if major != 1 {
            return Err(Fault::Damage(offset, Damage::Version { format: "pcapng", major, minor }));
        }
        let before = u32::try_from(self.interfaces.len()).unwrap_or(u32::MAX);
        self.earlier_interfaces = self.earlier_interfaces.saturating_add(before);
        self.interfaces.clear();
        window.consume(len);
        Ok(())
    }

    fn interface(&mut self, window: &mut Window) -> Result<(), Fault> {
        let part = "interface description block";
        let len = self.load(window, INTERFACE_DESCRIPTION, part, 20)?;
        let offset = window.offset();
        let block = &window.data()[..len];
        let parsed = match self.order {
            Order::Little => blocks::parse_interfacedescriptionblock_le(block),
            Order::Big => blocks::parse_interfacedescriptionblock_be(block),
        };
        let Ok((_, description)) = parsed else {
            return Err(Fault::Damage(offset, Damage::Malformed { part }));
        };
        if self.interfaces.len() >= MAX_INTERFACES {
            let limit = u32::try_from(MAX_INTERFACES).unwrap_or(u32::MAX);
            return Err(Fault::Damage(offset, Damage::TooManyInterfaces { limit }));
        }
        // The library's own reading of these two knows neither binary resolutions nor big-endian offsets.
        let mut clock = Clock { resolution: 6, offset_seconds: 0 };
        for option in &description.options {
            let Ok(value) = option.as_bytes() else { continue };
            match option.code {
                blocks::OptionCode::IfTsresol if value.len() == 1 => clock.resolution = value[0],
                blocks::OptionCode::IfTsoffset if value.len() == 8 => {
                    clock.offset_seconds = self.order.i64_at(value, 0);
                }
                _ => {}
            }
        }
        let link_type = LinkType(description.linktype.0.cast_unsigned());
        self.interfaces.push(Interface {
            link_type,
            framing: link_type.framing(self.order),
            snaplen: description.snaplen,
            clock,
        });
        window.consume(len);
        Ok(())
    }

    fn packet(&mut self, window: &mut Window, block_type: u32) -> Result<Located, Fault> {
        let fixed_bytes = if block_type == SIMPLE_PACKET { 12 } else { 28 };
        let len = self.load(window, block_type, "packet block", fixed_bytes + 4)?;
        let offset = window.offset();
        let block = &window.data()[..len];
        let packet = self.packet_fields(block, block_type);
        let Some(&interface) = self.interfaces.get(packet.interface as usize) else {
            let described = u32::try_from(self.interfaces.len()).unwrap_or(u32::MAX);
            let damage = Damage::UnknownInterface { interface: packet.interface, described };
            return Err(Fault::Damage(offset, damage));
        };
        let cap_len = packet.cap_len;
        let room = len - packet.data_at - 4;
        if cap_len > MAX_CAP_LEN {
            let damage = Damage::CapturedLength { cap_len, limit_bytes: MAX_CAP_LEN };
            return Err(Fault::Damage(offset, damage));
        }
        if cap_len as usize > room {
            let room_bytes = u32::try_from(room).unwrap_or(u32::MAX);
            return Err(Fault::Damage(offset, Damage::PacketBeyondBlock { cap_len, room_bytes }));
        }
        let number = self.earlier_interfaces.saturating_add(packet.interface);
        let Some(framing) = interface.framing else {
            return Err(Fault::LinkType { offset, link_type: interface.link_type, interface: number });
        };
        if let Some(timestamp) = packet.timestamp {
            self.last_timestamp_ns = interface.clock.nanoseconds(timestamp);
        }
        let at = window.position() + packet.data_at;
        window.consume(len);
        Ok(Located {
            at,
            cap_len: cap_len as usize,
            wire_len: packet.wire_len,
            timestamp_ns: self.last_timestamp_ns,
            interface: number,
            framing,
        })
    }

    fn packet_fields(&self, block: &[u8], block_type: u32) -> Packet {
        let field = |at| self.order.u32_at(block, at);
        if block_type == SIMPLE_PACKET {
            // No captured length: it is the lesser of the original and the interface's snap length.
            let wire_len = field(8);
            let snaplen = self.interfaces.first().map_or(0, |interface| interface.snaplen);
            let cap_len = if snaplen == 0 { wire_len } else { wire_len.min(snaplen) };
            return Packet { interface: 0, timestamp: None, cap_len, wire_len, data_at: 12 };
        }
        let interface =
            if block_type == OBSOLETE_PACKET { self.order.u16_at(block, 8).into() } else { field(8) };
        Packet {
            interface,
            timestamp: Some(u64::from(field(12)) << 32 | u64::from(field(16))),
            cap_len: field(20),
            wire_len: field(24),
            data_at: 28,
        }
    }

    fn skip(&mut self, window: &mut Window, block_type: u32) -> Result<(), Fault> {
        let offset = window.offset();
        let first = self.order.u32_at(window.data(), 4);
        if first < MIN_BLOCK_BYTES {
            return Err(Fault::Damage(offset, Damage::BlockLength { block_type, len_bytes: first }));
        }
        let len = u64::from(first).next_multiple_of(4);
        if !(window.skip(len - 4)? && window.ensure(4)?) {
            let have_bytes = window.end_offset() - offset;
            return Err(Fault::Damage(offset, Damage::Cut { part: "block", have_bytes, need_bytes: len }));
        }
        let second = self.order.u32_at(window.data(), 0);
        check_trailer(offset, block_type, first, second)?;
        window.consume(4);
        Ok(())
    }

    /// Brings a whole block into memory and checks its two lengths. Returns its length with padding.
    #[inline]
    fn load(
        &self,
        window: &mut Window,
        block_type: u32,
        part: &'static str,
        min: usize,
    ) -> Result<usize, Fault> {
        let first = self.order.u32_at(window.data(), 4);
        // Some early writers left the padding out of the length.
        let len = (first as usize).next_multiple_of(4);
        if len < min || len > MAX_BLOCK_BYTES {
            let damage = Damage::BlockLength { block_type, len_bytes: first };
            return Err(Fault::Damage(window.offset(), damage));
        }
        if !window.ensure(len)? {
            return Err(cut(window, part, len));
        }
        let second = self.order.u32_at(window.data(), len - 4);
        check_trailer(window.offset(), block_type, first, second)?;
        Ok(len)
    }
}

impl Clock {
    /// Nanoseconds since the epoch, within what 64 bits hold.
    #[inline]
    fn nanoseconds(self, timestamp: u64) -> u64 {
        let exponent = u32::from(self.resolution & 0x7f);
        let since_offset = if self.resolution & 0x80 != 0 {
            (u128::from(timestamp) * 1_000_000_000).checked_shr(exponent).unwrap_or(0)
        } else if exponent <= 9 {
            u128::from(timestamp) * 10u128.pow(9 - exponent)
        } else {
            10u128.checked_pow(exponent - 9).map_or(0, |units| u128::from(timestamp) / units)
        };
        if self.offset_seconds == 0 {
            return u64::try_from(since_offset).unwrap_or(u64::MAX);
        }
        // Less than 2^94 and 2^93: the sum fits.
        let offset = i128::from(self.offset_seconds) * 1_000_000_000;
        let since_epoch = i128::try_from(since_offset).unwrap_or(i128::MAX).saturating_add(offset);
        u64::try_from(since_epoch.max(0)).unwrap_or(u64::MAX)
    }
}

#[inline]
fn check_trailer(offset: u64, block_type: u32, first: u32, second: u32) -> Result<(), Fault> {
    if first == second || u64::from(first).next_multiple_of(4) == u64::from(second).next_multiple_of(4) {
        return Ok(());
    }
    let damage = Damage::BlockTrailer { block_type, first_bytes: first, second_bytes: second };
    Err(Fault::Damage(offset, damage))
}

fn cut(window: &Window, part: &'static str, need: usize) -> Fault {
    let damage = Damage::Cut { part, have_bytes: window.available() as u64, need_bytes: need as u64 };
    Fault::Damage(window.offset(), damage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks() {
        let ns = |resolution, offset_seconds, timestamp| {
            Clock { resolution, offset_seconds }.nanoseconds(timestamp)
        };
        assert_eq!(ns(6, 0, 1_500_000_000_123_456), 1_500_000_000_123_456_000);
        assert_eq!(ns(9, 0, 1_500_000_000_123_456_789), 1_500_000_000_123_456_789);
        assert_eq!(ns(0, 0, 1_500_000_000), 1_500_000_000_000_000_000);
        assert_eq!(ns(12, 0, 1_234_567_890_123), 1_234_567_890);
        // 2^-10 s: 1.5 s are 1,536 units.
        assert_eq!(ns(0x8a, 0, 1_536), 1_500_000_000);
        assert_eq!(ns(6, 100, 1), 100_000_001_000);
        assert_eq!(ns(6, -100, 200_000_000), 100_000_000_000);
        assert_eq!(ns(6, -100, 1), 0);
        for resolution in 0..=u8::MAX {
            for offset in [i64::MIN, -1, 0, 1, i64::MAX] {
                ns(resolution, offset, u64::MAX);
            }
        }
    }
}
