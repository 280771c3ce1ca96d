//! What does a client's certificate say, once its chain has been verified?

use x509_parser::extensions::GeneralName;

/// Names that are looked at.
const MAX_NAMES: usize = 64;

/// What counts of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Certificate {
    /// The common names of its subject, then its DNS names.
    pub(crate) names: Vec<String>,
    /// The last moment that it is valid, seconds since 1970.
    pub(crate) not_after_s: i64,
}

impl Certificate {
    /// Reads the DER form (RFC 5280 section 4.1).
    pub(crate) fn read(der: &[u8]) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        let alternative = certificate.subject_alternative_name().ok().flatten();
        let dns = alternative.iter().flat_map(|names| &names.value.general_names);
        let dns =
            dns.filter_map(|name| if let GeneralName::DNSName(name) = name { Some(*name) } else { None });
        let names = common.chain(dns).take(MAX_NAMES).map(str::to_owned).collect();
        Some(Self { names, not_after_s: certificate.validity().not_after.timestamp() })
    }

    /// For people: its first name, quoted as it may hold anything.
    pub(crate) fn shown(&self) -> String {
        const MOST: usize = 64;
        let name = self.names.first().map_or("", String::as_str);
        format!("{:?}", name.chars().take(MOST).collect::<String>())
    }
}
