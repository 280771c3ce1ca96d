//! Where does the daemon serve its API?

use std::path::PathBuf;

/// The API, as the boot config says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiSettings {
    /// Whether it is served.
    pub enabled: bool,
    /// The Unix socket; a relative path in the file was taken relative to the folder of the boot config. `None` = the
    /// usual one, and no error if that cannot be made.
    pub socket: Option<PathBuf>,
    /// The folder of the store of policies (`[store] folder`), relative likewise; `None` = policies are not kept.
    pub store: Option<PathBuf>,
}

impl Default for ApiSettings {
    fn default() -> Self {
        Self { enabled: true, socket: None, store: None }
    }
}
