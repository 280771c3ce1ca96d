//! What is the next frame of this capture file, whatever its format?

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::classic::Classic;
use crate::compression::decompress;
use crate::error::{CaptureError, Damage, Fault};
use crate::link::Framing;
use crate::pcapng::Pcapng;
use crate::window::Window;

/// The longest frame that is handed on, in bytes; more captured bytes are cut off and counted.
pub const MAX_FRAME_BYTES: usize = 65_535;

/// The longest captured length that is believed, in bytes: what libpcap and Wireshark allow at most.
pub(crate) const MAX_CAP_LEN: u32 = 262_144;

/// One captured frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The Ethernet frame as captured, at most [`MAX_FRAME_BYTES`]; may be empty.
    pub data: &'a [u8],
    /// Length of the original frame, in bytes; never less than was captured.
    pub wire_len: u32,
    /// Time of the capture, in nanoseconds since the epoch.
    pub timestamp_ns: u64,
    /// The interface in order of description, counted over all sections of the file; 0 in pcap files.
    pub interface: u32,
}

/// How far a file has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the file, as it lies on the disk (compressed), that were read.
    pub bytes_read: u64,
    /// Size of the file, when it is a regular one.
    pub bytes_total: Option<u64>,
}

/// Where a packet lies in the window's buffer, and what its record says of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Located {
    pub(crate) at: usize,
    pub(crate) cap_len: usize,
    pub(crate) wire_len: u32,
    pub(crate) timestamp_ns: u64,
    pub(crate) interface: u32,
    pub(crate) framing: Framing,
}

/// Reads the frames of one pcap or pcapng file, plain or compressed.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut pcap = sluice_capture::PcapWriter::new(Vec::new())?;
/// pcap.write(1_500_000_000_123_456_789, 1514, [&[0u8; 60][..]])?;
/// let file = std::io::Cursor::new(pcap.finish()?);
///
/// let mut reader = sluice_capture::CaptureReader::from_reader("example", Box::new(file))?;
/// let frame = reader.next_frame()?.ok_or("one frame")?;
/// assert_eq!((frame.data.len(), frame.wire_len), (60, 1514));
/// assert_eq!(frame.timestamp_ns, 1_500_000_000_123_456_789);
/// assert!(reader.next_frame()?.is_none());
/// # Ok(())
/// # }
/// ```
pub struct CaptureReader {
    name: String,
    window: Window,
    format: Format,
    bytes_read: Arc<AtomicU64>,
    bytes_total: Option<u64>,
    packets: u64,
    cut_frames: u64,
    ended: bool,
}

#[derive(Debug)]
enum Format {
    Pcap(Classic),
    Pcapng(Pcapng),
}

