//! What the policies make of a packet: matched policies, and one copy per (destination, tag).

use sluice_model::{DestinationId, PolicyId, StreamId, Tag};

/// How much of a packet a copy keeps. Policies that share a copy keep the most that any of them asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Keep {
    /// Payload bytes after [`Parsed::header_end`](crate::wire::Parsed::header_end) of the outer view;
    /// [`Keep::WHOLE`] = the whole packet, [`Keep::UNASKED`] = no policy counts from the outer headers.
    pub outer: u32,
    /// The same for the inner view.
    pub inner: u32,
}

impl Keep {
    /// The whole packet is kept.
    pub const WHOLE: u32 = u32::MAX;
    /// No policy of the copy counts from these headers.
    pub const UNASKED: u32 = u32::MAX - 1;
    /// Nothing asked yet.
    pub const NONE: Self = Self { outer: Self::UNASKED, inner: Self::UNASKED };

    /// The number of frame bytes to keep, given where the headers of each view end; at most `cap_len`.
    #[inline]
    #[must_use]
    pub fn frame_bytes(self, outer_header_end: u16, inner_header_end: u16, cap_len: u32) -> u32 {
        if self.outer == Self::WHOLE || self.inner == Self::WHOLE {
            return cap_len;
        }
        let outer = if self.outer == Self::UNASKED { 0 } else { u32::from(outer_header_end) + self.outer };
        let inner = if self.inner == Self::UNASKED { 0 } else { u32::from(inner_header_end) + self.inner };
        outer.max(inner).min(cap_len)
    }

    /// The union with another wish: the most that either asks for.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        let most = |a: u32, b: u32| match (a, b) {
            (Self::WHOLE, _) | (_, Self::WHOLE) => Self::WHOLE,
            (Self::UNASKED, x) | (x, Self::UNASKED) => x,
            (a, b) => a.max(b),
        };
        Self { outer: most(self.outer, other.outer), inner: most(self.inner, other.inner) }
    }
}

/// One copy that a packet gives rise to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyAction {
    /// Where it goes.
    pub destination: DestinationId,
    /// Whether any policy of the copy matched by its source reading: the direction bit.
    pub egress: bool,
    /// The tag.
    pub tag: Tag,
    /// The sequence number stream of (destination, tag).
    pub stream: StreamId,
    /// How much is kept.
    pub keep: Keep,
    /// First of the policies that share the copy, in [`ActionSet::sharers`].
    pub first_sharer: u32,
    /// How many policies share it.
    pub sharers: u32,
}

/// What the policies make of a packet.
#[derive(Clone, Copy, Debug)]
pub struct ActionSet<'a> {
    /// Whether an exclusion policy took the packet out; `copies` is empty then, and `matched` holds only the
    /// exclusion policies.
    pub excluded: bool,
    /// Every policy that counts the packet as matched, ascending.
    pub matched: &'a [PolicyId],
    /// One entry per distinct (destination, tag), ascending by (destination, tag).
    pub copies: &'a [CopyAction],
    /// The policies that share each copy, ascending within a copy.
    pub sharers: &'a [PolicyId],
}

impl<'a> ActionSet<'a> {
    /// The policies that share `copy`, which must be one of `self.copies`.
    #[inline]
    #[must_use]
    pub fn sharers_of(&self, copy: &CopyAction) -> &'a [PolicyId] {
        let first = copy.first_sharer as usize;
        self.sharers.get(first..first + copy.sharers as usize).unwrap_or(&[])
    }
}
