//! Certificates of devices, as factories make them and as nobody should.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use medbind_registry::role::Role;
use rcgen::string::PrintableString;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension,
    DistinguishedName, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod,
    KeyPair, KeyUsagePurpose, PublicKeyData, RevokedCertParams, SanType, SerialNumber,
    SubjectPublicKeyInfo,
};
use rsa::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, EncodePublicKey as _};
use rsa::signature::{RandomizedSigner as _, SignatureEncoding as _};
use rsa::traits::PublicKeyParts as _;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{SignatureAlgorithm, SignatureScheme};
use sha2::{Digest, Sha256};

/// A day.
pub const DAY: Duration = Duration::from_hours(24);

/// hwType of the hardware module names that the harness makes (an example enterprise number).
pub const HW_TYPE: &str = "1.3.6.1.4.1.32473.1";

/// Seconds since 1970.
pub fn now_seconds() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// Sets the life of a certificate, in seconds since 1970.
fn set_validity(params: &mut CertificateParams, from: i64, to: i64) {
    let at = |seconds: i64| {
        let span = Duration::from_secs(seconds.unsigned_abs());
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        if seconds < 0 {
            epoch - span
        } else {
            epoch + span
        }
    };
    params.not_before = at(from);
    params.not_after = at(to);
}

/// A certificate with its key, as a client or server shows it.
#[derive(Clone)]
pub struct Identity {
    /// The certificate, then those above it.
    pub chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
    serial: Option<SerialNumber>,
}

impl Identity {
    /// From PEM: the certificate with those above it, and its key as PKCS #8.
    pub fn from_pem(chain: &str, key: &str) -> Result<Self> {
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .context("the certificate is not PEM")?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(key.as_bytes())
            .context("the key is not PKCS #8 PEM")?;
        Ok(Self {
            chain,
            key: key.secret_pkcs8_der().to_vec(),
            serial: None,
        })
    }

    /// The certificate as PEM, those above it behind it.
    pub fn pem(&self) -> String {
        self.chain
            .iter()
            .map(|certificate| pem("CERTIFICATE", certificate))
            .collect()
    }

    /// The certificate alone, as PEM.
    pub fn leaf_pem(&self) -> String {
        self.chain
            .first()
            .map(|certificate| pem("CERTIFICATE", certificate))
            .unwrap_or_default()
    }

    /// The private key as PEM.
    pub fn key_pem(&self) -> String {
        pem("PRIVATE KEY", &self.key)
    }

    /// The leaf's DER.
    pub fn der(&self) -> &[u8] {
        self.chain.first().map(AsRef::as_ref).unwrap_or_default()
    }

    /// The leaf's SHA-256, lower-case hex.
    pub fn digest(&self) -> String {
        base16ct::lower::encode_string(&Sha256::digest(self.der()))
    }

    /// As rustls shows it, whether or not rustls would take the certificate itself.
    pub fn certified_key(&self) -> Result<Arc<CertifiedKey>> {
        let key = match any_supported_type(&self.private_key()) {
            Ok(key) => key,
            Err(error) => Arc::new(AnyRsa(
                rsa::PrivateKey::from_pkcs8_der(&self.key).map_err(|_| error)?,
            )),
        };
        Ok(Arc::new(CertifiedKey::new(self.chain.clone(), key)))
    }

    /// The private key as rustls takes it.
    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.clone()))
    }

    /// The same key with another certificate, which need not be one.
    #[must_use]
    pub fn with_leaf(&self, der: Vec<u8>) -> Self {
        let mut other = self.clone();
        other.chain.splice(..1, [CertificateDer::from(der)]);
        other
    }
}

