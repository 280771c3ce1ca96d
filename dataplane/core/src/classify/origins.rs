//! Where may packets come from, by the names that policies use?

use sluice_model::Tap;

/// The places that policies can name.
#[derive(Clone, Copy, Debug, Default)]
pub struct Origins<'a> {
    /// The names of the ingress ports, by number.
    pub ports: &'a [String],
    /// The taps.
    pub taps: &'a [Tap],
}
