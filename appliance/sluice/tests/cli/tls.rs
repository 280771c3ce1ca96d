//! Who is told what when TLS or a token is wrong?

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use tonic::transport::{Certificate, Identity, ServerTlsConfig};

use super::mock::Mock;
use super::{code, stderr, stdout};

/// Certificates that a CA signs.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate and its key, PEM.
    fn sign(&self, name: &str, last_year: i32) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_after = date_time_ymd(last_year, 1, 1);
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

#[test]
fn certificates_and_tokens_open_the_way() {
    let (ours, other) = (Authority::new(), Authority::new());
    let (certificate, key) = ours.sign("broker.example", 2_100);
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(certificate, key))
        .client_ca_root(Certificate::from_pem(&ours.pem));
    let mock = Mock::start_tls(tls, "visible-secret");
    mock.file("ca", &ours.pem);
    mock.file("other-ca", &other.pem);
    mock.file("garbage", "no PEM");
    mock.file("token", "visible-secret\n");
    mock.file("wrong-token", "guessed");
    mock.file("empty-token", "\n");
    for (name, authority, year) in [("good", &ours, 2_100), ("strange", &other, 2_100), ("old", &ours, 2_020)]
    {
        let (certificate, key) = authority.sign(name, year);
        mock.file(&format!("{name}.crt"), certificate);
        mock.file(&format!("{name}.key"), key);
    }
    let run = |arguments: &str| mock.run(&arguments.split(' ').chain(["status"]).collect::<Vec<_>>());

    let name = "--server-name broker.example";
    let good = format!("{name} --ca ca --cert good.crt --key good.key");
    let output = run(&format!("{good} --token-file token"));
    assert_eq!((code(&output), stderr(&output).as_str()), (0, ""));
    assert!(stdout(&output).contains("generation 7"));

    for (arguments, expected, told) in [
        (good.clone(), 4, "--token-file"),
        (format!("{good} --token-file wrong-token"), 4, "not known to the daemon"),
        (format!("{good} --token-file empty-token"), 2, "no token in it"),
        (format!("{good} --token-file missing"), 2, "cannot read the token in missing"),
        ("--ca ca --cert good.crt --key good.key".to_owned(), 3, "--server-name NAME"),
        (format!("{name} --ca other-ca --cert good.crt --key good.key"), 3, "not signed by one of --ca"),
        (format!("{name} --ca ca --cert good.crt"), 2, "go together"),
        (format!("{name} --ca ca --cert good.crt --key strange.key"), 2, "cannot be used"),
        (format!("{name} --ca garbage --cert good.crt --key good.key"), 2, "PEM"),
        (format!("{name} --cert good.crt --key good.key"), 2, "add --ca FILE"),
    ] {
        let output = run(&arguments);
        assert_eq!(code(&output), expected, "{arguments}: {}", stderr(&output));
        assert!(stderr(&output).contains(told), "{arguments}: {}", stderr(&output));
        assert!(!stderr(&output).contains("secret"), "{arguments}: {}", stderr(&output));
    }

    // A daemon that does not take a certificate may have gone before its reason is read (RFC 8446 section 4.4.2.4: the
    // handshake is over for the client by then); what to do is told either way.
    for certificate in ["", " --cert strange.crt --key strange.key", " --cert old.crt --key old.key"] {
        let output = run(&format!("{name} --ca ca{certificate} --token-file token"));
        assert!([3, 4].contains(&code(&output)), "{certificate}: {}", stderr(&output));
        assert!(stderr(&output).contains("--cert FILE --key FILE"), "{certificate}: {}", stderr(&output));
    }

    // Somebody who means another machine does not change this one.
    let output = mock.command(&["--ca", "ca", "status"]).env_remove("SLUICE_SERVER").output().unwrap();
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("--server https://HOST:PORT"), "{}", stderr(&output));
}