/// PEM text (RFC 7468) of some DER.
pub fn pem(label: &str, der: &[u8]) -> String {
    use base64ct::{Base64, Encoding};
    let base64 = Base64::encode_string(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in base64.as_bytes().chunks(64) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text + &format!("-----END {label}-----\n")
}

/// A certificate authority of devices or of the infrastructure.
pub struct Authority {
    common_name: String,
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
    /// Those above it, where it is an intermediate.
    above: Vec<CertificateDer<'static>>,
}

impl Authority {
    /// A new self-signed CA.
    pub fn new(common_name: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let params = Self::params(common_name);
        let certificate = params.self_signed(&key)?;
        Ok(Self {
            common_name: common_name.to_owned(),
            der: certificate.der().clone(),
            issuer: Issuer::new(params, key),
            above: Vec::new(),
        })
    }

    /// A CA whose certificate and key are kept as PEM; a root.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self> {
        let der = CertificateDer::from_pem_slice(certificate.as_bytes())
            .context("the CA's certificate is not PEM")?;
        let key = KeyPair::from_pem(key).context("the CA's key is not PKCS #8 PEM")?;
        Ok(Self {
            common_name: String::new(),
            issuer: Issuer::from_ca_cert_der(&der, key)?,
            der,
            above: Vec::new(),
        })
    }

    /// A new CA that this one signed.
    pub fn intermediate(&self, common_name: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = Self::params(common_name);
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let above = std::iter::once(self.der.clone())
            .chain(self.above.clone())
            .collect();
        Ok(Self {
            common_name: common_name.to_owned(),
            der: certificate.der().clone(),
            issuer: Issuer::new(params, key),
            above,
        })
    }

    fn params(common_name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let now = now_seconds();
        set_validity(&mut params, now - 86_400, now + 3650 * 86_400);
        params
    }

    /// Its certificate as PEM.
    pub fn pem(&self) -> String {
        pem("CERTIFICATE", &self.der)
    }

    /// A certificate of its name and key that ended an hour ago, as PEM.
    pub fn ended_pem(&self) -> Result<String> {
        let mut params = Self::params(&self.common_name);
        let now = now_seconds();
        set_validity(&mut params, now - 86_400, now - 3_600);
        Ok(params.self_signed(self.issuer.key())?.pem())
    }

    /// Its certificate's DER.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// A certificate of a device as `spec` wants it, with a new key.
    pub fn issue(&self, spec: &Spec) -> Result<Identity> {
        let key = Key::generate(spec.key)?;
        let params = spec.params();
        let serial = params.serial_number.clone();
        let certificate = key.certify(&params, &self.issuer)?;
        Ok(Identity {
            serial,
            ..self.identity(certificate.der().clone(), key.pkcs8)
        })
    }

    /// Certificates as `spec` wants them, without end: all of one key, each with a serial number of
    /// its own. Cheap to make.
    pub fn many<'a>(
        &'a self,
        spec: &'a Spec,
    ) -> Result<impl Iterator<Item = Result<Identity>> + 'a> {
        let key = Key::generate(spec.key)?;
        Ok(std::iter::repeat_with(move || {
            let certificate = key.certify(&spec.params(), &self.issuer)?;
            Ok(self.identity(certificate.der().clone(), key.pkcs8.clone()))
        }))
    }

    /// A certificate for a server with these DNS names or IP addresses, which can be shown as a
    /// client as well.
    pub fn issue_server(&self, names: &[&str]) -> Result<Identity> {
        let all = names.iter().map(|name| (*name).to_owned());
        let params = CertificateParams::new(all.collect::<Vec<_>>())?;
        self.issue_infrastructure(names.first().unwrap_or(&"server"), params)
    }

    /// A certificate for a client with this role.
    pub fn issue_client(&self, role: &Role) -> Result<Identity> {
        let mut params = CertificateParams::default();
        if let Some(uri) = role.uri() {
            params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
        }
        self.issue_infrastructure(&role.to_string(), params)
    }

    fn issue_infrastructure(
        &self,
        common_name: &str,
        mut params: CertificateParams,
    ) -> Result<Identity> {
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let now = now_seconds();
        set_validity(&mut params, now - 3600, now + 365 * 86_400);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(self.identity(certificate.der().clone(), key.serialize_der()))
    }

    fn identity(&self, leaf: CertificateDer<'static>, key: Vec<u8>) -> Identity {
        let mut chain = vec![leaf];
        if !self.above.is_empty() {
            chain.push(self.der.clone());
        }
        Identity {
            chain,
            key,
            serial: None,
        }
    }

    /// A certificate that names this CA as its issuer, key identifier and all, and that another
    /// key signed.
    pub fn forge(&self, spec: &Spec) -> Result<Identity> {
        let mut params = Self::params(&self.common_name);
        params.key_identifier_method =
            KeyIdMethod::PreSpecified(params.key_identifier(self.issuer.key()));
        let forger = Self {
            common_name: self.common_name.clone(),
            issuer: Issuer::new(params, KeyPair::generate()?),
            der: self.der.clone(),
            above: self.above.clone(),
        };
        forger.issue(spec)
    }

    /// A revocation list that names these certificates, good for 30 days.
    pub fn revocation_list(&self, revoked: &[&Identity]) -> Result<String> {
        self.revocation_list_until(revoked, 30 * 86_400)
    }

    /// One that ends so many seconds from now; it is a day old.
    pub fn revocation_list_until(&self, revoked: &[&Identity], seconds: i64) -> Result<String> {
        let at = |seconds: i64| {
            rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds.unsigned_abs())
        };
        let now = at(now_seconds());
        let revoked_certs = revoked
            .iter()
            .filter_map(|identity| identity.serial.clone())
            .map(|serial_number| RevokedCertParams {
                serial_number,
                revocation_time: now - DAY,
                reason_code: None,
                invalidity_date: None,
            })
            .collect();
        let list = CertificateRevocationListParams {
            this_update: now - DAY,
            next_update: at(now_seconds() + seconds),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(list.signed_by(&self.issuer)?.pem()?)
    }
}

