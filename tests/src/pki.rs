//! Certificates as an operator makes them: with `openssl`, by the commands of docs/operations.md.

use std::path::{Path, PathBuf};

/// A certification authority in a folder, and the certificates that it made.
#[derive(Debug)]
pub struct Authority {
    folder: PathBuf,
}

/// A key on the curve P-256, and a request for a certificate.
const REQUEST: &str = "openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";

impl Authority {
    /// Makes one in a folder, which is made, too.
    #[must_use]
    pub fn new(folder: &Path, name: &str) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let authority = Self { folder: folder.to_owned() };
        authority.sh(&format!("{REQUEST} -x509 -days 3650 -subj '/CN={name}' -keyout ca.key -out ca.pem"));
        authority
    }

    /// A certificate for the server at 127.0.0.1: `server.pem`, `server.key`.
    pub fn server(&self) {
        self.issue("server", "serverAuth\\nsubjectAltName=IP:127.0.0.1", 825);
    }

    /// A certificate for a client: `NAME.pem`, `NAME.key`.
    pub fn client(&self, name: &str, days: i32) {
        self.issue(name, "clientAuth", days);
    }

    /// Puts a client's certificate on the list of revoked ones, `crl.pem`; `None` = an empty list.
    pub fn revoke(&self, name: Option<&str>) {
        self.sh(
            "printf '[ca]\\ndefault_ca=d\\n[d]\\ndatabase=index.txt\\ndefault_md=sha256\\ndefault_crl_days=30\\ncrlnumber=crlnumber\\n' > ca.cnf; \
             touch index.txt; [ -f crlnumber ] || echo 01 > crlnumber",
        );
        let ca = "openssl ca -config ca.cnf -keyfile ca.key -cert ca.pem";
        if let Some(name) = name {
            self.sh(&format!("{ca} -revoke {name}.pem"));
        }
        self.sh(&format!("{ca} -gencrl -out crl.pem"));
    }

    /// The path of a file.
    #[must_use]
    pub fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn issue(&self, name: &str, usage: &str, days: i32) {
        self.sh(&format!("{REQUEST} -subj '/CN={name}' -keyout {name}.key -out {name}.csr"));
        self.sh(&format!("printf 'extendedKeyUsage={usage}\\n' > {name}.ext"));
        self.sh(&format!(
            "openssl x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days {days} \
             -extfile {name}.ext -out {name}.pem"
        ));
    }

    fn sh(&self, line: &str) {
        let output =
            std::process::Command::new("sh").args(["-ec", line]).current_dir(&self.folder).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Whether there is a program; tests that need it are skipped loudly otherwise, unless `CI=true`.
#[must_use]
pub fn has(program: &str) -> bool {
    let found = std::process::Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
    let found = found.is_ok_and(|output| output.status.success());
    assert!(found || std::env::var("CI").as_deref() != Ok("true"), "{program} is missing");
    if !found {
        crate::left_out(format_args!("{program} is missing"));
    }
    found
}
