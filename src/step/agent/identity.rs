//! Private keys in files: OpenSSH's own format, and PEM as older programs write it.
//!
//! Ed25519, ECDSA on P-256 and P-384, and RSA from 2048 to 4096 bits, none with a passphrase. A
//! key is checked as a whole when it is read. Nothing of it is ever shown.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::rsa::{KeyPairComponents, PublicKeyComponents};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512, RsaKeyPair,
};

use super::protocol::{Fields, put_integer, put_string, without_zeros};

/// In a request to sign: by which hash an RSA key signs.
const RSA_SHA2_256: u32 = 2;
const RSA_SHA2_512: u32 = 4;

const NISTP256: (&str, &str) = ("ecdsa-sha2-nistp256", "nistp256");
const NISTP384: (&str, &str) = ("ecdsa-sha2-nistp384", "nistp384");

/// Why a file is no key that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// No key at all.
    #[error("it is no private key")]
    NoKey,
    /// Encrypted.
    #[error("it has a passphrase: load it into an agent with `ssh-add`, and name the agent")]
    Passphrase,
    /// Of a kind that needs more than this program.
    #[error(
        "it is neither an Ed25519 nor an ECDSA (P-256, P-384) nor an RSA key (2048 to 4096 bits): \
         load it into an agent with `ssh-add`, and name the agent"
    )]
    Kind,
    /// Of an older format that isn't read.
    #[error("its format is old: `ssh-keygen -p -f FILE` writes it anew")]
    Format,
    /// Its parts don't fit each other.
    #[error("it is damaged")]
    Damaged,
}

/// A key that signs.
pub(super) struct Identity {
    secret: Secret,
    public: Vec<u8>,
    comment: String,
}

enum Secret {
    Ed25519(Ed25519KeyPair),
    Ecdsa(EcdsaKeyPair, &'static str),
    Rsa(Box<RsaKeyPair>),
}

impl Identity {
    /// Reads the content of a file.
    pub(super) fn parse(text: &[u8]) -> Result<Self, InvalidKey> {
        let text = std::str::from_utf8(text).map_err(|_| InvalidKey::NoKey)?;
        let (label, lines) = armored(text).ok_or(InvalidKey::NoKey)?;
        if lines.iter().any(|line| line.contains("ENCRYPTED")) {
            return Err(InvalidKey::Passphrase);
        }
        let body = STANDARD
            .decode(lines.concat())
            .map_err(|_| InvalidKey::NoKey)?;
        match label {
            "OPENSSH PRIVATE KEY" => openssh(&body),
            "ENCRYPTED PRIVATE KEY" => Err(InvalidKey::Passphrase),
            "PRIVATE KEY" => pkcs8(&body),
            "RSA PRIVATE KEY" => {
                let key = RsaKeyPair::from_der(&body).map_err(|_| InvalidKey::Kind)?;
                Ok(Self::rsa(key, String::new()))
            }
            "EC PRIVATE KEY" => Err(InvalidKey::Format),
            _ if label.ends_with("PRIVATE KEY") => Err(InvalidKey::Kind),
            _ => Err(InvalidKey::NoKey),
        }
    }

    fn ed25519(key: Ed25519KeyPair, comment: String) -> Self {
        let mut public = Vec::new();
        put_string(&mut public, b"ssh-ed25519");
        put_string(&mut public, key.public_key().as_ref());
        Self {
            secret: Secret::Ed25519(key),
            public,
            comment,
        }
    }

