//! Which bytes of the (decompressed) file are in memory?
//!
//! One fixed buffer over any source. Records are parsed and handed out in place; only the rest of an
//! unfinished record moves when the buffer is filled again. It never grows.

use std::fmt;
use std::io::{self, ErrorKind, Read};

/// Bytes before the parsed data that may be overwritten: room for an Ethernet header before a packet whose
/// own link header is shorter.
pub(crate) const HEADROOM_BYTES: usize = 64;

/// The largest piece that [`Window::ensure`] can bring into memory, in bytes.
pub(crate) const WINDOW_BYTES: usize = 1 << 20;

/// A sliding window over the bytes of a source.
pub(crate) struct Window {
    source: Box<dyn Read + Send>,
    buf: Box<[u8]>,
    /// The first byte that is not consumed.
    start: usize,
    /// One behind the last byte that was read.
    end: usize,
    /// Offset of `start` in the source.
    offset: u64,
    ended: bool,
}

impl Window {
    /// An empty window over `source`.
    pub(crate) fn new(source: Box<dyn Read + Send>) -> Self {
        Self {
            source,
            buf: vec![0; HEADROOM_BYTES + WINDOW_BYTES].into_boxed_slice(),
            start: HEADROOM_BYTES,
            end: HEADROOM_BYTES,
            offset: 0,
            ended: false,
        }
    }

    /// Bytes in memory that are not consumed.
    #[inline]
    pub(crate) fn available(&self) -> usize {
        self.end - self.start
    }

    /// Offset of the first byte that is not consumed.
    #[inline]
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Offset behind the last byte that could be read.
    pub(crate) fn end_offset(&self) -> u64 {
        self.offset + self.available() as u64
    }

    /// The bytes in memory that are not consumed.
    #[inline]
    pub(crate) fn data(&self) -> &[u8] {
        &self.buf[self.start..self.end]
    }

    /// Where [`Window::data`] begins in the buffer.
    #[inline]
    pub(crate) fn position(&self) -> usize {
        self.start
    }

    /// The whole buffer: what lies before [`Window::position`] was consumed and may be overwritten.
    #[inline]
    pub(crate) fn buffer_mut(&mut self) -> &mut [u8] {
        &mut self.buf
    }

    /// Brings at least `len` bytes (at most [`WINDOW_BYTES`]) into memory; false when the source ends before.
    #[inline]
    pub(crate) fn ensure(&mut self, len: usize) -> io::Result<bool> {
        if self.available() >= len { Ok(true) } else { self.refill(len) }
    }

    /// Consumes `len` available bytes; they stay in the buffer until the next [`Window::ensure`].
    #[inline]
    pub(crate) fn consume(&mut self, len: usize) {
        debug_assert!(len <= self.available());
        self.start += len;
        self.offset += len as u64;
    }

    /// Consumes `len` bytes that need not be in memory; false when the source ends before.
    pub(crate) fn skip(&mut self, len: u64) -> io::Result<bool> {
        let mut left = len;
        loop {
            let step = usize::try_from(left).unwrap_or(usize::MAX).min(self.available());
            self.consume(step);
            left -= step as u64;
            if left == 0 {
                return Ok(true);
            }
            if !self.ensure(1)? {
                return Ok(false);
            }
        }
    }

    #[cold]
    fn refill(&mut self, len: usize) -> io::Result<bool> {
        debug_assert!(len <= WINDOW_BYTES);
        if self.start > HEADROOM_BYTES {
            self.buf.copy_within(self.start..self.end, HEADROOM_BYTES);
            self.end -= self.start - HEADROOM_BYTES;
            self.start = HEADROOM_BYTES;
        }
        while self.available() < len && !self.ended {
            match self.source.read(&mut self.buf[self.end..]) {
                Ok(0) => self.ended = true,
                Ok(n) => self.end += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(self.available() >= len)
    }
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Window")
            .field("offset", &self.offset)
            .field("available", &self.available())
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}
