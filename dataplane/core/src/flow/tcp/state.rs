//! Which state is a flow in, how long may it be silent there, and what does its end mean?
//!
//! The states and transitions are those of the reference system (its public agent of 2022 and its manual). A
//! transition is one load from a table: 18 states, two sides, six classes of flags.

use sluice_model::{CloseType, FlowTimeouts};

/// TCP header flags (RFC 9293 section 3.1).
pub mod flags {
    /// The sender is done.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement number is valid.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer is valid.
    pub const URG: u8 = 0x20;
    /// All of these; the ECN bits left out.
    pub const MASK: u8 = 0x3f;
}
use flags::{ACK, FIN, MASK, PSH, RST, SYN, URG};

/// IP protocol number of TCP.
const TCP: u8 = 6;

/// The state of a flow. Flows that are not TCP are [`FlowState::Established`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FlowState {
    /// Before its first packet.
    #[default]
    Raw,
    /// The client sent SYN.
    Opening1,
    /// The server sent SYN-ACK.
    Opening2,
    /// The server answered a SYN with an ACK.
    Syn1,
    /// The handshake is complete, or was not seen.
    Established,
    /// The server repeats its SYN-ACK although established.
    SynAck1,
    /// The client sent FIN first.
    ClosingTx1,
    /// Then the server.
    ClosingTx2,
    /// The server sent FIN first.
    ClosingRx1,
    /// Then the client.
    ClosingRx2,
    /// The last ACK came.
    Closed,
    /// RST after establishment.
    Reset,
    /// RST in the handshake.
    ResetEstablish,
    /// RST as the answer to SYN.
    ServerReset,
    /// The server's RST after it repeated its SYN-ACK.
    ServerQueueLack,
    /// The client's RST after the server answered its SYN with an ACK.
    ClientPortReuse,
    /// Flags that fit no state.
    Exception,
}

const STATES: usize = FlowState::Exception as usize + 1;

/// Exact combinations of flags that mean the same.
#[derive(Clone, Copy)]
enum Class {
    Syn,
    SynAck,
    /// ACK alone.
    Ack,
    /// ACK with PSH, or PSH and URG.
    AckPush,
    Fin,
    Rst,
    Other,
}

const CLASSES: usize = Class::Other as usize + 1;

const CLASS_OF: [Class; 64] = {
    let mut classes = [Class::Other; 64];
    classes[SYN as usize] = Class::Syn;
    classes[(SYN | ACK) as usize] = Class::SynAck;
    classes[ACK as usize] = Class::Ack;
    classes[(PSH | ACK) as usize] = Class::AckPush;
    classes[(PSH | ACK | URG) as usize] = Class::AckPush;
    classes[FIN as usize] = Class::Fin;
    classes[(FIN | ACK) as usize] = Class::Fin;
    classes[(FIN | PSH | ACK) as usize] = Class::Fin;
    classes[RST as usize] = Class::Rst;
    classes[(RST | ACK) as usize] = Class::Rst;
    classes[(RST | PSH | ACK) as usize] = Class::Rst;
    classes
};

/// What follows in a state on SYN, SYN-ACK, ACK, ACK with PSH, FIN, RST.
type Row = [FlowState; 6];

/// The rows of a state for packets of the client and of the server.
const fn rows(state: FlowState) -> [Row; 2] {
    use FlowState::{
        ClientPortReuse as ClPort, Closed, ClosingRx1 as CRx1, ClosingRx2 as CRx2, ClosingTx1 as CTx1,
        ClosingTx2 as CTx2, Established as Estab, Exception as Excep, Opening1 as Open1, Opening2 as Open2,
        Raw, Reset, ResetEstablish as RstEst, ServerQueueLack as SvQueue, ServerReset as SvRst, Syn1,
        SynAck1 as SyAck1,
    };
    match state {
        Raw => [[Open1, Excep, Estab, Estab, CTx1, Reset], [Open1, Open2, Estab, Estab, CRx1, Reset]],
        Open1 => [[Open1, Excep, Estab, Estab, CTx1, RstEst], [Open1, Open2, Syn1, Syn1, CRx1, SvRst]],
        Open2 => [[Open2, Excep, Estab, Estab, CTx1, RstEst], [Open2, Open2, Estab, Estab, CRx1, RstEst]],
        Syn1 => [[Open1, Excep, Estab, Estab, CTx1, ClPort], [Open1, Open2, Syn1, Syn1, CRx1, RstEst]],
        Estab => [[Estab, Excep, Estab, Estab, CTx1, Reset], [Estab, SyAck1, Estab, Estab, CRx1, Reset]],
        SyAck1 => [[Estab, Excep, SyAck1, SyAck1, CTx1, Reset], [Estab, SyAck1, Estab, Estab, CRx1, SvQueue]],
        CTx1 => [[CTx1, CTx1, CTx1, CTx1, CTx1, Reset], [CTx1, CTx1, CTx1, CTx1, CTx2, Reset]],
        CTx2 => [[CTx2, CTx2, Closed, Excep, CTx2, Reset], [CTx2, CTx2, CTx2, CTx2, CTx2, Reset]],
        CRx1 => [[CRx1, CRx1, CRx1, CRx1, CRx2, Reset], [CRx1, CRx1, CRx1, CRx1, CRx1, Reset]],
        CRx2 => [[CRx2, CRx2, CRx2, CRx2, CRx2, Reset], [CRx2, CRx2, Closed, CRx2, CRx2, Reset]],
        Closed => [[Closed, Excep, Closed, Excep, Excep, Excep]; 2],
        Reset | RstEst | SvRst | SvQueue | ClPort | Excep => [[state; 6]; 2],
    }
}

