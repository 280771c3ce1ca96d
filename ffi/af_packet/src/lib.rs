//! Kernel interface driver over TPACKET_V3 rings.
