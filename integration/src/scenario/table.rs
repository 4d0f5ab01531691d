//! The scenario table.

use medbind_core::deny::DenyCode;
use rcgen::{CustomExtension, ExtendedKeyUsagePurpose, KeyUsagePurpose};

use super::fleet::{LONGEST, NO_TEXT, ODD_SERIALS};
use super::row::{Expect, Face, Listener, Place, Scenario, Signer, scenario, tags};
use crate::certificate::{KeyKind, San};
use crate::token::{Algorithm, Flaw, Token};

/// All of it.
pub fn table() -> Vec<Scenario> {
    let mut rows = permits();
    rows.extend(denies());
    rows.extend(places());
    rows.extend(forged_tags());
    rows.extend(overrides());
    rows.extend(forged_certificates());
    rows.extend(hostile_paths());
    rows.extend(paths_of_frames());
    rows.extend(odd_serials());
    rows.extend(shadow());
    rows.extend(keys());
    rows.extend(names());
    rows.extend(tokens());
    rows.extend(unread_records());
    rows
}

fn permits() -> Vec<Scenario> {
    vec![
        scenario("an active device is served", "SN-A").short(),
        scenario("an active device is served over HTTP/2", "SN-A")
            .over(Face::Http2)
            .short(),
        scenario("an active device is served over gRPC", "SN-A")
            .over(Face::Grpc)
            .short(),
        scenario("the query of a path is not looked at", "SN-A")
            .asks("POST", "/v1/devices/acme:SN-A/readings?device=acme:SN-B"),
        scenario(
            "a renewed certificate of another key is the same device",
            "SN-A",
        )
        .with(|spec| spec.key = KeyKind::P384),
        scenario("a certificate without extended key usage is served", "SN-A")
            .with(|spec| spec.purposes.clear()),
        scenario("two sources that agree are one identity", "SN-A")
            .with(|spec| spec.sans = vec![San::HardwareModule(b"SN-A".to_vec())]),
        scenario(
            "the next CA of an issuer signs for the same namespace",
            "SN-A",
        )
        .signed_by(Signer::AcmeNext),
        scenario("another issuer's device is of another namespace", "SN-A")
            .signed_by(Signer::Other)
            .asks("POST", "/v1/devices/other:SN-A/readings")
            .permit_as("other:SN-A"),
        scenario("anybody may ask for what is anybody's", "SN-A")
            .anonymous()
            .asks("GET", "/healthz")
            .permit(vec![(
                "x-medbind-principal".to_owned(),
                "anyone".to_owned(),
            )]),
        scenario("an account reads what its device sent", "SN-A")
            .anonymous()
            .token("acc-1")
            .asks("GET", "/v1/devices/acme:SN-A/history")
            .permit(tags("acme:SN-A", "account")),
        scenario("an account without a device in the path is served", "SN-A")
            .anonymous()
            .token("acc-1")
            .asks("GET", "/v1/account")
            .permit(vec![
                ("x-medbind-principal".to_owned(), "account".to_owned()),
                ("x-medbind-account".to_owned(), "acc-1".to_owned()),
            ]),
    ]
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn denies() -> Vec<Scenario> {
    use DenyCode::{
        AmbiguousDeviceIdentity, BindingExpired, BindingRevoked, BindingSuspended,
        CertificateExpired, CertificateNotAllowed, CertificateNotYetValid, DeviceUnclaimed,
        Internal, MalformedCertificate, NoAccount, NoDeviceIdentity, NoPeerCertificate,
        NotPermitted, UnknownDevice, UnknownIssuer,
    };
    use Listener::{Misread, Open};
    let critical = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 32473, 9], vec![5, 0]);
    let mut critical = critical;
    critical.set_criticality(true);
    vec![
        scenario("a caller without a certificate is refused", "SN-A")
            .anonymous()
            .deny(NoPeerCertificate)
            .short(),
        scenario(
            "a caller without a certificate is refused over HTTP/2",
            "SN-A",
        )
        .anonymous()
        .over(Face::Http2)
        .deny(NoPeerCertificate),
        scenario(
            "a caller without a certificate is refused over gRPC",
            "SN-A",
        )
        .anonymous()
        .over(Face::Grpc)
        .deny(NoPeerCertificate),
        scenario(
            "a certificate beyond the budget of names is refused",
            "SN-A",
        )
        .on(Open)
        .with(|spec| {
            spec.sans = (0..500)
                .map(|n| San::Dns(format!("n{n}.example")))
                .collect();
        })
        .deny(MalformedCertificate)
        .short(),
        scenario(
            "a stranger's certificate is refused in the handshake",
            "SN-A",
        )
        .signed_by(Signer::Namesake)
        .expect(Expect::NoHandshake)
        .short(),
        scenario(
            "a stranger's certificate is refused where Envoy takes it",
            "SN-A",
        )
        .on(Open)
        .signed_by(Signer::Namesake)
        .deny(UnknownIssuer)
        .short(),
        scenario("a forged certificate is refused in the handshake", "SN-A")
            .signed_by(Signer::Forger)
            .expect(Expect::NoHandshake),
        scenario(
            "a forged certificate is refused where Envoy takes it",
            "SN-A",
        )
        .on(Open)
        .signed_by(Signer::Forger)
        .deny(UnknownIssuer)
        .short(),
        scenario("a forged certificate is refused over gRPC too", "SN-A")
            .on(Open)
            .signed_by(Signer::Forger)
            .over(Face::Grpc)
            .deny(UnknownIssuer),
        scenario("an expired certificate is refused in the handshake", "SN-A")
            .with(|spec| spec.life = (-7200, -3600))
            .expect(Expect::NoHandshake),
        scenario(
            "an expired certificate is refused where Envoy takes it",
            "SN-A",
        )
        .on(Open)
        .with(|spec| spec.life = (-7200, -3600))
        .deny(CertificateExpired)
        .short(),
        scenario("a certificate of tomorrow is refused", "SN-A")
            .on(Open)
            .with(|spec| spec.life = (86_400, 172_800))
            .deny(CertificateNotYetValid),
        scenario("a CA certificate is refused", "SN-A")
            .on(Open)
            .with(|spec| {
                spec.is_ca = true;
                spec.purposes.clear();
                spec.usages = vec![
                    KeyUsagePurpose::KeyCertSign,
                    KeyUsagePurpose::DigitalSignature,
                ];
            })
            .deny(CertificateNotAllowed),
        scenario("a server's certificate is refused", "SN-A")
            .on(Open)
            .with(|spec| spec.purposes = vec![ExtendedKeyUsagePurpose::ServerAuth])
            .deny(CertificateNotAllowed)
            .short(),
        scenario(
            "a key that may not sign is refused in the handshake",
            "SN-A",
        )
        .on(Open)
        .with(|spec| spec.usages = vec![KeyUsagePurpose::KeyAgreement])
        .expect(Expect::NoHandshake),
        scenario("a key that may not sign is refused by the guard", "SN-A")
            .on(Open)
            .with(|spec| spec.usages = vec![KeyUsagePurpose::KeyAgreement])
            .deny(CertificateNotAllowed)
            .natively("Envoy's TLS refuses such a key in the handshake"),
        scenario("a critical extension that nobody knows is refused", "SN-A")
            .on(Open)
            .with(move |spec| spec.extensions.push(critical))
            .deny(CertificateNotAllowed),
        scenario(
            "a key that the binding does not pin is refused",
            "SN-PINNED",
        )
        .deny(CertificateNotAllowed),
        scenario("a certificate that names no device is refused", "SN-A")
            .with(|spec| spec.serial = None)
            .deny(NoDeviceIdentity)
            .short(),
        scenario("a certificate that names two devices is refused", "SN-A")
            .with(|spec| spec.sans = vec![San::HardwareModule(b"SN-B".to_vec())])
            .deny(AmbiguousDeviceIdentity)
            .short(),
        scenario(
            "a device that the registry does not have is refused",
            "SN-NOBODY",
        )
        .deny(UnknownDevice)
        .short(),
        scenario(
            "the same serial under another issuer is another device",
            "SN-B",
        )
        .signed_by(Signer::Other)
        .asks("POST", "/v1/devices/other:SN-B/readings")
        .deny(UnknownDevice),
        scenario(
            "a device that nobody has claimed is refused",
            "SN-UNCLAIMED",
        )
        .deny(DeviceUnclaimed)
        .short(),
        scenario(
            "a device that nobody has claimed is refused over gRPC",
            "SN-UNCLAIMED",
        )
        .over(Face::Grpc)
        .deny(DeviceUnclaimed),
        scenario("a suspended device is refused", "SN-SUSPENDED")
            .deny(BindingSuspended)
            .short(),
        scenario("a revoked device is refused", "SN-REVOKED")
            .deny(BindingRevoked)
            .short(),
        scenario("a binding that has ended is refused", "SN-EXPIRED")
            .deny(BindingExpired)
            .short(),
        scenario("who has no token is no account", "SN-A")
            .anonymous()
            .asks("GET", "/v1/account")
            .deny(NoAccount)
            .short(),
        scenario("a device is no account", "SN-A")
            .asks("GET", "/v1/account")
            .deny(NoAccount),
        scenario(
            "an account that a device is not bound to is refused",
            "SN-A",
        )
        .anonymous()
        .token("acc-2")
        .asks("GET", "/v1/devices/acme:SN-A/history")
        // The first principal of the rule is the device.
        .deny(NoPeerCertificate),
        scenario("a path that names another device is refused", "SN-A")
            .asks("POST", "/v1/devices/acme:SN-B/readings")
            .deny(NotPermitted)
            .short(),
        scenario("a path that names another namespace is refused", "SN-A")
            .asks("POST", "/v1/devices/other:SN-A/readings")
            .deny(NotPermitted),
        scenario("a path that no rule names is refused", "SN-A")
            .asks("GET", "/v2/anything")
            .deny(NotPermitted),
        scenario(
            "a method that the first matching rule does not take goes to the next",
            "SN-A",
        )
        .asks("GET", "/v1/devices/acme:SN-A/readings"),
        scenario("a certificate that cannot be had is an error", "SN-A")
            .on(Misread)
            .deny(Internal),
    ]
}

