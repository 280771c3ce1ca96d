//! What a port does with tunnels and VLAN tags of the packets that it receives.

/// What a port does with tunnels and VLAN tags of the packets that it receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DecapSettings {
    /// Whether tunnels are taken off.
    pub mode: DecapMode,
    /// The tunnels that are.
    pub kinds: DecapKinds,
    /// The most tunnels, one inside the other, that are taken off one packet: 1 to [`DecapSettings::MAX_DEPTH`].
    pub depth: u8,
    /// The VLAN tags that are taken off the frame, as it is after its tunnels were taken off.
    pub strip_vlan: StripVlan,
    /// Only tunnels that are addressed to one of the port's own addresses are taken off: it is their end.
    pub only_own: bool,
    /// What no tunnel was taken off is dropped as [`NotTunnelled`](crate::DropReason::NotTunnelled). Only with
    /// [`DecapMode::Strip`].
    pub drop_rest: bool,
}

impl DecapSettings {
    /// The greatest `depth`.
    pub const MAX_DEPTH: u8 = 8;
    /// The `depth` of ports that name none.
    pub const DEFAULT_DEPTH: u8 = 4;

    /// Whether the port is the end of tunnels: a decapsulation node.
    #[must_use]
    pub const fn is_end(&self) -> bool {
        matches!(self.mode, DecapMode::Strip) && self.only_own
    }

    /// Whether nothing is done at all.
    #[must_use]
    pub const fn is_off(&self) -> bool {
        matches!((self.mode, self.strip_vlan), (DecapMode::Off, StripVlan::None))
    }
}

impl Default for DecapSettings {
    fn default() -> Self {
        Self {
            mode: DecapMode::Off,
            kinds: DecapKinds::ALL,
            depth: Self::DEFAULT_DEPTH,
            strip_vlan: StripVlan::None,
            only_own: false,
            drop_rest: false,
        }
    }
}

/// Whether tunnels are taken off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DecapMode {
    /// Packets stay as they are and are matched by their outermost headers.
    #[default]
    Off,
    /// Tunnels are taken off; what they carried is the packet from there on.
    Strip,
    /// Packets stay as they are, but are matched and metered by the headers inside the tunnels.
    LookThrough,
}

/// Which VLAN tags are taken off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum StripVlan {
    /// None.
    #[default]
    None,
    /// The outermost one.
    Outer,
    /// All in a row.
    All,
}

/// A kind of tunnel that can be taken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DecapKind {
    /// VXLAN (RFC 7348).
    Vxlan,
    /// GENEVE (RFC 8926).
    Geneve,
    /// GRE carrying IP or MPLS (RFC 2784).
    Gre,
    /// GRE carrying Ethernet (transparent Ethernet bridging).
    Teb,
    /// ERSPAN of all types.
    Erspan,
    /// IP in IP (RFC 2003, 2473, 4213).
    Ipip,
    /// MPLS label stacks (RFC 3032), also with a pseudowire (RFC 4448).
    Mpls,
    /// GTP-U (3GPP TS 29.281).
    Gtpu,
}

impl DecapKind {
    /// Every kind.
    pub const ALL: [Self; 8] =
        [Self::Vxlan, Self::Geneve, Self::Gre, Self::Teb, Self::Erspan, Self::Ipip, Self::Mpls, Self::Gtpu];

    /// The name in configs and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::Geneve => "geneve",
            Self::Gre => "gre",
            Self::Teb => "teb",
            Self::Erspan => "erspan",
            Self::Ipip => "ipip",
            Self::Mpls => "mpls",
            Self::Gtpu => "gtpu",
        }
    }
}

/// A set of kinds of tunnels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DecapKinds(u8);

impl DecapKinds {
    /// No kind.
    pub const NONE: Self = Self(0);
    /// Every kind.
    pub const ALL: Self = Self(u8::MAX);

    /// The set with `kind` added.
    #[must_use]
    pub const fn with(self, kind: DecapKind) -> Self {
        Self(self.0 | 1 << kind as u8)
    }

    /// Whether `kind` is in the set.
    #[inline]
    #[must_use]
    pub const fn has(self, kind: DecapKind) -> bool {
        self.0 >> (kind as u8) & 1 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_hold_what_was_added() {
        assert!(DecapKind::ALL.iter().all(|&kind| DecapKinds::ALL.has(kind) && !DecapKinds::NONE.has(kind)));
        let set = DecapKinds::NONE.with(DecapKind::Gre).with(DecapKind::Gtpu);
        let members: Vec<_> = DecapKind::ALL.into_iter().filter(|&kind| set.has(kind)).collect();
        assert_eq!(members, [DecapKind::Gre, DecapKind::Gtpu]);
        let all = DecapKind::ALL.iter().fold(DecapKinds::NONE, |set, &kind| set.with(kind));
        assert_eq!(all, DecapKinds::ALL);
    }
}
