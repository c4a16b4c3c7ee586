//! Content digests, and the newtypes that keep one kind of digest from being taken for another.
//!
//! A [`Digest`] is always SHA-256, the one algorithm that every registry and reader accepts
//! (OCI image spec 1.1, `descriptor.md`, "Digests"). BLAKE3 serves inside the store only, as
//! [`CacheKey`]. Nothing here reads a file or knows what the bytes mean.

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// A SHA-256 digest, written `sha256:<64 lower-case hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// Why a string is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid digest `{0}`: expected `sha256:` and 64 lower-case hex digits")]
pub struct InvalidDigest(pub String);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest whose raw 32 bytes are already known.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 hex digits without the algorithm.
    pub fn hex(&self) -> String {
        to_hex(&self.0)
    }
}

fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        out.push(DIGITS[usize::from(byte >> 4)] as char);
        out.push(DIGITS[usize::from(byte & 15)] as char);
    }
    out
}

fn from_hex(hex: &str) -> Option<[u8; 32]> {
    let nibble = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let bytes: &[u8; 64] = hex.as_bytes().try_into().ok()?;
    let mut out = [0; 32];
    for (i, pair) in bytes.chunks_exact(2).enumerate() {
        out[i] = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(out)
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        text.strip_prefix("sha256:")
            .and_then(from_hex)
            .map(Self)
            .ok_or_else(|| InvalidDigest(text.to_owned()))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

macro_rules! digest_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Digest);

        impl $name {
            /// The 64 hex digits without the algorithm.
            pub fn hex(&self) -> String {
                self.0.hex()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidDigest;

            fn from_str(text: &str) -> Result<Self, InvalidDigest> {
                text.parse().map(Self)
            }
        }
    };
}

digest_newtype! {
    /// Digest of a blob as a registry stores it: a compressed or plain layer, a config, a manifest.
    BlobDigest
}
digest_newtype! {
    /// Digest of a layer's uncompressed tar stream (OCI image spec, `config.md`, "Layer DiffID").
    DiffId
}
digest_newtype! {
    /// Digest of a stack of layers (OCI image spec, `config.md`, "Layer ChainID").
    ChainId
}
digest_newtype! {
    /// Digest of an image's config, the image's name in `rbuild images`, as in Docker.
    ImageId
}

impl ChainId {
    /// The chain ID of `layers`, lowest first; `None` for an empty stack.
    pub fn of(layers: &[DiffId]) -> Option<Self> {
        let (first, rest) = layers.split_first()?;
        Some(rest.iter().fold(Self(first.0), |chain, diff_id| {
            Self(Digest::of(format!("{chain} {diff_id}").as_bytes()))
        }))
    }
}

/// A cache key: BLAKE3 over a canonical, length-framed form. Internal to one store, never
/// exported and never mistaken for an OCI digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CacheKey([u8; 32]);

impl CacheKey {
    /// From the raw 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The raw 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// 64 lower-case hex digits.
    pub fn hex(&self) -> String {
        to_hex(&self.0)
    }
}

impl fmt::Display for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex())
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CacheKey({self})")
    }
}

impl FromStr for CacheKey {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        from_hex(text)
            .map(Self)
            .ok_or_else(|| InvalidDigest(text.to_owned()))
    }
}

/// Builds a [`CacheKey`] from length-framed fields, so that no two different sequences of
/// fields give the same input (`"ab", "c"` and `"a", "bc"` differ).
#[derive(Clone)]
pub struct CacheKeyBuilder {
    hasher: blake3::Hasher,
    /// Fields not hashed yet: a long run of bytes is hashed several times as fast as short ones.
    pending: Vec<u8>,
}

/// Bytes that BLAKE3 hashes side by side on wide processors.
const HASHED_AT_ONCE: usize = 16 << 10;

impl CacheKeyBuilder {
    /// Starts a key in a domain of its own; keys of different domains never collide.
    pub fn new(domain: &str) -> Self {
        let mut builder = Self {
            hasher: blake3::Hasher::new(),
            pending: Vec::new(),
        };
        builder.field(domain.as_bytes());
        builder
    }

    /// Adds one field.
    pub fn field(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes(&(bytes.len() as u64).to_le_bytes()).bytes(bytes)
    }

    /// Adds a number.
    pub fn number(&mut self, number: u64) -> &mut Self {
        self.bytes(&number.to_le_bytes())
    }

    /// Adds another key.
    pub fn key(&mut self, key: &CacheKey) -> &mut Self {
        self.bytes(&key.0)
    }

    /// The key of all fields added so far.
    pub fn finish(&self) -> CacheKey {
        let mut hasher = self.hasher.clone();
        CacheKey(*hasher.update(&self.pending).finalize().as_bytes())
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= HASHED_AT_ONCE {
            self.hasher.update(&self.pending);
            self.pending.clear();
        }
        self
    }
}

/// Hashes everything that is written to or read from the stream inside it.
pub struct HashingStream<S> {
    inner: S,
    hasher: Sha256,
    bytes: u64,
}

impl<S> HashingStream<S> {
    /// Wraps `inner`; nothing has been hashed yet.
    pub fn new(inner: S) -> Self {
        Self {
            inner,
            hasher: Sha256::new(),
            bytes: 0,
        }
    }

    /// Gives back the inner stream, the digest of all that went through, and how many bytes that was.
    pub fn finish(self) -> (S, Digest, u64) {
        (
            self.inner,
            Digest(self.hasher.finalize().into()),
            self.bytes,
        )
    }

    /// The number of bytes that have gone through.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl<W: Write> Write for HashingStream<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(buf)?;
        self.hasher.update(&buf[..n]);
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<R: Read> Read for HashingStream<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.hasher.update(&buf[..n]);
        self.bytes += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn digest_round_trips_through_text() {
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
        assert_eq!(EMPTY.parse::<Digest>(), Ok(Digest::of(b"")));
    }

    #[test]
    fn malformed_digests_are_refused() {
        for text in [
            "",
            "sha256:",
            "sha512:00",
            &EMPTY.to_uppercase(),
            &EMPTY[..70],
            "sha256:/../../../../../../../../../../../../../../../../../../../../etc",
        ] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }

    #[test]
    fn chain_id_of_one_layer_is_its_diff_id() {
        let a = DiffId(Digest::of(b"a"));
        let b = DiffId(Digest::of(b"b"));
        assert_eq!(ChainId::of(&[]), None);
        assert_eq!(ChainId::of(&[a]), Some(ChainId(a.0)));
        assert_eq!(
            ChainId::of(&[a, b]),
            Some(ChainId(Digest::of(format!("{a} {b}").as_bytes())))
        );
    }

    #[test]
    fn fields_are_framed() {
        let key = |fields: &[&str]| {
            let mut builder = CacheKeyBuilder::new("test");
            for field in fields {
                builder.field(field.as_bytes());
            }
            builder.finish()
        };
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
        assert_eq!(key(&["ab", "c"]), key(&["ab", "c"]));
    }

    #[test]
    fn streams_are_hashed_as_they_pass() {
        let mut stream = HashingStream::new(Vec::new());
        stream.write_all(b"hello").unwrap();
        let (bytes, digest, len) = stream.finish();
        assert_eq!(
            (bytes.as_slice(), digest, len),
            (&b"hello"[..], Digest::of(b"hello"), 5)
        );
    }
}