fn places() -> Vec<Scenario> {
    vec![
        scenario("without a synchroniser a device is refused", "SN-A")
            .at(Place::NoSynchroniser)
            .deny(DenyCode::BindingsUnavailable)
            .short(),
        scenario(
            "without a synchroniser a device is refused over gRPC",
            "SN-A",
        )
        .at(Place::NoSynchroniser)
        .over(Face::Grpc)
        .deny(DenyCode::BindingsUnavailable),
        scenario(
            "without a synchroniser an account's device is refused",
            "SN-A",
        )
        .at(Place::NoSynchroniser)
        .anonymous()
        .token("acc-1")
        .asks("GET", "/v1/devices/acme:SN-A/history")
        .deny(DenyCode::NoPeerCertificate),
        scenario("without a synchroniser what is anybody's is served", "SN-A")
            .at(Place::NoSynchroniser)
            .anonymous()
            .asks("GET", "/healthz")
            .permit(vec![(
                "x-medbind-principal".to_owned(),
                "anyone".to_owned(),
            )]),
        scenario(
            "a known device is refused when the bindings are stale",
            "SN-A",
        )
        .at(Place::Stale)
        .deny(DenyCode::BindingsStale)
        .short(),
        scenario(
            "a revoked device is refused when the bindings are stale",
            "SN-REVOKED",
        )
        .at(Place::Stale)
        .deny(DenyCode::BindingsStale),
        scenario("a lookup that fails refuses", "SN-A")
            .at(Place::OnDemand)
            .deny(DenyCode::LookupFailed)
            .short(),
    ]
}

