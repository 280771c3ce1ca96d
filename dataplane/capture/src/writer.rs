//! How does a replay leave its copies behind? As a nanosecond pcap file.

use std::io::{self, Write};

/// The snap length that the file header states, and the most bytes of one packet that may be written.
pub const SNAPLEN: u32 = 262_144;

/// Magic of a pcap file whose times are in nanoseconds, in the byte order of the file.
const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
const LINKTYPE_ETHERNET: u32 = 1;
const NANOSECONDS: u64 = 1_000_000_000;

/// Writes Ethernet frames to a little-endian nanosecond pcap file, in small writes: give it something that buffers.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// let mut pcap = sluice_capture::PcapWriter::new(Vec::new())?;
/// pcap.write(1_500_000_000_123_456_789, 1514, [&[0u8; 14][..], &[0x45]])?;
/// let file = pcap.finish()?;
/// assert_eq!(file.len(), 24 + 16 + 15);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct PcapWriter<W: Write> {
    out: W,
}

impl<W: Write> PcapWriter<W> {
    /// Starts a file on `out`: writes the 24 bytes of the file header.
    pub fn new(mut out: W) -> io::Result<Self> {
        let mut header = [0; 24];
        header[0..4].copy_from_slice(&MAGIC_NANOSECONDS.to_le_bytes());
        header[4..6].copy_from_slice(&2u16.to_le_bytes());
        header[6..8].copy_from_slice(&4u16.to_le_bytes());
        // Bytes 8 to 16: zone and accuracy, zero in every file.
        header[16..20].copy_from_slice(&SNAPLEN.to_le_bytes());
        header[20..24].copy_from_slice(&LINKTYPE_ETHERNET.to_le_bytes());
        out.write_all(&header)?;
        Ok(Self { out })
    }

    /// Appends one frame given in `parts` (the segments of an mbuf chain, or header and payload).
    ///
    /// `timestamp_ns` counts from the epoch; seconds beyond 32 bits (the year 2106) are written as the last
    /// second that fits. `wire_len` is the original length; less than the length of the parts is raised to it.
    /// More than [`SNAPLEN`] bytes are refused as [`io::ErrorKind::InvalidInput`].
    pub fn write<'a, P>(&mut self, timestamp_ns: u64, wire_len: u32, parts: P) -> io::Result<()>
    where
        P: IntoIterator<Item = &'a [u8]>,
        P::IntoIter: Clone,
    {
        let parts = parts.into_iter();
        let len: usize = parts.clone().map(<[u8]>::len).sum();
        let cap_len = u32::try_from(len).ok().filter(|&len| len <= SNAPLEN).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("a frame of {len} bytes does not fit the snap length of {SNAPLEN}"),
            )
        })?;
        let seconds = u32::try_from(timestamp_ns / NANOSECONDS).unwrap_or(u32::MAX);
        let nanoseconds = u32::try_from(timestamp_ns % NANOSECONDS).unwrap_or(0);
        let mut header = [0; 16];
        header[0..4].copy_from_slice(&seconds.to_le_bytes());
        header[4..8].copy_from_slice(&nanoseconds.to_le_bytes());
        header[8..12].copy_from_slice(&cap_len.to_le_bytes());
        header[12..16].copy_from_slice(&wire_len.max(cap_len).to_le_bytes());
        self.out.write_all(&header)?;
        for part in parts {
            self.out.write_all(part)?;
        }
        Ok(())
    }

    /// The output, to look at or to empty a buffer. What is written to it directly becomes part of the file.
    pub fn get_mut(&mut self) -> &mut W {
        &mut self.out
    }

    /// Flushes the output.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Flushes the output and gives it back.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.flush()?;
        Ok(self.out)
    }
}