/// The kind of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
    /// Ed25519.
    Ed25519,
    /// RSA with a modulus of so many bits.
    Rsa(usize),
}

/// A device's key.
struct Key {
    pkcs8: Vec<u8>,
    public: SubjectPublicKeyInfo,
}

impl Key {
    fn generate(kind: KeyKind) -> Result<Self> {
        let algorithm = match kind {
            KeyKind::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            KeyKind::P384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            KeyKind::Ed25519 => &rcgen::PKCS_ED25519,
            KeyKind::Rsa(bits) => {
                let key = RsaKey::generate(bits)?;
                return Ok(Self {
                    public: SubjectPublicKeyInfo::from_der(&key.public)?,
                    pkcs8: key.pkcs8,
                });
            }
        };
        let key = KeyPair::generate_for(algorithm)?;
        Ok(Self {
            public: SubjectPublicKeyInfo::from_der(&key.subject_public_key_info())?,
            pkcs8: key.serialize_der(),
        })
    }

    fn certify(
        &self,
        params: &CertificateParams,
        issuer: &Issuer<'_, KeyPair>,
    ) -> Result<rcgen::Certificate> {
        Ok(params.signed_by(&self.public, issuer)?)
    }
}

/// An RSA key, which rcgen cannot make here.
pub struct RsaKey {
    /// PKCS #8.
    pub pkcs8: Vec<u8>,
    /// The subject public key info.
    pub public: Vec<u8>,
    /// The modulus, big-endian.
    pub modulus: Vec<u8>,
    /// The public exponent, big-endian.
    pub exponent: Vec<u8>,
}

impl RsaKey {
    /// A new key.
    pub fn generate(bits: usize) -> Result<Self> {
        let key = rsa::PrivateKey::new(&mut rand::rng(), bits)?;
        let public = key.to_public_key();
        Ok(Self {
            pkcs8: key.to_pkcs8_der()?.as_bytes().to_vec(),
            public: public.to_public_key_der()?.into_vec(),
            modulus: public.n_bytes().to_vec(),
            exponent: public.e_bytes().to_vec(),
        })
    }

    /// As one that signs.
    pub fn key_pair(&self) -> Result<KeyPair> {
        let pkcs8 = PrivatePkcs8KeyDer::from(self.pkcs8.as_slice());
        Ok(KeyPair::from_pkcs8_der_and_sign_algo(
            &pkcs8,
            &rcgen::PKCS_RSA_SHA256,
        )?)
    }
}

/// An RSA key of any length: rustls signs with no short one.
#[derive(Clone, Debug)]
struct AnyRsa(rsa::PrivateKey);

impl SigningKey for AnyRsa {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let offered = offered.contains(&SignatureScheme::RSA_PSS_SHA256);
        offered.then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::RSA
    }
}

impl Signer for AnyRsa {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let key = rsa::pss::SigningKey::<Sha256>::new(self.0.clone());
        let signature = key.try_sign_with_rng(&mut rand::rng(), message);
        let signature = signature.map_err(|error| rustls::Error::General(error.to_string()))?;
        Ok(signature.to_vec())
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::RSA_PSS_SHA256
    }
}

/// One name in a subject alternative name, or something in its place.
#[derive(Clone, Debug)]
pub enum San {
    /// otherName hardwareModuleName (RFC 4108, 5) of [`HW_TYPE`] with this serial.
    HardwareModule(Vec<u8>),
    /// otherName permanentIdentifier (RFC 4043) with this value.
    Permanent(String),
    /// uniformResourceIdentifier.
    Uri(String),
    /// dNSName.
    Dns(String),
}