fn forged_tags() -> Vec<Scenario> {
    use Listener::Open;
    vec![
        scenario("a forged tag is replaced", "SN-A")
            .header("x-medbind-account", "acc-9")
            .header("x-medbind-device", "acme:SN-B")
            .short(),
        scenario("a forged tag in any letters is replaced", "SN-A")
            .header("X-MedBind-Account", "acc-9"),
        scenario(
            "a forged tag that medbind does not set is taken away",
            "SN-A",
        )
        .header("x-medbind-assertion", "yes")
        .header("x-medbind-role", "admin"),
        scenario("what is called as medbind itself is taken away", "SN-A")
            .header("x-medbind", "acme:SN-B"),
        scenario(
            "what is called as medbind itself is taken away, with capitals and underscores",
            "SN-A",
        )
        .on(Open)
        .header("X_Medbind", "acme:SN-B"),
        scenario("a tag forged twice is replaced by one", "SN-A")
            .header("x-medbind-account", "acc-8")
            .header("x-medbind-account", "acc-9"),
        scenario("a tag forged over HTTP/2 is replaced", "SN-A")
            .over(Face::Http2)
            .header("x-medbind-account", "acc-8")
            .header("x-medbind-account", "acc-9"),
        scenario(
            "a tag forged with underscores is refused by the shipped listener",
            "SN-A",
        )
        .header("x_medbind_account", "acc-9")
        .expect(Expect::NotByEnvoy),
        scenario(
            "a tag forged with underscores is refused by the shipped listener, over HTTP/2",
            "SN-A",
        )
        .over(Face::Frames)
        .header("x_medbind_account", "acc-9")
        .expect(Expect::NotByEnvoy),
        scenario(
            "a tag forged with underscores is taken away by the guard",
            "SN-A",
        )
        .on(Open)
        .header("x_medbind_account", "acc-9")
        .header("x-medbind_device", "acme:SN-B"),
        scenario("a tag that Connection names still arrives", "SN-A")
            .on(Open)
            .header("connection", "x-medbind-account, x-medbind-device")
            .natively(
                "Envoy takes the named fields away before any filter, but of an upgrade: \
                 integration/src/scenario/upgrade.rs",
            ),
        scenario("a tag forged as a trailer is taken away", "SN-A")
            .over(Face::Http2)
            .trailer("x-medbind-account", "acc-9")
            .trailer("x-medbind-admin", "yes"),
        scenario(
            "a tag forged as a trailer of HTTP/1.1 is taken away",
            "SN-A",
        )
        .on(Open)
        .trailer("x-medbind-account", "acc-9"),
        scenario(
            "a tag forged as a trailer with underscores is taken away",
            "SN-A",
        )
        .on(Open)
        .over(Face::Http2)
        .trailer("x_medbind_account", "acc-9"),
        scenario(
            "a forged tag of somebody without certificate is taken away",
            "SN-A",
        )
        .anonymous()
        .asks("GET", "/healthz")
        .header("x-medbind-device", "acme:SN-A")
        .permit(vec![(
            "x-medbind-principal".to_owned(),
            "anyone".to_owned(),
        )]),
    ]
}

