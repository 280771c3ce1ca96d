//! Is this file compressed, and what are its bytes without that?
//!
//! Recognised by magic, never by name. Both decoders are driven step by step, so that everything before a
//! damage comes out before the error does: the ready-made readers drop what they decoded in the same call.

use std::io::{self, BufRead, BufReader, Cursor, ErrorKind, Read};

use flate2::bufread::GzDecoder;
use flate2::{Crc, Decompress, FlushDecompress, Status};
use zstd::stream::raw::{Decoder, Operation};

use crate::error::Damage;

/// Compressed bytes that are read at once.
const INPUT_BYTES: usize = 128 * 1024;
/// Length of the header of a zstd block (RFC 8878, section 3.1.1.2).
const BLOCK_HEADER_BYTES: usize = 3;
const GZIP: &str = "gzip";
const ZSTD: &str = "zstd";

/// The bytes of `source` without their compression, if there is one.
pub(crate) fn decompress(mut source: Box<dyn Read + Send>) -> io::Result<Box<dyn Read + Send>> {
    let mut magic = Vec::with_capacity(4);
    source.by_ref().take(4).read_to_end(&mut magic)?;
    let is_gzip = magic.starts_with(&[0x1f, 0x8b]);
    // RFC 8878: a frame, or a skippable frame (0x184D2A50 to 0x184D2A5F) before the first.
    let is_zstd = matches!(magic[..], [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18]);
    let whole = Cursor::new(magic).chain(source);
    Ok(if is_gzip {
        Box::new(Gzip::new(BufReader::with_capacity(INPUT_BYTES, whole)))
    } else if is_zstd {
        Box::new(Zstd::new(BufReader::with_capacity(INPUT_BYTES, whole))?)
    } else {
        Box::new(whole)
    })
}

/// A gzip file of any number of members (RFC 1952), zero padding behind the last.
struct Gzip<R> {
    input: R,
    state: GzipState,
    inflate: Decompress,
    crc: Crc,
    members: u64,
}

enum GzipState {
    Between,
    Body,
    Trailer,
    Ended,
    Failed(String),
}

impl<R: BufRead> Gzip<R> {
    fn new(input: R) -> Self {
        Self {
            input,
            state: GzipState::Between,
            inflate: Decompress::new(false),
            crc: Crc::new(),
            members: 0,
        }
    }

    /// Reads a member's header, if there is one more.
    fn begin(&mut self) -> io::Result<GzipState> {
        if self.members > 0 {
            loop {
                let input = self.input.fill_buf()?;
                let zeros = input.iter().take_while(|&&byte| byte == 0).count();
                let more = zeros > 0 && zeros == input.len();
                self.input.consume(zeros);
                if !more {
                    break;
                }
            }
            if self.input.fill_buf()?.is_empty() {
                return Ok(GzipState::Ended);
            }
        }
        let mut header = GzDecoder::new(&mut self.input);
        if header.header().is_none() {
            return match header.read(&mut [0]) {
                Err(e) if e.kind() != ErrorKind::UnexpectedEof && e.kind() != ErrorKind::InvalidInput => {
                    Err(e)
                }
                _ if self.members > 0 => Err(damage(GZIP, "what follows its last member is no gzip member")),
                _ => Err(damage(GZIP, "its header is cut off or malformed")),
            };
        }
        self.members += 1;
        self.inflate.reset(false);
        self.crc.reset();
        Ok(GzipState::Body)
    }

    fn trailer(&mut self) -> io::Result<GzipState> {
        let mut trailer = [0; 8];
        self.input.read_exact(&mut trailer).map_err(|e| match e.kind() {
            ErrorKind::UnexpectedEof => damage(GZIP, "it is cut off before its checksum"),
            _ => e,
        })?;
        let [c0, c1, c2, c3, l0, l1, l2, l3] = trailer;
        if u32::from_le_bytes([c0, c1, c2, c3]) != self.crc.sum()
            || u32::from_le_bytes([l0, l1, l2, l3]) != self.crc.amount()
        {
            return Err(damage(GZIP, "its checksum does not match its contents"));
        }
        Ok(GzipState::Between)
    }

    /// Inflates into `out`; an error found after some bytes came out is kept for the next call.
    fn body(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let input = self.input.fill_buf()?;
            let at_end = input.is_empty();
            let (before_in, before_out) = (self.inflate.total_in(), self.inflate.total_out());
            let status = self.inflate.decompress(input, out, FlushDecompress::None);
            let consumed = usize::try_from(self.inflate.total_in() - before_in).unwrap_or(usize::MAX);
            let produced = usize::try_from(self.inflate.total_out() - before_out).unwrap_or(usize::MAX);
            self.input.consume(consumed);
            self.crc.update(&out[..produced]);
            match status {
                Ok(Status::StreamEnd) => self.state = GzipState::Trailer,
                Ok(_) if produced > 0 || (!at_end && consumed > 0) => {}
                Ok(_) if at_end => self.state = GzipState::Failed("it is cut off".to_owned()),
                Ok(_) => self.state = GzipState::Failed("it does not go on".to_owned()),
                Err(e) => self.state = GzipState::Failed(e.to_string()),
            }
            if produced > 0 || !matches!(self.state, GzipState::Body) {
                return Ok(produced);
            }
        }
    }
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        loop {
            match &self.state {
                GzipState::Between => self.state = self.begin()?,
                GzipState::Trailer => self.state = self.trailer()?,
                GzipState::Ended => return Ok(0),
                GzipState::Failed(reason) => return Err(damage(GZIP, reason)),
                GzipState::Body => {
                    let produced = self.body(out)?;
                    if produced > 0 {
                        return Ok(produced);
                    }
                }
            }
        }
    }
}

/// A zstd file of any number of frames (RFC 8878). Windows of up to 128 MiB, the decoder's default limit.
struct Zstd<R> {
    input: R,
    decoder: Decoder<'static>,
    /// Compressed bytes that the decoder wants next; 0 between frames.
    ///
    /// It gets no more than that, and not the header of the next block that it counts in: no call spans two blocks,
    /// and a corrupt one takes nothing along.
    wanted: usize,
}

impl<R: BufRead> Zstd<R> {
    fn new(input: R) -> io::Result<Self> {
        Ok(Self { input, decoder: Decoder::new()?, wanted: 0 })
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        loop {
            let input = self.input.fill_buf()?;
            let at_end = input.is_empty();
            if at_end && self.wanted == 0 {
                return Ok(0);
            }
            let step_bytes = match self.wanted {
                0..=BLOCK_HEADER_BYTES => self.wanted.max(1),
                wanted => wanted - BLOCK_HEADER_BYTES,
            };
            let len = input.len().min(step_bytes);
            let step = self
                .decoder
                .run_on_buffers(&input[..len], out)
                .map_err(|e| damage(ZSTD, e.to_string().as_str()))?;
            self.input.consume(step.bytes_read);
            self.wanted = step.remaining;
            if step.bytes_written > 0 {
                return Ok(step.bytes_written);
            }
            if at_end && self.wanted > 0 {
                return Err(damage(ZSTD, "it is cut off"));
            }
        }
    }
}

fn damage(format: &'static str, reason: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, Damage::Compression { format, reason: reason.to_owned() })
}
