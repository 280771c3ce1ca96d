//! Why was a flow record emitted?

/// Why a flow record was emitted; the codes are the reference system's, with gaps where codes were retired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CloseType {
    /// Flags that fit no state.
    #[default]
    Unknown = 0,
    /// Closed by FIN from both sides.
    TcpFin = 1,
    /// Reset by the server after it was established.
    TcpServerRst = 2,
    /// Silent until its timeout while established; every end of a flow that is not TCP.
    Timeout = 3,
    /// Not ended: the record of a minute.
    ForcedReport = 5,
    /// SYN without an answer.
    ClientSynRepeat = 7,
    /// The client sent FIN, the server never did.
    ServerHalfClose = 8,
    /// Reset by the client after it was established.
    TcpClientRst = 9,
    /// SYN-ACK without an answer.
    ServerSynAckRepeat = 10,
    /// The server sent FIN, the client never did.
    ClientHalfClose = 11,
    /// The server answered a SYN with a bare ACK: it still holds an old connection of the same ports.
    ClientSourcePortReuse = 13,
    /// The server answered a SYN with RST.
    ServerReset = 15,
    /// The server keeps repeating its SYN-ACK although it was acknowledged: its accept queue is full.
    ServerQueueLack = 17,
    /// The client reset the handshake.
    ClientEstablishOtherRst = 18,
    /// The server reset the handshake after its first answer.
    ServerEstablishOtherRst = 19,
}

impl CloseType {
    /// All of them, by code.
    pub const ALL: [Self; 15] = [
        Self::Unknown,
        Self::TcpFin,
        Self::TcpServerRst,
        Self::Timeout,
        Self::ForcedReport,
        Self::ClientSynRepeat,
        Self::ServerHalfClose,
        Self::TcpClientRst,
        Self::ServerSynAckRepeat,
        Self::ClientHalfClose,
        Self::ClientSourcePortReuse,
        Self::ServerReset,
        Self::ServerQueueLack,
        Self::ClientEstablishOtherRst,
        Self::ServerEstablishOtherRst,
    ];

    /// One more than the largest code.
    pub const CODES: usize = 20;

    /// The code in records.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }
}