/// What names another path, method or certificate than those that are decided about.
fn overrides() -> Vec<Scenario> {
    use Listener::Open;
    vec![
        scenario("what rewrites paths behind the guard is taken away", "SN-A")
            .header("x-original-url", "/v1/devices/acme:SN-B/readings")
            .header("x-rewrite-url", "/admin")
            .header("x-http-method-override", "DELETE")
            .hides("x-original-url")
            .hides("x-rewrite-url")
            .hides("x-http-method-override"),
        scenario(
            "what names another path, method or certificate is taken away by the guard alone",
            "SN-A",
        )
        .on(Open)
        .header("X-Original-URI", "/admin")
        .header("x_forwarded_path", "/admin")
        .header("x-forwarded-method", "DELETE")
        .header("X_SSL_Client_S_DN", "serialNumber=SN-B")
        .header("ssl-client-verify", "SUCCESS")
        .hides("x-original-uri")
        .hides("x_forwarded_path")
        .hides("x-forwarded-method")
        .hides("x_ssl_client_s_dn")
        .hides("ssl-client-verify"),
        scenario(
            "what names another path or certificate is taken away as a trailer too",
            "SN-A",
        )
        .on(Open)
        .over(Face::Http2)
        .trailer("x-forwarded-uri", "/admin")
        .trailer("x_client_cert", "serialNumber=SN-B")
        .hides("x-forwarded-uri")
        .hides("x_client_cert"),
    ]
}

