//! Bodies of requests within their bounds, and bodies of answers that tell when they end.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper::body::{Bytes, Frame, Incoming, SizeHint};
use tonic::Status;
use tonic::body::Body;

use crate::access::Peer;
use crate::connection::Working;
use crate::refusals::{ApiCounts, Refusal};

/// Bytes before each message of gRPC: whether it is compressed, and its length.
pub(crate) const PREFIX: usize = 5;

/// The body of a request: the one message that it may have.
#[derive(Debug)]
pub(crate) struct Bounded {
    body: Incoming,
    /// Bytes that may still come, and those that might come at all.
    left: usize,
    most: usize,
    /// The prefix of the message, as far as it came.
    prefix: [u8; PREFIX],
    seen: usize,
    counts: Arc<ApiCounts>,
    peer: Peer,
}

impl Bounded {
    /// A message of at most `most` bytes.
    pub(crate) fn new(body: Incoming, most: usize, counts: Arc<ApiCounts>, peer: Peer) -> Self {
        Self { body, left: most + PREFIX, most, prefix: [0; PREFIX], seen: 0, counts, peer }
    }

    /// Whether what came is within the bounds, and what it announces as well.
    fn fits(&mut self, data: &[u8]) -> bool {
        let Some(left) = self.left.checked_sub(data.len()) else { return false };
        self.left = left;
        for (place, byte) in self.prefix.iter_mut().skip(self.seen).zip(data) {
            *place = *byte;
        }
        self.seen = (self.seen + data.len()).min(PREFIX);
        let [_, a, b, c, d] = self.prefix;
        self.seen < PREFIX || usize::try_from(u32::from_be_bytes([a, b, c, d])).is_ok_and(|n| n <= self.most)
    }
}

impl hyper::body::Body for Bounded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = match ready!(Pin::new(&mut self.body).poll_frame(context)) {
            None => return Poll::Ready(None),
            Some(Err(error)) => return Poll::Ready(Some(Err(Status::cancelled(error.to_string())))),
            Some(Ok(frame)) => frame,
        };
        if frame.data_ref().is_none_or(|data| self.fits(data)) {
            return Poll::Ready(Some(Ok(frame)));
        }
        let told = format!("the request is larger than the {} bytes that it may have", self.most);
        self.counts.refuse(Refusal::Size, &self.peer, &told);
        Poll::Ready(Some(Err(Status::resource_exhausted(told))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer; the request is over when it is dropped.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) body: Body,
    pub(crate) _working: Working,
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