impl CaptureReader {
    /// Opens a file and reads its header.
    ///
    /// Errors: a file that cannot be opened, is no capture, is damaged in its header, or (pcap) has a link type
    /// that is refused.
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        let name = path.display().to_string();
        let open = || -> io::Result<(File, Option<u64>)> {
            let file = File::open(path)?;
            let metadata = file.metadata()?;
            Ok((file, metadata.is_file().then_some(metadata.len())))
        };
        match open() {
            Ok((file, bytes_total)) => Self::start(name, Box::new(file), bytes_total),
            Err(source) => Err(CaptureError::Open { file: name, source }),
        }
    }

    /// Reads from any source, called `name` in errors. Errors as in [`CaptureReader::open`].
    pub fn from_reader(name: &str, source: Box<dyn Read + Send>) -> Result<Self, CaptureError> {
        Self::start(name.to_owned(), source, None)
    }

    /// The next frame; `None` at the end of the file, and after an error.
    ///
    /// An error comes after every whole packet before it. In pcapng files it is also what the first packet of an
    /// interface with a refused link type gets.
    #[inline]
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, CaptureError> {
        if self.ended {
            return Ok(None);
        }
        let located = match &mut self.format {
            Format::Pcap(pcap) => pcap.locate(&mut self.window),
            Format::Pcapng(pcapng) => pcapng.locate(&mut self.window),
        };
        let located = match located {
            Ok(Some(located)) => located,
            Ok(None) => {
                self.ended = true;
                return Ok(None);
            }
            Err(fault) => {
                self.ended = true;
                return Err(describe(fault, &self.name, &self.window, self.packets));
            }
        };
        self.packets += 1;
        let buf = self.window.buffer_mut();
        let placed = located.framing.place(buf, located.at, located.cap_len, located.wire_len);
        self.cut_frames += u64::from(placed.cut);
        Ok(Some(Frame {
            data: &buf[placed.start..placed.start + placed.len],
            wire_len: placed.wire_len,
            timestamp_ns: located.timestamp_ns,
            interface: located.interface,
        }))
    }

    /// How far the file has been read, for a progress bar.
    pub fn progress(&self) -> Progress {
        Progress { bytes_read: self.bytes_read.load(Ordering::Relaxed), bytes_total: self.bytes_total }
    }

    /// Frames handed on so far.
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// Frames handed on so far of which only the first [`MAX_FRAME_BYTES`] bytes were.
    pub fn cut_frames(&self) -> u64 {
        self.cut_frames
    }

    fn start(
        name: String,
        source: Box<dyn Read + Send>,
        bytes_total: Option<u64>,
    ) -> Result<Self, CaptureError> {
        let bytes_read = Arc::new(AtomicU64::new(0));
        let counted = Box::new(Counted { source, bytes_read: Arc::clone(&bytes_read) });
        let plain = match decompress(counted) {
            Ok(plain) => plain,
            Err(source) => return Err(CaptureError::Read { file: name, offset: 0, packets: 0, source }),
        };
        let mut window = Window::new(plain);
        match recognise(&mut window) {
            Ok(Ok(format)) => Ok(Self {
                name,
                window,
                format,
                bytes_read,
                bytes_total,
                packets: 0,
                cut_frames: 0,
                ended: false,
            }),
            Ok(Err(reason)) => Err(CaptureError::NotACapture { file: name, reason }),
            Err(fault) => Err(describe(fault, &name, &window, 0)),
        }
    }
}

impl fmt::Debug for CaptureReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaptureReader")
            .field("name", &self.name)
            .field("window", &self.window)
            .field("format", &self.format)
            .field("packets", &self.packets)
            .finish_non_exhaustive()
    }
}

/// The format of the file, or why it is none.
fn recognise(window: &mut Window) -> Result<Result<Format, String>, Fault> {
    if !window.ensure(4)? {
        return Ok(Err(match window.available() {
            0 => "it is empty".to_owned(),
            len => format!("it has only {len} bytes"),
        }));
    }
    let mut magic = [0; 4];
    magic.copy_from_slice(&window.data()[..4]);
    if Classic::recognises(magic) {
        return Ok(Ok(Format::Pcap(Classic::open(window)?)));
    }
    if Pcapng::recognises(magic) {
        return Ok(Ok(Format::Pcapng(Pcapng::new())));
    }
    let [a, b, c, d] = magic;
    let looks_like = match &magic {
        b"snoo" => ", a snoop file",
        b"BZh1" | b"BZh2" | b"BZh3" | b"BZh4" | b"BZh5" | b"BZh6" | b"BZh7" | b"BZh8" | b"BZh9" => {
            ", a bzip2 file"
        }
        [0xfd, b'7', b'z', b'X'] => ", an xz file",
        [0x04, 0x22, 0x4d, 0x18] => ", an lz4 file",
        [b'P', b'K', 3, 4] => ", a zip file",
        [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd] => ", compressed twice",
        _ => "",
    };
    Ok(Err(format!("it begins with {a:02x} {b:02x} {c:02x} {d:02x}{looks_like}")))
}

fn describe(fault: Fault, name: &str, window: &Window, packets: u64) -> CaptureError {
    let file = name.to_owned();
    let packet = packets + 1;
    match fault {
        Fault::Damage(offset, damage) => CaptureError::Damaged { file, offset, packet, damage },
        Fault::LinkType { offset, link_type, interface } => {
            CaptureError::LinkType { file, link_type, interface, offset, packets }
        }
        // A decoder's damage travels as the inner error of an I/O error: the capture ends where it ends.
        Fault::Io(error) => match error.downcast::<Damage>() {
            Ok(damage) => CaptureError::Damaged { file, offset: window.end_offset(), packet, damage },
            Err(source) => CaptureError::Read { file, offset: window.end_offset(), packets, source },
        },
    }
}

/// Counts what is read of the file itself.
struct Counted {
    source: Box<dyn Read + Send>,
    bytes_read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let len = self.source.read(out)?;
        self.bytes_read.fetch_add(len as u64, Ordering::Relaxed);
        Ok(len)
    }
}