/// Somebody claims a certificate in `x-forwarded-client-cert`.
fn forged_certificates() -> Vec<Scenario> {
    vec![
        scenario("a forged certificate header makes nobody a device", "SN-A")
            .anonymous()
            .header(
                "x-forwarded-client-cert",
                "Hash=00;Subject=\"serialNumber=SN-A\"",
            )
            .deny(DenyCode::NoPeerCertificate)
            .short(),
        scenario(
            "a forged certificate header does not reach the upstream",
            "SN-A",
        )
        .header(
            "x-forwarded-client-cert",
            "Hash=00;Subject=\"serialNumber=SN-B\"",
        )
        .hides("x-forwarded-client-cert"),
        scenario(
            "a device's real certificate in a header makes nobody it",
            "SN-B",
        )
        .anonymous()
        .claims("SN-B")
        .deny(DenyCode::NoPeerCertificate)
        .short(),
        scenario(
            "a device that claims another's real certificate is itself",
            "SN-A",
        )
        .claims("SN-B")
        .hides("x-forwarded-client-cert")
        .short(),
        scenario(
            "a device that claims another's real certificate is refused the other's path",
            "SN-A",
        )
        .claims("SN-B")
        .asks("POST", "/v1/devices/acme:SN-B/readings")
        .deny(DenyCode::NotPermitted)
        .short(),
        scenario(
            "another's real certificate in a header stands for none that Envoy does not give",
            "SN-A",
        )
        .on(Listener::Misread)
        .claims("SN-B")
        .asks("POST", "/v1/devices/acme:SN-B/readings")
        .deny(DenyCode::Internal),
    ]
}

/// The path is what differs: where the guard is alone it refuses each with `not_permitted`, and at
/// the shipped listener none is served.
const HOSTILE_PATHS: [(&str, &str, &str); 17] = [
    (
        "a path with ..; is refused",
        "at the shipped listener a path with ..; is not served",
        "/v1/devices/acme:SN-A/..;/acme:SN-B/readings",
    ),
    (
        "a path with a parameter is refused",
        "at the shipped listener a path with a parameter is not served",
        "/v1/devices/acme:SN-B;x=y/readings",
    ),
    (
        "a path with // is refused",
        "at the shipped listener a path with // is not served",
        "/v1//devices/acme:SN-B/readings",
    ),
    (
        "a path that begins with // is refused",
        "at the shipped listener a path that begins with // is not served",
        "//v1/devices/acme:SN-B/readings",
    ),
    (
        "a path with %2F is refused",
        "at the shipped listener a path with %2F is not served",
        "/v1/devices/acme:SN-A%2F..%2Facme:SN-B/readings",
    ),
    (
        "a path with %5C is refused",
        "at the shipped listener a path with %5C is not served",
        "/v1/devices/acme:SN-A%5C..%5Cacme:SN-B/readings",
    ),
    (
        "a path with %252F is refused",
        "at the shipped listener a path with %252F is not served",
        "/v1/devices/acme:SN-A%252F..%252Facme:SN-B/readings",
    ),
    (
        "a path with %2e%2e is refused",
        "at the shipped listener a path with %2e%2e is not served",
        "/v1/devices/acme:SN-A/%2e%2e/acme:SN-B/readings",
    ),
    (
        "a path with .. is refused",
        "at the shipped listener a path with .. is not served",
        "/v1/devices/acme:SN-A/../acme:SN-B/readings",
    ),
    (
        "a path with %00 is refused",
        "at the shipped listener a path with %00 is not served",
        "/v1/devices/acme:SN-B%00/readings",
    ),
    (
        "a path with a broken escape is refused",
        "at the shipped listener a path with a broken escape is not served",
        "/v1/devices/acme:SN-B/readings%2",
    ),
    (
        "a path with a backslash is refused",
        "at the shipped listener a path with a backslash is not served",
        "/v1/devices/acme:SN-A\\..\\acme:SN-B/readings",
    ),
    (
        "a device of a path that is written with escapes is read once",
        "at the shipped listener another device is not reached by escapes",
        "/v1/devices/acme%3ASN-B/readings",
    ),
    (
        "a device in other letters is another device",
        "at the shipped listener other letters are not served",
        "/v1/devices/acme:sn-a/readings",
    ),
    (
        "a device with a blank behind it is another device",
        "at the shipped listener a blank is not served",
        "/v1/devices/acme:SN-A%20/readings",
    ),
    (
        "an absolute form that names another device is refused",
        "at the shipped listener an absolute form is not served",
        "https://edge.example/v1/devices/acme:SN-B/readings",
    ),
    (
        "a trailing slash is another path",
        "at the shipped listener a trailing slash at the top is not served",
        "/healthz/",
    ),
];