impl San {
    fn der(&self) -> Vec<u8> {
        // id-on-hardwareModuleName, id-on-permanentIdentifier and HW_TYPE as DER.
        const HARDWARE_MODULE: [u8; 10] = [6, 8, 0x2b, 6, 1, 5, 5, 7, 8, 4];
        const PERMANENT: [u8; 10] = [6, 8, 0x2b, 6, 1, 5, 5, 7, 8, 3];
        const HW_TYPE_DER: [u8; 11] = [6, 9, 0x2b, 6, 1, 4, 1, 0x81, 0xfd, 0x59, 1];
        let other = |id: &[u8], value: &[u8]| tlv(0xa0, &[id, &tlv(0xa0, value)].concat());
        match self {
            Self::HardwareModule(serial) => {
                let name = tlv(0x30, &[&HW_TYPE_DER[..], &tlv(4, serial)].concat());
                other(&HARDWARE_MODULE, &name)
            }
            Self::Permanent(value) => other(&PERMANENT, &tlv(0x30, &tlv(0x0c, value.as_bytes()))),
            Self::Uri(uri) => tlv(0x86, uri.as_bytes()),
            Self::Dns(name) => tlv(0x82, name.as_bytes()),
        }
    }
}

/// One DER element.
pub fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let length = length
        .iter()
        .copied()
        .skip_while(|octet| *octet == 0)
        .collect::<Vec<_>>();
    let mut der = vec![tag];
    match length.as_slice() {
        [] => der.push(0),
        [short @ 0..=127] => der.push(*short),
        long => {
            der.push(0x80 | u8::try_from(long.len()).unwrap_or(0x7f));
            der.extend_from_slice(long);
        }
    }
    der.extend_from_slice(content);
    der
}

/// What a device's certificate says.
#[derive(Clone)]
pub struct Spec {
    /// The serialNumber in the subject.
    pub serial: Option<String>,
    /// The common name in the subject.
    pub common_name: Option<String>,
    /// The subject alternative names.
    pub sans: Vec<San>,
    /// Its life in seconds from now.
    pub life: (i64, i64),
    /// The extended key usage; empty for none.
    pub purposes: Vec<ExtendedKeyUsagePurpose>,
    /// The key usage; empty for none.
    pub usages: Vec<KeyUsagePurpose>,
    /// Is it a CA?
    pub is_ca: bool,
    /// Other extensions.
    pub extensions: Vec<CustomExtension>,
    /// The kind of its key.
    pub key: KeyKind,
}

impl Spec {
    /// A good certificate of the device with this serial, in `subject.serial_number`.
    pub fn device(serial: &str) -> Self {
        Self {
            serial: Some(serial.to_owned()),
            ..Self::nameless()
        }
    }

    /// A good certificate that names no device.
    pub fn nameless() -> Self {
        Self {
            serial: None,
            common_name: Some("a device".to_owned()),
            sans: Vec::new(),
            life: (-3600, 90 * 86_400),
            purposes: vec![ExtendedKeyUsagePurpose::ClientAuth],
            usages: vec![KeyUsagePurpose::DigitalSignature],
            is_ca: false,
            extensions: Vec::new(),
            key: KeyKind::P256,
        }
    }

    fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        if let Some(name) = &self.common_name {
            params
                .distinguished_name
                .push(DnType::CommonName, name.as_str());
        }
        if let Some(serial) = &self.serial {
            let value = match PrintableString::try_from(serial.as_str()) {
                Ok(text) => DnValue::PrintableString(text),
                Err(_) => DnValue::Utf8String(serial.clone()),
            };
            params
                .distinguished_name
                .push(DnType::CustomDnType(vec![2, 5, 4, 5]), value);
        }
        if !self.sans.is_empty() {
            let names = self.sans.iter().flat_map(San::der).collect::<Vec<_>>();
            let names = CustomExtension::from_oid_content(&[2, 5, 29, 17], tlv(0x30, &names));
            params.custom_extensions.push(names);
        }
        params
            .custom_extensions
            .extend(self.extensions.iter().cloned());
        if self.is_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        params.key_usages.clone_from(&self.usages);
        params.extended_key_usages.clone_from(&self.purposes);
        params.use_authority_key_identifier_extension = true;
        let mut serial = rand::random::<[u8; 16]>();
        serial[0] &= 0x7f;
        serial[0] |= 0x40;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        let now = now_seconds();
        set_validity(&mut params, now + self.life.0, now + self.life.1);
        params
    }
}