const ALL: [FlowState; STATES] = {
    use FlowState::{
        ClientPortReuse, Closed, ClosingRx1, ClosingRx2, ClosingTx1, ClosingTx2, Established, Exception,
        Opening1, Opening2, Raw, Reset, ResetEstablish, ServerQueueLack, ServerReset, Syn1, SynAck1,
    };
    [
        Raw,
        Opening1,
        Opening2,
        Syn1,
        Established,
        SynAck1,
        ClosingTx1,
        ClosingTx2,
        ClosingRx1,
        ClosingRx2,
        Closed,
        Reset,
        ResetEstablish,
        ServerReset,
        ServerQueueLack,
        ClientPortReuse,
        Exception,
    ]
};

/// By state, side and class, to a whole line of eight classes each.
static NEXT: [[[FlowState; 8]; 2]; STATES] = {
    let mut next = [[[FlowState::Exception; 8]; 2]; STATES];
    let mut state = 0;
    while state < STATES {
        let rows = rows(ALL[state]);
        let mut side = 0;
        while side < 2 {
            let mut class = 0;
            while class < CLASSES - 1 {
                next[state][side][class] = rows[side][class];
                class += 1;
            }
            side += 1;
        }
        state += 1;
    }
    next
};

impl FlowState {
    /// The state after a packet with these flags.
    #[inline(always)]
    #[must_use]
    pub fn next(self, from_server: bool, tcp_flags: u8) -> Self {
        let class = CLASS_OF[usize::from(tcp_flags & MASK)];
        NEXT[self as usize][usize::from(from_server)][class as usize]
    }

    /// The state with client and server exchanged.
    #[must_use]
    pub const fn reversed(self) -> Self {
        match self {
            Self::ClosingTx1 => Self::ClosingRx1,
            Self::ClosingTx2 => Self::ClosingRx2,
            Self::ClosingRx1 => Self::ClosingTx1,
            Self::ClosingRx2 => Self::ClosingTx2,
            other => other,
        }
    }

    /// Whether a flow that came from `before` into this state ends at once: the last ACK, or RST while closing.
    #[inline(always)]
    #[must_use]
    pub fn ends(self, before: Self) -> bool {
        self == Self::Closed || (self == Self::Reset && matches!(before, Self::ClosingTx2 | Self::ClosingRx2))
    }

    /// Whether nothing more is expected of a flow in this state but what comes late: both sides sent FIN, or one RST.
    #[must_use]
    pub fn is_over(self) -> bool {
        match self {
            Self::Raw
            | Self::Opening1
            | Self::Opening2
            | Self::Syn1
            | Self::SynAck1
            | Self::Established
            | Self::ClosingTx1
            | Self::ClosingRx1
            | Self::ClientPortReuse
            | Self::Exception => false,
            Self::ClosingTx2
            | Self::ClosingRx2
            | Self::Closed
            | Self::Reset
            | Self::ResetEstablish
            | Self::ServerReset
            | Self::ServerQueueLack => true,
        }
    }

    /// How long a flow may be silent in this state, nanoseconds.
    #[must_use]
    pub fn timeout_ns(self, protocol: u8, two_way: bool, timeouts: &FlowTimeouts) -> u64 {
        let seconds = if !two_way {
            timeouts.one_way_s
        } else if protocol != TCP {
            timeouts.other_s
        } else {
            match self {
                Self::Raw | Self::Opening1 | Self::Opening2 | Self::Syn1 => timeouts.opening_s,
                Self::Established | Self::SynAck1 => timeouts.established_s,
                Self::ClosingTx1 | Self::ClosingTx2 | Self::ClosingRx1 | Self::ClosingRx2 => {
                    timeouts.closing_s
                }
                Self::Closed => 0,
                Self::Reset
                | Self::ResetEstablish
                | Self::ServerReset
                | Self::ServerQueueLack
                | Self::ClientPortReuse
                | Self::Exception => timeouts.reset_s,
            }
        };
        u64::from(seconds) * 1_000_000_000
    }

    /// What the end of a flow in this state means. `server_sent_rst`: in the whole flow; `server_packets`: in the whole
    /// flow.
    #[must_use]
    pub fn close_type(self, protocol: u8, server_sent_rst: bool, server_packets: u64) -> CloseType {
        if protocol != TCP {
            return CloseType::Timeout;
        }
        match self {
            Self::Raw | Self::Exception => CloseType::Unknown,
            Self::Opening1 => CloseType::ClientSynRepeat,
            Self::Opening2 => CloseType::ServerSynAckRepeat,
            Self::Syn1 | Self::ClientPortReuse => CloseType::ClientSourcePortReuse,
            Self::Established => CloseType::Timeout,
            Self::ClosingTx2 | Self::ClosingRx2 | Self::Closed => CloseType::TcpFin,
            Self::ClosingTx1 => CloseType::ServerHalfClose,
            Self::ClosingRx1 => CloseType::ClientHalfClose,
            Self::Reset if server_sent_rst => CloseType::TcpServerRst,
            Self::Reset => CloseType::TcpClientRst,
            Self::ResetEstablish if server_sent_rst => CloseType::ServerEstablishOtherRst,
            Self::ResetEstablish => CloseType::ClientEstablishOtherRst,
            Self::ServerReset => CloseType::ServerReset,
            // The reference system's odd case: with few packets the client is blamed for the server's RST.
            Self::ServerQueueLack if server_packets <= 3 => CloseType::TcpClientRst,
            Self::SynAck1 | Self::ServerQueueLack => CloseType::ServerQueueLack,
        }
    }
}