fn hostile_paths() -> Vec<Scenario> {
    let mut rows = Vec::new();
    for (alone, shipped, path) in HOSTILE_PATHS {
        rows.push(
            scenario(alone, "SN-A")
                .on(Listener::Open)
                .asks("POST", path)
                .deny(DenyCode::NotPermitted),
        );
        rows.push(
            scenario(shipped, "SN-A")
                .asks("POST", path)
                .expect(Expect::NotServed),
        );
        let row = scenario(format!("{alone}, over HTTP/2"), "SN-A")
            .on(Listener::Open)
            .over(Face::Frames)
            .asks("POST", path);
        rows.push(if path.starts_with('/') {
            row.deny(DenyCode::NotPermitted)
        } else {
            // Envoy itself takes no other `:path` (RFC 9113, 8.3.1).
            row.expect(Expect::NotServed)
        });
        rows.push(
            scenario(format!("{shipped}, over HTTP/2"), "SN-A")
                .over(Face::Frames)
                .asks("POST", path)
                .expect(Expect::NotServed),
        );
    }
    rows.push(
        scenario("a CONNECT, which has no path, is refused", "SN-A")
            .on(Listener::Open)
            .asks("CONNECT", "edge.example:443")
            .deny(DenyCode::NotPermitted),
    );
    rows.push(
        scenario("at the shipped listener a CONNECT is not served", "SN-A")
            .asks("CONNECT", "edge.example:443")
            .expect(Expect::NotServed),
    );
    rows
}

/// What the `:path` of HTTP/2 can hold, and no request line of HTTP/1.1.
const PATHS_OF_FRAMES: [(&str, &str); 12] = [
    ("an empty path", ""),
    ("a path without a slash", "v1/devices/acme:SN-B/readings"),
    ("a path that is a star", "*"),
    ("a path that is a query", "?/v1/devices/acme:SN-B/readings"),
    (
        "a path with a blank before it",
        " /v1/devices/acme:SN-B/readings",
    ),
    (
        "a path with a blank behind it",
        "/v1/devices/acme:SN-B/readings ",
    ),
    (
        "a path with a blank in it",
        "/v1/devices/acme:SN-A/readings /../acme:SN-B",
    ),
    ("a path with a tab", "/v1/devices/acme:SN-B\t/readings"),
    (
        "a path with a line break",
        "/v1/devices/acme:SN-B/readings\r\nx-medbind-device: acme:SN-B",
    ),
    (
        "a path with a fragment",
        "/v1/devices/acme:SN-B/readings#/v1/devices/acme:SN-A/readings",
    ),
    (
        "a path with an octet beyond ASCII",
        "/v1/devices/acme:SN-B\u{e9}/readings",
    ),
    (
        "a path with an authority",
        "//edge.example/v1/devices/acme:SN-B/readings",
    ),
];

fn paths_of_frames() -> Vec<Scenario> {
    let mut rows = Vec::new();
    for (what, path) in PATHS_OF_FRAMES {
        let row = |name: String| {
            scenario(name, "SN-A")
                .over(Face::Frames)
                .asks("POST", path)
                .expect(Expect::NotServed)
        };
        rows.push(row(format!("{what} is not served to anybody")).on(Listener::Open));
        rows.push(row(format!("at the shipped listener {what} is not served")));
    }
    let twice = |name: &'static str| {
        scenario(name, "SN-A")
            .on(Listener::Open)
            .over(Face::Frames)
            .expect(Expect::NotByEnvoy)
    };
    rows.push(
        twice("a request with two paths, the good one first, is none")
            .header(":path", "/v1/devices/acme:SN-B/readings"),
    );
    rows.push(
        twice("a request with two paths, the good one last, is none")
            .asks("POST", "/v1/devices/acme:SN-B/readings")
            .header(":path", "/v1/devices/acme:SN-A/readings"),
    );
    rows.push(twice("a request with two methods is none").header(":method", "DELETE"));
    rows.push(
        twice("a request with two authorities is none").header(":authority", "other.example"),
    );
    rows
}

/// The names of the rows of `ODD_SERIALS`, in its order.
const ODD_NAMES: [&str; ODD_SERIALS.len()] = [
    "a serial with a slash is one segment",
    "a serial of one dot is no dot segment",
    "a serial of two dots is no dot segment",
    "a serial with a blank is served",
    "a serial with blanks around it keeps them",
    "a serial with = is served",
    "a serial with %2F is not decoded",
    "a serial with ; is no parameter",
    "a serial with letters beyond ASCII is served",
];