    fn ecdsa(key: EcdsaKeyPair, name: (&'static str, &str), comment: String) -> Self {
        let mut public = Vec::new();
        put_string(&mut public, name.0.as_bytes());
        put_string(&mut public, name.1.as_bytes());
        put_string(&mut public, key.public_key().as_ref());
        Self {
            secret: Secret::Ecdsa(key, name.0),
            public,
            comment,
        }
    }

    fn rsa(key: RsaKeyPair, comment: String) -> Self {
        let parts = PublicKeyComponents::<Vec<u8>>::from(key.public());
        let mut public = Vec::new();
        put_string(&mut public, b"ssh-rsa");
        put_integer(&mut public, &parts.e);
        put_integer(&mut public, &parts.n);
        Self {
            secret: Secret::Rsa(Box::new(key)),
            public,
            comment,
        }
    }

    /// The public key, as the protocol has it.
    pub(super) fn public(&self) -> &[u8] {
        &self.public
    }

    /// Its name.
    pub(super) fn comment(&self) -> &str {
        &self.comment
    }

    /// Signs; `None` where this can't be done in the way that `flags` wants it. SHA-1, which
    /// servers have stopped to accept, is not had.
    pub(super) fn sign(&self, data: &[u8], flags: u32) -> Option<Vec<u8>> {
        let mut signature = Vec::new();
        match &self.secret {
            Secret::Ed25519(key) => {
                put_string(&mut signature, b"ssh-ed25519");
                put_string(&mut signature, key.sign(data).as_ref());
            }
            Secret::Ecdsa(key, name) => {
                let signed = key.sign(&SystemRandom::new(), data).ok()?;
                let (r, s) = signed.as_ref().split_at(signed.as_ref().len() / 2);
                let mut numbers = Vec::new();
                put_integer(&mut numbers, r);
                put_integer(&mut numbers, s);
                put_string(&mut signature, name.as_bytes());
                put_string(&mut signature, &numbers);
            }
            Secret::Rsa(key) => {
                let (name, padding): (_, &dyn ring::signature::RsaEncoding) =
                    if flags & RSA_SHA2_512 != 0 {
                        ("rsa-sha2-512", &RSA_PKCS1_SHA512)
                    } else if flags & RSA_SHA2_256 != 0 {
                        ("rsa-sha2-256", &RSA_PKCS1_SHA256)
                    } else {
                        return None;
                    };
                let mut signed = vec![0; key.public().modulus_len()];
                key.sign(padding, &SystemRandom::new(), data, &mut signed)
                    .ok()?;
                put_string(&mut signature, name.as_bytes());
                put_string(&mut signature, &signed);
            }
        }
        Some(signature)
    }
}

/// The label and the lines between `-----BEGIN …-----` and `-----END …-----`.
fn armored(text: &str) -> Option<(&str, Vec<&str>)> {
    let mut lines = text.lines().map(str::trim);
    let label = lines.find_map(|line| line.strip_prefix("-----BEGIN ")?.strip_suffix("-----"))?;
    let mut body = Vec::new();
    for line in lines {
        if line.starts_with("-----END ") {
            return Some((label, body));
        }
        body.push(line);
    }
    None
}

fn pkcs8(body: &[u8]) -> Result<Identity, InvalidKey> {
    let random = SystemRandom::new();
    if let Ok(key) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(body) {
        return Ok(Identity::ed25519(key, String::new()));
    }
    for (algorithm, name) in curves() {
        if let Ok(key) = EcdsaKeyPair::from_pkcs8(algorithm, body, &random) {
            return Ok(Identity::ecdsa(key, name, String::new()));
        }
    }
    let key = RsaKeyPair::from_pkcs8(body).map_err(|_| InvalidKey::Kind)?;
    Ok(Identity::rsa(key, String::new()))
}

fn curves() -> [(&'static EcdsaSigningAlgorithm, (&'static str, &'static str)); 2] {
    [
        (&ECDSA_P256_SHA256_FIXED_SIGNING, NISTP256),
        (&ECDSA_P384_SHA384_FIXED_SIGNING, NISTP384),
    ]
}

/// OpenSSH's format, as its `PROTOCOL.key` has it.
fn openssh(body: &[u8]) -> Result<Identity, InvalidKey> {
    let mut file = Fields(
        body.strip_prefix(b"openssh-key-v1\0")
            .ok_or(InvalidKey::NoKey)?,
    );
    let (cipher, _, _) = damaged((|| Some((file.string()?, file.string()?, file.string()?)))())?;
    if cipher != b"none" {
        return Err(InvalidKey::Passphrase);
    }
    let private = (|| {
        let count = file.number()?;
        let _public = file.string()?;
        (count == 1).then_some(file.string()?)
    })();
    let mut private = Fields(damaged(private)?);
    let check = damaged((|| Some(private.number()? == private.number()?))())?;
    if !check {
        return Err(InvalidKey::Damaged);
    }
    let kind = damaged(private.string())?;
    let curve = curves()
        .into_iter()
        .find(|(_, (name, _))| name.as_bytes() == kind);
    match (kind, curve) {
        (b"ssh-ed25519", _) => {
            let public = damaged(private.string())?;
            // The seed, and the public key again.
            let seed = damaged(damaged(private.string())?.get(..32))?;
            let key = Ed25519KeyPair::from_seed_and_public_key(seed, public)
                .map_err(|_| InvalidKey::Damaged)?;
            Ok(Identity::ed25519(key, comment(&mut private)))
        }
        (_, Some((algorithm, name))) => {
            let _curve = damaged(private.string())?;
            let public = damaged(private.string())?;
            let size = (public.len().saturating_sub(1)) / 2;
            let number = damaged(padded(damaged(private.string())?, size))?;
            let random = SystemRandom::new();
            let key =
                EcdsaKeyPair::from_private_key_and_public_key(algorithm, &number, public, &random)
                    .map_err(|_| InvalidKey::Damaged)?;
            Ok(Identity::ecdsa(key, name, comment(&mut private)))
        }
        (b"ssh-rsa", _) => {
            let key = rsa(&mut private)?;
            Ok(Identity::rsa(key, comment(&mut private)))
        }
        _ => Err(InvalidKey::Kind),
    }
}

fn damaged<T>(part: Option<T>) -> Result<T, InvalidKey> {
    part.ok_or(InvalidKey::Damaged)
}

fn comment(private: &mut Fields<'_>) -> String {
    String::from_utf8_lossy(private.string().unwrap_or_default()).into_owned()
}

fn rsa(private: &mut Fields<'_>) -> Result<RsaKeyPair, InvalidKey> {
    let mut next = || private.string().map(without_zeros);
    let parts = (|| Some([next()?, next()?, next()?, next()?, next()?, next()?]))();
    let [n, e, d, q_inverse, p, q] = damaged(parts)?;
    // Before anything is computed with them.
    if !(256..=512).contains(&n.len()) {
        return Err(InvalidKey::Kind);
    }
    if [e, d, q_inverse, p, q]
        .iter()
        .any(|part| part.is_empty() || part.len() > n.len())
    {
        return Err(InvalidKey::Damaged);
    }
    let (d_p, d_q) = (remainder(d, &minus_one(p)), remainder(d, &minus_one(q)));
    let components = KeyPairComponents {
        public_key: PublicKeyComponents { n, e },
        d,
        p,
        q,
        dP: without_zeros(&d_p),
        dQ: without_zeros(&d_q),
        qInv: q_inverse,
    };
    RsaKeyPair::from_components(&components).map_err(|_| InvalidKey::Damaged)
}

/// A number as so many bytes; `None` where it is larger.
fn padded(number: &[u8], size: usize) -> Option<Vec<u8>> {
    let number = without_zeros(number);
    let mut bytes = vec![0; size.checked_sub(number.len())?];
    bytes.extend(number);
    Some(bytes)
}

/// An odd number, less one.
fn minus_one(number: &[u8]) -> Vec<u8> {
    let mut number = number.to_vec();
    if let Some(last) = number.last_mut() {
        *last &= 0xfe;
    }
    number
}

/// `number` modulo `modulus`, both highest byte first: long division, bit by bit. The exponents of
/// an RSA key that OpenSSH leaves out of its files.
fn remainder(number: &[u8], modulus: &[u8]) -> Vec<u8> {
    // One byte more, for a bit is shifted in before the modulus is taken away.
    let mut modulus: Vec<u8> = without_zeros(modulus).to_vec();
    modulus.insert(0, 0);
    let mut rest = vec![0; modulus.len()];
    for byte in number {
        for bit in (0..8).rev() {
            let mut carry = (byte >> bit) & 1;
            for digit in rest.iter_mut().rev() {
                let next = *digit >> 7;
                *digit = (*digit << 1) | carry;
                carry = next;
            }
            if rest >= modulus {
                subtract(&mut rest, &modulus);
            }
        }
    }
    rest
}

/// Takes `other` from a number that is at least as large and has as many bytes.
fn subtract(number: &mut [u8], other: &[u8]) {
    let mut borrow = false;
    for (digit, other) in number.iter_mut().zip(other).rev() {
        let (less, first) = digit.overflowing_sub(*other);
        let (less, second) = less.overflowing_sub(u8::from(borrow));
        *digit = less;
        borrow = first || second;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pem(label: &str, body: &[u8]) -> Vec<u8> {
        let body = STANDARD.encode(body);
        format!("a comment\n-----BEGIN {label}-----\n{body}\n-----END {label}-----\n").into_bytes()
    }

    /// A key of seed 1, 1, 1, … in OpenSSH's format.
    fn ed25519(cipher: &str, check: u32) -> Vec<u8> {
        let seed = [1; 32];
        let public = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
        let public = public.public_key().as_ref();
        let mut private = Vec::new();
        private.extend(7u32.to_be_bytes());
        private.extend(check.to_be_bytes());
        put_string(&mut private, b"ssh-ed25519");
        put_string(&mut private, public);
        put_string(&mut private, &[&seed, public].concat());
        put_string(&mut private, b"me@here");
        let mut body = b"openssh-key-v1\0".to_vec();
        put_string(&mut body, cipher.as_bytes());
        put_string(&mut body, cipher.as_bytes());
        put_string(&mut body, b"");
        body.extend(1u32.to_be_bytes());
        put_string(&mut body, b"");
        put_string(&mut body, &private);
        body
    }

    #[test]
    fn a_key_has_its_name_and_signs() {
        let key = Identity::parse(&pem("OPENSSH PRIVATE KEY", &ed25519("none", 7))).unwrap();
        assert_eq!(key.comment(), "me@here");
        let mut public = Fields(key.public());
        assert_eq!(public.string(), Some(&b"ssh-ed25519"[..]));
        let public = public.string().unwrap();
        let signature = key.sign(b"data", 0).unwrap();
        let mut signature = Fields(&signature);
        assert_eq!(signature.string(), Some(&b"ssh-ed25519"[..]));
        ring::signature::UnparsedPublicKey::new(&ring::signature::ED25519, public)
            .verify(b"data", signature.string().unwrap())
            .unwrap();
    }

    #[test]
    fn what_is_no_key_says_why() {
        let whole = ed25519("none", 7);
        for (label, body, expected) in [
            (
                "OPENSSH PRIVATE KEY",
                &b"openssh-key-v2"[..],
                InvalidKey::NoKey,
            ),
            (
                "OPENSSH PRIVATE KEY",
                &ed25519("aes256-ctr", 7),
                InvalidKey::Passphrase,
            ),
            (
                "OPENSSH PRIVATE KEY",
                &ed25519("none", 8),
                InvalidKey::Damaged,
            ),
            (
                "OPENSSH PRIVATE KEY",
                &whole[..whole.len() / 2],
                InvalidKey::Damaged,
            ),
            ("ENCRYPTED PRIVATE KEY", b"x", InvalidKey::Passphrase),
            ("EC PRIVATE KEY", b"x", InvalidKey::Format),
            ("DSA PRIVATE KEY", b"x", InvalidKey::Kind),
            ("PRIVATE KEY", b"x", InvalidKey::Kind),
            ("RSA PRIVATE KEY", b"x", InvalidKey::Kind),
            ("CERTIFICATE", b"x", InvalidKey::NoKey),
        ] {
            let found = Identity::parse(&pem(label, body)).err();
            assert_eq!(found, Some(expected), "{label}");
        }
        let encrypted = b"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n\
                          -----END RSA PRIVATE KEY-----\n";
        assert_eq!(
            Identity::parse(encrypted).err(),
            Some(InvalidKey::Passphrase)
        );
        for text in [&b""[..], b"\xff", b"-----BEGIN PRIVATE KEY-----\nAAAA\n"] {
            assert_eq!(Identity::parse(text).err(), Some(InvalidKey::NoKey));
        }
    }

    proptest! {
        #[test]
        fn remainders_are_those_of_arithmetic(number: u128, modulus in 1u128..) {
            let found = remainder(&number.to_be_bytes(), &modulus.to_be_bytes());
            let expected = (number % modulus).to_be_bytes();
            prop_assert_eq!(without_zeros(&found), without_zeros(&expected));
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes: Vec<u8>, cut in 0usize..300, at in 0usize..300, with: u8) {
            let _ = openssh(&bytes);
            let mut key = ed25519("none", 7);
            if let Some(byte) = key.get_mut(at) {
                *byte = with;
            }
            key.truncate(cut);
            let _ = openssh(&key);
        }
    }
}
