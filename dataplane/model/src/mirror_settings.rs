//! Which tap does a packet come from, where a TAP switch marks what it mirrors?

use crate::TapSide;

/// The taps, and how a TAP switch marks their frames: with a VLAN id for each tap, and one PCP for all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorSettings {
    /// The PCP (IEEE 802.1Q, 0 to 7) of the outermost VLAN tag of marked frames; `None` = nothing is marked.
    pub pcp: Option<u8>,
    /// Whether the tag that marks a frame is taken off it.
    pub strip_mark: bool,
    /// The taps that have names, at most [`MirrorSettings::MAX_TAPS`], in the order of the file.
    pub taps: Vec<Tap>,
}

/// A tap that has a name. The frames of a port that is [of it](crate::PortConfig::tap) are its own, and so are those that
/// are marked with its VLAN id, whatever port they come in by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tap {
    /// The name that policies and counters use: `[A-Za-z0-9_.-]{1,63}`, unique.
    pub name: String,
    /// Its number, from 1, unique: the `tap_type` of flow records; 3 is the virtual network.
    pub number: u16,
    /// The VLAN id of its marks, 1 to 4094, unique; `None` = its frames are known by their ports alone.
    pub vlan: Option<u16>,
    /// Which side of the path it sees: the `tap_side` of its flow records; `None` = what the port says.
    pub side: Option<TapSide>,
}

impl MirrorSettings {
    /// The most taps.
    pub const MAX_TAPS: usize = 250;

    /// The sides that taps see, by their numbers, ascending.
    #[must_use]
    pub fn sides(&self) -> Vec<(u16, TapSide)> {
        let mut sides: Vec<_> = self.taps.iter().filter_map(|tap| Some((tap.number, tap.side?))).collect();
        sides.sort_unstable_by_key(|(number, _)| *number);
        sides
    }

    /// The name of tap `number`, if it has one.
    #[must_use]
    pub fn name_of(&self, number: u16) -> Option<&str> {
        self.taps.iter().find(|tap| tap.number == number).map(|tap| tap.name.as_str())
    }
}

impl Default for MirrorSettings {
    fn default() -> Self {
        Self { pcp: None, strip_mark: true, taps: Vec::new() }
    }
}