fn odd_serials() -> Vec<Scenario> {
    let mut rows = Vec::new();
    for (name, (serial, device)) in ODD_NAMES.into_iter().zip(ODD_SERIALS) {
        rows.push(
            scenario(name, serial)
                .asks("POST", format!("/v1/devices/{device}/readings"))
                .permit_as(device),
        );
    }
    let (no_text, device) = NO_TEXT;
    rows.push(
        scenario("a serial of octets that are no text is served", "")
            .with(|spec| {
                spec.serial = None;
                spec.sans = vec![San::HardwareModule(no_text.to_vec())];
            })
            .asks("POST", format!("/v1/devices/{device}/readings"))
            .permit_as(device),
    );
    rows.push(scenario("a serial of 64 octets is served", LONGEST));
    rows.push(
        scenario("a serial of 65 octets is none", &format!("{LONGEST}g"))
            .asks("POST", format!("/v1/devices/acme:{LONGEST}/readings"))
            .deny(DenyCode::NoDeviceIdentity),
    );
    rows
}

/// What a device's key may be.
fn keys() -> Vec<Scenario> {
    use Listener::{Open, Picky};
    let uri = |serial: &str| vec![San::Uri(format!("urn:dev:ops:32473-{serial}"))];
    vec![
        scenario("a device with an RSA key of 2048 bits is served", "SN-A")
            .with(|spec| spec.key = KeyKind::Rsa(2048)),
        scenario("a device with an Ed25519 key is served", "SN-A")
            .on(Open)
            .with(|spec| spec.key = KeyKind::Ed25519),
        scenario("a device with an RSA key of 1024 bits is refused", "SN-A")
            .on(Open)
            .with(|spec| spec.key = KeyKind::Rsa(1024))
            .deny(DenyCode::CertificateNotAllowed),
        scenario(
            "a type of key that the policy does not name is refused",
            "SN-A",
        )
        .on(Picky)
        .with(|spec| {
            spec.sans = uri("SN-A");
            spec.key = KeyKind::P384;
        })
        .deny(DenyCode::CertificateNotAllowed),
        scenario(
            "an RSA key shorter than the policy wants is refused",
            "SN-A",
        )
        .on(Picky)
        .with(|spec| {
            spec.sans = uri("SN-A");
            spec.key = KeyKind::Rsa(2048);
        })
        .deny(DenyCode::CertificateNotAllowed),
        scenario("a key that the policy names is served", "SN-A")
            .on(Picky)
            .with(|spec| spec.sans = uri("SN-A")),
    ]
}

/// Names that are not in the subject.
fn names() -> Vec<Scenario> {
    use Listener::Picky;
    let uri = |serial: &str| San::Uri(format!("urn:dev:ops:32473-{serial}"));
    let dns = |serial: &str| San::Dns(format!("{serial}.devices.acme.example"));
    vec![
        scenario(
            "a URI that is there twice with one value is one identity",
            "SN-A",
        )
        .on(Picky)
        .with(|spec| spec.sans = vec![uri("SN-A"), uri("SN-A")]),
        scenario("two values of one URI source are two identities", "SN-A")
            .on(Picky)
            .with(|spec| spec.sans = vec![uri("SN-A"), uri("SN-B")])
            .deny(DenyCode::AmbiguousDeviceIdentity),
        scenario("a URI and a DNS name that agree are one identity", "SN-A")
            .on(Picky)
            .with(|spec| spec.sans = vec![uri("SN-A"), dns("SN-A")]),
        scenario(
            "a URI and a DNS name that differ are two identities",
            "SN-A",
        )
        .on(Picky)
        .with(|spec| spec.sans = vec![uri("SN-A"), dns("SN-B")])
        .deny(DenyCode::AmbiguousDeviceIdentity),
        scenario("a URI of another form is no identity", "SN-A")
            .on(Picky)
            .with(|spec| spec.sans = vec![San::Uri("urn:dev:ops:32473-SN-A/SN-B".to_owned())])
            .deny(DenyCode::NoDeviceIdentity),
        scenario("a wildcard is no identity", "SN-A")
            .on(Picky)
            .with(|spec| spec.sans = vec![dns("*")])
            .deny(DenyCode::NoDeviceIdentity),
        scenario(
            "a source that the issuer does not list is not looked at",
            "SN-A",
        )
        .on(Picky)
        .with(|spec| spec.sans.clear())
        .deny(DenyCode::NoDeviceIdentity),
    ]
}

