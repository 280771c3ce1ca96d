//! Why was a tunnel not taken off?

/// Why a tunnel was not taken off. The packet goes on as it was, or with the tunnels taken off that lie further out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Obstacle {
    /// The tunnel's own packet is a fragment: its first part holds only part of the inner packet, the others no header.
    Fragment,
    /// As many tunnels as the port's depth allows were taken off, and there is another one.
    Depth,
    /// The capture ends before the inner packet can be told.
    Truncated,
    /// The inner packet contradicts itself or the lengths around it: shorter than its own header, or not the IP version
    /// that it claims.
    Malformed,
    /// What the tunnel carries is neither Ethernet nor IP nor MPLS.
    Unsupported,
    /// The bytes of the packet are shared and a header had to be written.
    Unwritable,
}

impl Obstacle {
    /// How many there are.
    pub const COUNT: usize = 6;
    /// All of them.
    pub const ALL: [Self; Self::COUNT] =
        [Self::Fragment, Self::Depth, Self::Truncated, Self::Malformed, Self::Unsupported, Self::Unwritable];

    /// The name in reports and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fragment => "fragment",
            Self::Depth => "depth",
            Self::Truncated => "truncated",
            Self::Malformed => "malformed",
            Self::Unsupported => "unsupported",
            Self::Unwritable => "unwritable",
        }
    }
}

/// Packets by [`Obstacle`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ObstacleCounts(pub [u64; Obstacle::COUNT]);

impl ObstacleCounts {
    /// Counts one packet.
    #[inline]
    pub fn add(&mut self, obstacle: Obstacle) {
        if let Some(count) = self.0.get_mut(obstacle as usize) {
            *count += 1;
        }
    }

    /// Every obstacle with its count.
    pub fn iter(&self) -> impl Iterator<Item = (Obstacle, u64)> {
        Obstacle::ALL.into_iter().zip(self.0)
    }

    /// All of them together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}
