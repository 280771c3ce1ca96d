//! What is done where plain copies would leave into a network that is in use?

/// What is done where plain copies (without a tunnel) would leave into a network that others use: they would go to the
/// machines whose addresses they carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum FeedGuard {
    /// Nothing.
    #[default]
    Off,
    /// It is told and counted.
    Count,
    /// It is refused where the config shows it; where it shows later, copies are dropped as
    /// [`DropReason::FeedGuard`](crate::DropReason::FeedGuard).
    Stop,
}