/// Tokens of accounts, good and bad.
fn tokens() -> Vec<Scenario> {
    use Algorithm::{EdDsa, Es256, Rs256};
    let good = [
        ("a token signed by ES256 is taken", Es256),
        ("a token signed by RS256 is taken", Rs256),
    ];
    let bad = [
        (
            "a token with a broken signature is none",
            EdDsa,
            Flaw::Signature,
        ),
        (
            "a token of ES256 with a broken signature is none",
            Es256,
            Flaw::Signature,
        ),
        (
            "a token of RS256 with a broken signature is none",
            Rs256,
            Flaw::Signature,
        ),
        ("a token that another key signed is none", EdDsa, Flaw::Key),
        (
            "a token that another key signed by ES256 is none",
            Es256,
            Flaw::Key,
        ),
        ("a token that has expired is none", EdDsa, Flaw::Expired),
        ("a token of later is none", EdDsa, Flaw::NotYetValid),
        ("a token for somebody else is none", EdDsa, Flaw::Audience),
        ("a token of another issuer is none", EdDsa, Flaw::Issuer),
    ];
    let row = |name, algorithm, flaw| {
        scenario(name, "SN-A")
            .anonymous()
            .asks("GET", "/v1/account")
            .shows(Token {
                subject: "acc-1",
                algorithm,
                flaw,
            })
    };
    let permit = vec![
        ("x-medbind-principal".to_owned(), "account".to_owned()),
        ("x-medbind-account".to_owned(), "acc-1".to_owned()),
    ];
    let good = good
        .into_iter()
        .map(|(name, algorithm)| row(name, algorithm, None).permit(permit.clone()))
        .map(|row| row.hides("authorization"));
    let bad = bad
        .into_iter()
        .map(|(name, algorithm, flaw)| row(name, algorithm, Some(flaw)).deny(DenyCode::NoAccount));
    let mut rows: Vec<_> = good.chain(bad).collect();
    let forged = Token {
        subject: "acc-2",
        algorithm: EdDsa,
        flaw: Some(Flaw::Key),
    };
    rows.push(
        scenario(
            "a forged token beside a good certificate does not arrive",
            "SN-A",
        )
        .shows(forged)
        .hides("authorization")
        .short(),
    );
    rows.push(
        scenario("two tokens beside a good certificate do not arrive", "SN-A")
            .over(Face::Http2)
            .header("authorization", "Bearer a.b.c")
            .header("authorization", "Basic YTpi")
            .hides("authorization"),
    );
    rows
}

/// A newer registry says what this version does not know.
fn unread_records() -> Vec<Scenario> {
    vec![
        scenario(
            "a device in a state that nobody here knows is refused",
            "SN-NEW-STATE",
        )
        .at(Place::Script)
        .deny(DenyCode::BindingsUnavailable),
        scenario(
            "a device of which a record of unknown kind tells is refused",
            "SN-NEW-KIND",
        )
        .at(Place::Script)
        .deny(DenyCode::BindingsUnavailable),
        scenario(
            "what stands behind records that nobody here knows is read",
            "SN-BEHIND",
        )
        .at(Place::Script),
        scenario(
            "what stands before records that nobody here knows is read",
            "SN-A",
        )
        .at(Place::Script),
    ]
}

fn shadow() -> Vec<Scenario> {
    use Listener::Shadow;
    vec![
        scenario("a shadow guard lets a good device pass untagged", "SN-A")
            .on(Shadow)
            .expect(Expect::Watched(None)),
        scenario("a shadow guard counts what it would refuse", "SN-REVOKED")
            .on(Shadow)
            .expect(Expect::Watched(Some(DenyCode::BindingRevoked))),
        scenario("a shadow guard takes forged tags away", "SN-REVOKED")
            .on(Shadow)
            .header("x-medbind-account", "acc-9")
            .expect(Expect::Watched(Some(DenyCode::BindingRevoked))),
        scenario(
            "a shadow guard lets somebody without certificate pass",
            "SN-A",
        )
        .on(Shadow)
        .anonymous()
        .expect(Expect::Watched(Some(DenyCode::NoPeerCertificate))),
    ]
}
