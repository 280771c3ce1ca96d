//! Where metrics are served: the `[metrics]` section of the boot config.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Where metrics are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricsSettings {
    /// The address and port that the HTTP server listens on.
    pub listen: SocketAddr,
}

impl Default for MetricsSettings {
    /// Loopback: who wants others to read writes so. The port is the one that exporters of OpenTelemetry use.
    fn default() -> Self {
        Self { listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9464) }
    }
}
